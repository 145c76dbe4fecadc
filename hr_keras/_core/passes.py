"""Means of several passes, for models that draw random numbers; see `models.attack_view`."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from hr_keras._core.compiled import separate
from hr_keras._core.logits import classifier_output, logits_of


@keras.saving.register_keras_serializable(package="hr_keras")
class MeanOfPasses(keras.Model):
    """Returns the log of the mean probabilities of several passes; see `attack_view`."""

    def __init__(self, model: Any, eot: int, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or f"{model.name}_eot{eot}", **kwargs)
        self.model = model
        self.eot = eot
        self.built = True
        classifier_output(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        import tensorflow as tf

        if training:
            raise ValueError("A view is for inference: train the model it was made of.")

        def one_pass(inputs: Any) -> Any:
            return logits_of(self.model, inputs)

        run = one_pass if tf.executing_eagerly() else separate(one_pass)
        return mean_logits([run(inputs) for _ in range(self.eot)])

    def attacked_spec(self) -> tuple[int | None, tuple[int | None, ...], str]:
        """Returns `input_spec` of the attacked input."""
        return self.model.attacked_spec()

    def fill(self, images: Any) -> Any:
        """Returns inputs of the model for a tensor of images: zeros in place of the others."""
        return self.model.fill(images)

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model, **self.view_config()}

    def view_config(self) -> dict[str, Any]:
        """Returns how the model is seen, apart from the model."""
        return {"eot": self.eot}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MeanOfPasses":
        config = {**config, "model": keras.saving.deserialize_keras_object(config["model"])}
        return cls(**config)


def single_pass(model: keras.Model) -> tuple[keras.Model, int]:
    """Returns the model of one pass, and how many passes a gradient is averaged over."""
    return (model.model, model.eot) if isinstance(model, MeanOfPasses) else (model, 1)


def average_passes(model: keras.Model, passes: Callable[..., Any], *tensors: Any) -> Any:
    """Averages what `passes(model, *tensors)` makes of the model of one pass, in a graph.

    Args:
        model: A Keras classifier.
        passes: Returns logits `(n, classes)`, and other tensors. Compiled as a separate function.
        tensors: Its arguments.

    Returns:
        For one pass what it returned. For several the logits of the mean probabilities, and
        the means of the other tensors.
    """
    single, count = single_pass(model)
    run = separate(lambda *tensors: passes(single, *tensors))
    found = [run(*tensors) for _ in range(count)]
    if count == 1:
        return found[0]
    logits, *others = zip(*found, strict=True)
    return mean_logits(logits), *(sum(parts) / count for parts in others)


def mean_logits(logits: Any) -> Any:
    """Computes log 1/k Σ_k softmax(z_k) `(n, classes)` of k logits of this shape."""
    log_probabilities = ops.stack([ops.log_softmax(one, axis=-1) for one in logits])
    return ops.logsumexp(log_probabilities, axis=0) - math.log(len(logits))
