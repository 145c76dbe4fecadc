"""`logits_model`: a model that returns the logits of any Keras classifier."""

import weakref
from collections.abc import Hashable
from typing import Any

import keras

from hr_keras._core.compiled import structure
from hr_keras._core.logits import classifier_output, logits_of

_TRACED: weakref.WeakKeyDictionary[keras.Model, tuple[Hashable, Any]] = weakref.WeakKeyDictionary()


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

    The final softmax or sigmoid of Sequential, Functional, nested and subclassed models is
    removed: the activation of a last layer, an `Activation` or `Softmax` layer,
    `keras.ops.softmax` or `tf.nn.softmax`, also before a flatten, reshape or cast. A model that
    returns logits is returned unchanged. If a model makes probabilities in another way, the new
    model returns their logarithms, for which softmax gives the same probabilities. A gradient
    through them vanishes where the probabilities round to 0 or 1. For a model with one output z
    (two classes), the logits are (0, z).

    Args:
        model: A Keras classifier, `(n, ...)` → `(n, classes)`, or `(n, 1)` for two classes.
            Call a subclassed model once before.

    Returns:
        A `keras.Model` for inference, `(n, ...)` → `(n, classes)`, float32 or better.
        Training `model` trains it too.

    Raises:
        ValueError: If the output is not one tensor of this shape, or the backend is not TensorFlow.

    Example:
        ```python
        from hr_keras.models import logits_model

        logits = logits_model(model)(images)
        ```
    """
    output = classifier_output(model)
    return model if output.kind == "logits" and not output.is_single else LogitsModel(model)
