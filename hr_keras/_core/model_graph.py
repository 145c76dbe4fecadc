"""What a model's graph shows: the final softmax or sigmoid, the logits before it, randomness."""

import itertools
import sys
import threading
from typing import Any, Literal, NamedTuple

from keras import ops

# Operations of a TensorFlow graph that call another tf.function.
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# Operations of a TensorFlow graph that change no value.
_SHAPE_ONLY = ("Identity", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "Cast")

# Operations that may scale or shift logits.
_ELEMENTWISE = ("BiasAdd", "Add", "AddV2", "Sub", "Mul", "RealDiv")

_RUNNING_INLINE = threading.RLock()  # the setting is that of the process


class Activation(NamedTuple):
    """Holds the kind of a final activation and what it was applied to.

    Attributes:
        kind: `"softmax"` or `"sigmoid"`.
        logits: Of the shape of the outputs.
    """

    kind: Literal["softmax", "sigmoid"]
    logits: Any


def known_logits(outputs: Any) -> Any | None:
    """Returns the logits behind softmax outputs, if Keras or the TensorFlow graph knows them.

    Call this before you cast `outputs` or compute with it; see `final_activation`.

    Args:
        outputs: What a model returned, `(..., classes)`.

    Returns:
        Logits of the same shape, or `None` if they are not known.
    """
    found = final_activation(outputs)
    return found.logits if found is not None and found.kind == "softmax" else None


def final_activation(outputs: Any) -> Activation | None:
    """Finds the softmax or sigmoid that made the outputs of a model.

    In a TensorFlow graph the operation names its input. Casts, reshapes and identities between
    it and `outputs` are looked through. Outside a graph Keras attaches the logits to the
    output of its own softmax and sigmoid.

    Args:
        outputs: What a model returned, `(..., classes)`.

    Returns:
        An `Activation`, or `None` if the outputs were made in another way.
    """
    if _is_symbolic(outputs):
        return _find_in_graph(outputs)
    logits = getattr(outputs, "_keras_logits", None)
    if logits is None:
        return None
    # Keras does not say of which of the two these are the logits.
    if logits.shape[-1] > 1 and _is_close(ops.softmax(logits), outputs):
        return Activation("softmax", logits)
    return Activation("sigmoid", logits) if _is_close(ops.sigmoid(logits), outputs) else None


def run_model(model: Any, images: Any, inline: bool = False) -> Any:
    """Calls a model at inference.

    Args:
        model: A Keras model.
        images: `(n, ...)`.
        inline: Whether tf.functions inside the model become part of the graph, so that
            `final_activation` sees what they end in.
    """
    if not inline:
        return model(images, training=False)
    import tensorflow as tf

    with _RUNNING_INLINE:
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            return model(images, training=False)
        finally:
            tf.config.run_functions_eagerly(before)


def ends_in_function(outputs: Any) -> bool:
    """Tells whether a tensor of a graph is what another tf.function returned."""
    if not _is_symbolic(outputs):
        return False
    operation = outputs.op
    while operation.type in _SHAPE_ONLY:
        operation = operation.inputs[0].op
    return operation.type in CALLS


def _is_symbolic(tensor: Any) -> bool:
    """Tells whether it is a tensor of a TensorFlow graph."""
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return bool(tf.is_symbolic_tensor(tensor))


def _is_close(first: Any, second: Any) -> bool:
    return bool(ops.all(ops.abs(first - second) < 1e-2))


def _find_in_graph(outputs: Any) -> Activation | None:
    import tensorflow as tf

    operation = outputs.op
    if operation.type == "Softmax":
        return Activation("softmax", operation.inputs[0])
    if operation.type == "Sigmoid":
        return Activation("sigmoid", operation.inputs[0])
    if operation.type not in _SHAPE_ONLY:
        return None
    found = _find_in_graph(operation.inputs[0])
    if found is None or operation.type in ("Identity", "Cast"):
        return found
    rank, rank_before = outputs.shape.rank, found.logits.shape.rank
    if found.kind == "softmax" and (
        not rank or not rank_before or outputs.shape[-1] != found.logits.shape[-1]
    ):
        return None  # no longer one softmax per row
    return found._replace(logits=tf.reshape(found.logits, tf.shape(outputs)))


def draws_random_numbers(graph: Any) -> bool:
    """Tells whether a TensorFlow graph draws random numbers."""
    definition = graph.as_graph_def()
    functions = (function.node_def for function in definition.library.function)
    nodes = itertools.chain(definition.node, *functions)
    return any("Random" in node.op or "Multinomial" in node.op for node in nodes)


def find_features(logits: Any) -> Any | None:
    """Finds what the last dense layer was applied to, in a TensorFlow graph.

    Biases, scales, casts and reshapes between it and the logits are looked through.

    Args:
        logits: Symbolic tensor, `(n, classes)`.

    Returns:
        `(n, features)`, or `None` if the logits were made in another way.
    """
    operation = logits.op
    if operation.type == "MatMul" and not operation.get_attr("transpose_a"):
        return operation.inputs[0]
    is_fixed = [_is_fixed(tensor) for tensor in operation.inputs[1:]]
    if operation.type in _SHAPE_ONLY or (operation.type in _ELEMENTWISE and all(is_fixed)):
        return find_features(operation.inputs[0])
    return None


def _is_fixed(tensor: Any) -> bool:
    """Tells whether it is a constant or a variable, as it is or cast."""
    if tensor.op.type in ("Cast", "Identity"):
        return _is_fixed(tensor.op.inputs[0])
    return tensor.op.type in ("Const", "ReadVariableOp")
