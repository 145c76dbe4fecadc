"""How large the gradients of CE and of HR are at the same weights, while a model trains."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hr_keras import datasets
from hr_keras.datasets import Split
from hr_keras.experiments.methods import get_method
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.result import GRADIENT_KEYS


class GradientNorms(keras.callbacks.Callback):
    """Logs ‖∂L/∂weights‖ of the losses of CE and HR on one training batch, whatever trains it.

    ```
    logs["gradient_norm_ce"], logs["gradient_norm_hr"]; NaN on epochs without an attack
    ```

    Every due epoch takes another batch. Costs about two training steps. Layers run as at
    inference, and penalties of the weights are left out, so training does not change.

    Args:
        classifier: The model that trains, without a wrapper for adversarial training.
        protocol: Gives α, the batch size, and the epochs that are due: those of the attack.
        train: Training split; its images may be uint8.
    """

    def __init__(self, classifier: keras.Model, protocol: Protocol, train: Split) -> None:
        super().__init__()
        self.classifier, self.protocol, self.train = classifier, protocol, train
        self._losses = {
            key: get_method(name).make_loss(protocol) for name, key in GRADIENT_KEYS.items()
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the norms to the logs."""
        done = epoch + 1
        is_due = done % self.protocol.attack_every == 0 or done == self.protocol.epochs
        if logs is not None:
            logs.update(self.measure(epoch) if is_due else dict.fromkeys(self._losses, math.nan))

    def measure(self, epoch: int) -> dict[str, float]:
        """Returns the norms on the batch of an epoch.

        Args:
            epoch: Its number; determines the batch.
        """
        size = min(self.protocol.batch_size, len(self.train.images))
        first = epoch % (len(self.train.images) // size) * size
        images = datasets.to_unit_interval(self.train.images[first : first + size])
        with tf.GradientTape(persistent=True) as tape:
            outputs = self.classifier(images, training=False)
            labels = self.train.labels[first : first + size]
            values = {key: loss(labels, outputs) for key, loss in self._losses.items()}
        weights = self.classifier.trainable_variables
        return {key: _norm(tape.gradient(value, weights)) for key, value in values.items()}


def _norm(gradients: list[Any]) -> float:
    arrays = [np.asarray(keras.ops.convert_to_numpy(one), "float64") for one in gradients]
    return math.sqrt(sum(float(np.sum(array**2)) for array in arrays))
