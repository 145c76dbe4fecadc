"""Logits of any Keras classifier: found behind a softmax, and `logits_model`."""

import sys
import warnings
import weakref
from collections.abc import Hashable, Iterator
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from hr_keras._core.compiled import structure

_Cache = weakref.WeakKeyDictionary[keras.Model, tuple[Hashable, Any]]
_OUTPUTS: _Cache = weakref.WeakKeyDictionary()
_TRACED: _Cache = weakref.WeakKeyDictionary()

_SHAPE_ONLY_OPS = ("Identity", "Reshape", "Squeeze", "Cast")


def known_logits(outputs: Any) -> Any | None:
    """Returns the logits behind softmax outputs, if Keras or the TensorFlow graph knows them.

    In a TensorFlow graph the `Softmax` operation names its input. Casts, reshapes and
    identities between it and `outputs` are looked through. Outside a graph Keras attaches
    the logits to the output of its softmax. Call this before you cast `outputs` or compute
    with it.

    Args:
        outputs: What a model returned, `(..., classes)`.

    Returns:
        Logits of the same shape, or `None` if they are not known.
    """
    if _is_symbolic(outputs):
        return _logits_in_graph(outputs)
    logits = getattr(outputs, "_keras_logits", None)
    # Keras attaches logits to the output of a sigmoid in the same way.
    if logits is None or not bool(ops.all(ops.abs(ops.softmax(logits) - outputs) < 1e-2)):
        return None
    return logits


def _is_symbolic(tensor: Any) -> bool:
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return bool(tf.is_symbolic_tensor(tensor))


def _logits_in_graph(outputs: Any) -> Any | None:
    import tensorflow as tf

    operation = outputs.op
    if operation.type == "Softmax":
        return operation.inputs[0]
    if operation.type not in _SHAPE_ONLY_OPS:
        return None
    logits = _logits_in_graph(operation.inputs[0])
    if logits is None or operation.type in ("Identity", "Cast"):
        return logits
    if outputs.shape[-1] != logits.shape[-1]:  # no longer one softmax per row
        return None
    return tf.reshape(logits, tf.shape(outputs))


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
        kind: `"softmax"`: a softmax whose logits are known. `"probabilities"`: rows that are
            not negative and sum to 1 (seen on a probe batch), without a softmax. `"logits"`:
            anything else.
        num_classes: Size of the last axis.
        input_dtype: The dtype of the images that the model takes.
    """

    kind: Literal["softmax", "probabilities", "logits"]
    num_classes: int
    input_dtype: str


def classifier_output(model: keras.Model, images: Any = None) -> ClassifierOutput:
    """Finds out what a classifier returns, by tracing it once.

    Args:
        model: A Keras classifier, `(n, ...)` → `(n, classes)`.
        images: A few inputs. Needed only for a subclassed model that was never called.

    Returns:
        A `ClassifierOutput`.

    Raises:
        ValueError: If the output is not one tensor `(n, classes)` with classes ≥ 2, or if the
            backend is not TensorFlow.
    """
    check_backend()
    import tensorflow as tf

    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    layers_now = structure(model)
    if _OUTPUTS.get(model, (None, None))[0] != layers_now:
        if images is not None and not model.built:
            model(images[:1], training=False)
        _warn_of_unsynchronized(model)
        with tf.init_scope():  # the caller may be building a graph
            _OUTPUTS[model] = structure(model), _find_output(model)
    output: ClassifierOutput = _OUTPUTS[model][1]
    return output


def _find_output(model: keras.Model) -> ClassifierOutput:
    import tensorflow as tf

    seen = []

    def look(inputs):
        outputs = model(inputs, training=False)
        seen.append((outputs, known_logits(outputs)))
        return outputs

    shape, dtype = _input_spec(model)
    traced = tf.function(look)
    traced.get_concrete_function(tf.TensorSpec((None, *shape), dtype))
    outputs, logits = seen[-1]
    output_shape = getattr(outputs, "shape", None)
    if output_shape is None or len(output_shape) != 2 or not (output_shape[-1] or 0) >= 2:
        raise ValueError(
            "A classifier must return one tensor of shape (n, classes) with at least 2 classes. "
            f"Received: model {model.name!r} returning {output_shape or type(outputs).__name__}"
        )
    classes = int(output_shape[-1])
    if logits is not None:
        return ClassifierOutput("softmax", classes, dtype)
    probe = np.random.default_rng(0).random((8, *(size or 32 for size in shape)))
    outputs = np.asarray(ops.cast(traced(tf.cast(probe, dtype)), "float32"))
    sums_to_one = np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-2)
    if sums_to_one and (outputs >= 0).all():
        return ClassifierOutput("probabilities", classes, dtype)
    return ClassifierOutput("logits", classes, dtype)


def _warn_of_unsynchronized(model: keras.Model) -> None:
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync < 2:
        return
    names = [
        layer.name
        for layer in _all_layers(model)
        if isinstance(layer, layers.BatchNormalization) and not layer.synchronized
    ]
    if names:
        warnings.warn(
            f"Batch normalisation is not synchronised in {', '.join(names)}: each of the "
            f"{strategy.num_replicas_in_sync} replicas has different moving statistics, so that "
            "`predict` and an attack, which reads the first replica, see different models. "
            "Build these layers with synchronized=True.",
            stacklevel=2,
        )


def _all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)


def _input_spec(model: keras.Model) -> tuple[tuple[int | None, ...], str]:
    """Returns the shape, without the batch axis, and the dtype of the input of `model`."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) != 1:
            raise ValueError(
                f"A classifier must take one input. Received: model {model.name!r} "
                f"with {len(inputs)} inputs"
            )
        return tuple(inputs[0].shape[1:]), inputs[0].dtype
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            f"The input shape of model {model.name!r} is not known: call it once on a batch "
            "of images first."
        )
    return tuple(shape[1:]), model.input_dtype


def logits_of(model: keras.Model, images: Any) -> Any:
    """Computes a model's logits, in float32 or better.

    Logits are taken from behind a final softmax. If a model returns probabilities without a
    softmax, these are their logarithms, floored at the smallest normal float32.

    Args:
        model: A Keras classifier that was built.
        images: Tensor, `(n, ...)`. In a TensorFlow graph the logits behind any softmax are
            found; in eager execution only those behind Keras' softmax.

    Returns:
        `(n, classes)`.
    """
    kind = classifier_output(model).kind
    outputs = model(images, training=False)
    if kind == "softmax":
        outputs = known_logits(outputs)
    if keras.backend.standardize_dtype(outputs.dtype) != "float64":
        outputs = ops.cast(outputs, "float32")
    if kind == "probabilities":
        outputs = ops.log(ops.maximum(outputs, float(np.finfo("float32").tiny)))
    return outputs


@keras.saving.register_keras_serializable(package="hr_keras")
class LogitsModel(keras.Model):
    """See `logits_model`, which makes it."""

    def __init__(self, model: keras.Model, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or f"{model.name}_logits", **kwargs)
        self.model = model
        classifier_output(model)

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        import tensorflow as tf

        if training:
            raise ValueError("A logits model is for inference: train the model it was made of.")
        if not tf.executing_eagerly():
            return logits_of(self.model, inputs)
        # The graph knows the logits behind any softmax, eager TensorFlow only Keras' own.
        # Kept outside the model: as an attribute it would be exported with it.
        layers_now = structure(self.model)
        if _TRACED.get(self, (None, None))[0] != layers_now:
            classifier_output(self.model)  # its errors are raised here, not while tracing
            model_ref = weakref.ref(self.model)
            _TRACED[self] = layers_now, tf.function(lambda x: logits_of(model_ref(), x))
        return _TRACED[self][1](inputs)

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LogitsModel":
        config = {**config, "model": keras.saving.deserialize_keras_object(config["model"])}
        return cls(**config)


def logits_model(model: keras.Model) -> keras.Model:
    """Makes a model that returns the logits of any Keras classifier and shares its weights.

    The final softmax of Sequential, Functional, nested and subclassed models is removed: the
    activation of a last layer, an `Activation` or `Softmax` layer, `keras.ops.softmax` or
    `tf.nn.softmax`, also before a flatten, reshape or cast. A model that returns logits is
    returned unchanged. If a model makes probabilities in another way, the new model returns
    their logarithms, for which softmax gives the same probabilities. A gradient through them
    vanishes where the probabilities round to 0 or 1.

    Args:
        model: A Keras classifier, `(n, ...)` → `(n, classes)`. Call a subclassed model once
            before.

    Returns:
        A `keras.Model` for inference, `(n, ...)` → `(n, classes)`, float32 or better.
        Training `model` trains it too.

    Raises:
        ValueError: If the output is not one tensor `(n, classes)` with classes ≥ 2, or if the
            backend is not TensorFlow.

    Example:
        ```python
        from hr_keras.models import logits_model

        logits = logits_model(model)(images)
        ```
    """
    return model if classifier_output(model).kind == "logits" else LogitsModel(model)
