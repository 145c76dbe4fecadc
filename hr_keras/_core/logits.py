"""Logits of any Keras classifier, found behind a softmax or sigmoid."""

import contextlib
import weakref
from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from hr_keras._core import replicas
from hr_keras._core.compiled import structure
from hr_keras._core.model_graph import (
    draws_random_numbers,
    ends_in_function,
    final_activation,
    find_features,
    run_model,
)
from hr_keras._core.model_graph import known_logits as known_logits
from hr_keras._core.unknown_logits import warn_of_unknown_logits

_Cache = weakref.WeakKeyDictionary[keras.Model, tuple[Hashable, Any]]
_OUTPUTS: _Cache = weakref.WeakKeyDictionary()

# What a dense layer or convolution without an activation ends in.
_LINEAR_OPS = ("BiasAdd", "MatMul", "Add", "AddV2", "Conv2D")


def check_backend() -> None:
    """Raises a ValueError unless Keras runs on TensorFlow, which the attacks are written in."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Attacks, `evaluation.sweep`, `FGSMCallback` and `logits_model` need the TensorFlow "
            "backend: set KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: keras.backend.backend()={keras.backend.backend()!r}"
        )


class ClassifierOutput(NamedTuple):
    """What a classifier returns.

    Attributes:
        kind: `"softmax"` or `"sigmoid"`: one whose logits are known. `"probabilities"`: rows that
            are not negative and sum to 1, or one number from 0 to 1 (seen on a probe batch),
            made in another way. `"logits"`: anything else.
        num_classes: Number of classes; 2 for a model with one output.
        input_dtype: The dtype of the images that the model takes.
        is_single: Whether there is one output z, for which the logits are (0, z).
        is_random: Whether the model draws random numbers at inference.
        fixed_batch: The only number of images that the model takes, or `None`.
        inline: Whether it ends in a tf.function, see `run_model`.
    """

    kind: Literal["softmax", "sigmoid", "probabilities", "logits"]
    num_classes: int
    input_dtype: str
    is_single: bool = False
    is_random: bool = False
    fixed_batch: int | None = None
    inline: bool = False


def classifier_output(model: keras.Model, images: Any = None) -> ClassifierOutput:
    """Finds out what a classifier returns, by tracing it once.

    Args:
        model: A Keras classifier, `(n, ...)` → `(n, classes)`, or `(n, 1)` for two classes.
        images: A few inputs. Needed only for a subclassed model that was never called.

    Returns:
        A `ClassifierOutput`.

    Raises:
        ValueError: If the output is not one tensor of this shape, or the backend is not TensorFlow.
    """
    check_backend()
    check_keras_model(model)
    import tensorflow as tf

    layers_now = structure(model)
    if _OUTPUTS.get(model, (None, None))[0] != layers_now:
        if images is not None and not model.built:
            model(images[:1], training=False)
        replicas.warn_of_unsynchronized(model)
        # The caller may be building a graph. Elsewhere not: it stops the tapes inside a model.
        outside = contextlib.nullcontext() if tf.executing_eagerly() else tf.init_scope()
        with outside:
            _OUTPUTS[model] = structure(model), _find_output(model)
        if _OUTPUTS[model][1].kind == "probabilities":
            warn_of_unknown_logits(model.name)
    return _OUTPUTS[model][1]


def check_keras_model(model: Any) -> None:
    """Raises a ValueError unless it is a model of Keras 3."""
    if isinstance(model, keras.Model):
        return
    received = f"{type(model).__name__}"
    modules = [kind.__module__ for kind in type(model).__mro__]
    if any(name.startswith(("tf_keras.", "tensorflow.python.keras.")) for name in modules):
        received += (
            " of tf_keras (Keras 2). Save it there as an .h5 file, and load this by "
            f"keras.models.load_model(…, compile=False) of Keras {keras.__version__}"
        )
    raise ValueError(f"`model` must be a keras.Model. Received: {received}")


def _find_output(model: keras.Model, inline: bool = False) -> ClassifierOutput:
    import tensorflow as tf

    seen = []

    def look(images):
        inputs = model.fill(images) if hasattr(model, "attacked_spec") else images
        outputs = run_model(model, inputs, inline)
        seen.append((outputs, final_activation(outputs) if tf.is_tensor(outputs) else None))
        return outputs

    batch, shape, dtype = input_spec(model)
    traced = tf.function(look)
    graph = traced.get_concrete_function(tf.TensorSpec((batch, *shape), dtype)).graph
    outputs, activation = seen[-1]
    if ends_in_function(outputs) and not inline:
        with contextlib.suppress(Exception):  # what autograph must convert, for one
            return _find_output(model, inline=True)
    probe = np.random.default_rng(0).random((batch or 8, *(size or 32 for size in shape)))
    values = None
    output_shape = getattr(outputs, "shape", None)
    if output_shape is not None and output_shape.rank is None:  # as behind a `tf.py_function`
        values = traced(tf.cast(probe, dtype))
        output_shape = values.shape
    width = _count_outputs(model, output_shape, outputs)
    classes, single = max(width, 2), width == 1
    is_random = draws_random_numbers(graph)
    found = ClassifierOutput("logits", classes, dtype, single, is_random, batch, inline)
    if activation is not None:
        if single and activation.kind == "softmax":
            raise ValueError(
                "A softmax over one class is always 1: use a sigmoid, or 2 classes. "
                f"Received: model {model.name!r} with one softmax output"
            )
        return found._replace(kind=activation.kind)
    values = traced(tf.cast(probe, dtype)) if values is None else values
    values = np.asarray(ops.cast(values, "float32")).reshape(-1, width)
    if single:  # logits may happen to be in [0, 1], but those of a dense layer are never meant so
        normalised = (values <= 1).all() and outputs.op.type not in _LINEAR_OPS
    else:
        normalised = np.allclose(values.sum(axis=-1), 1.0, atol=1e-2)
    return found._replace(kind="probabilities") if normalised and (values >= 0).all() else found


def _count_outputs(model: keras.Model, shape: Any, outputs: Any) -> int:
    """Returns the size of the last axis of the outputs, 1 for those of shape `(n,)`."""
    if shape is not None and len(shape) == 1:
        return 1
    if shape is None or len(shape) != 2 or not shape[-1]:
        raise ValueError(
            "A classifier must return one tensor of shape (n, classes) with at least 2 classes, "
            "or (n, 1); decisions for each pixel are not attacked, and of several outputs choose "
            f"one by `models.attack_view`. Received: model {model.name!r} returning "
            f"{shape if shape is not None else type(outputs).__name__}"
        )
    return int(shape[-1])


def input_spec(model: keras.Model) -> tuple[int | None, tuple[int | None, ...], str]:
    """Returns the batch size if it is fixed, the shape of an image and the dtype of the input."""
    if hasattr(model, "attacked_spec"):  # a view, see `attack_view`
        return model.attacked_spec()
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) != 1:
            raise ValueError(
                f"A classifier must take one input. Received: model {model.name!r} "
                f"with {len(inputs)} inputs; see `attacked_input` of `models.attack_view`"
            )
        return inputs[0].shape[0], tuple(inputs[0].shape[1:]), inputs[0].dtype
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            f"The input shape of model {model.name!r} is not known: call it once on a batch "
            "of images first."
        )
    return None, tuple(shape[1:]), model.input_dtype


def logits_of(model: keras.Model, images: Any) -> Any:
    """Computes a model's logits, in float32 or better.

    Logits are taken from behind a final softmax or sigmoid. If a model returns probabilities
    made in another way, these are their logarithms, floored at the smallest normal float32
    (for one output p: log p − log(1 − p)). One output z stands for the logits (0, z).

    Args:
        model: A Keras classifier that was built.
        images: Tensor, `(n, ...)`, or the inputs of a view. In a TensorFlow graph the logits
            behind any softmax or sigmoid are found; in eager execution only those behind Keras'
            own, and otherwise the logarithms are taken.

    Returns:
        `(n, classes)`.
    """
    output = classifier_output(model)
    if output.fixed_batch is None:
        return _logits_of_batch(model, images, output)
    import tensorflow as tf

    size, n = output.fixed_batch, tf.shape(images)[0]
    copies = tf.repeat(images[-1:], -n % size, axis=0)
    batches = tf.reshape(tf.concat([images, copies], axis=0), (-1, size, *images.shape[1:]))
    dtype = "float64" if model.outputs[0].dtype == "float64" else "float32"
    logits = tf.map_fn(
        lambda batch: _logits_of_batch(model, batch, output),
        batches,
        fn_output_signature=tf.TensorSpec((size, output.num_classes), dtype),
    )
    return tf.reshape(logits, (-1, output.num_classes))[:n]


def _logits_of_batch(model: keras.Model, images: Any, output: ClassifierOutput) -> Any:
    outputs = run_model(model, images, output.inline)
    kind: str = output.kind
    activation = final_activation(outputs) if kind in ("softmax", "sigmoid") else None
    if activation is not None:
        outputs, kind = activation.logits, "logits"
    width = 1 if output.is_single else output.num_classes
    if outputs.shape.rank != 2 or outputs.shape[-1] != width:
        outputs = ops.reshape(outputs, (-1, width))
    if keras.backend.standardize_dtype(outputs.dtype) != "float64":
        outputs = ops.cast(outputs, "float32")
    if kind != "logits":
        tiny, probabilities = float(np.finfo("float32").tiny), outputs
        outputs = ops.log(ops.maximum(probabilities, tiny))
        if kind == "sigmoid" or output.is_single:
            outputs = outputs - ops.log(ops.maximum(1.0 - probabilities, tiny))
    if output.is_single:
        outputs = ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
    return outputs


def features_of(model: keras.Model, images: Any) -> Any:
    """Computes what a model's last dense layer is applied to, in a TensorFlow graph.

    Args:
        model: A Keras classifier that was built.
        images: Symbolic tensor, `(n, ...)`, or the inputs of a view.

    Returns:
        `(n, features)`, float32 or better; the logits if no dense layer made them.
    """
    outputs = run_model(model, images, classifier_output(model).inline)
    activation = final_activation(outputs)
    features = find_features(outputs if activation is None else activation.logits)
    if features is None or features.shape.rank != 2 or features.shape[-1] is None:
        return logits_of(model, images)
    wide = keras.backend.result_type(features.dtype, "float32")
    return ops.cast(features, wide)


def probabilities_of(model: keras.Model, images: Any) -> Any:
    """Computes the probabilities that a model returns, in its precision, `(n, classes)`.

    For logits, one output and sigmoids these are the softmax of the logits.
    """
    output = classifier_output(model)
    if output.kind == "sigmoid" or output.is_single or output.fixed_batch:
        return ops.softmax(logits_of(model, images))
    outputs = model(images, training=False)
    return ops.softmax(outputs) if output.kind == "logits" else outputs
