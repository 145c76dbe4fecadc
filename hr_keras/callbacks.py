"""Attacks while a model trains: scheduling and logging only, `evaluation` does the work."""

import math
import numbers

import keras
import numpy as np

from hr_keras import evaluation
from hr_keras.attacks import objectives as objectives_module
from hr_keras.attacks.attack import check_batch_size, check_bounds, check_epsilon, check_route


class FGSMCallback(keras.callbacks.Callback):
    """Attacks the validation data with FGSM every few epochs and logs the accuracy left.

    Adds `val_fgsm_{objective}_{epsilon:g}_accuracy`, for example
    `val_fgsm_ce_0.1_accuracy`, to the logs of every epoch: NaN on epochs that are not
    due. The last epoch is always due. Training is not touched: with and without the
    callback it gives the same weights, bit for bit.

    Put it **before** callbacks that read the logs (`CSVLogger`, `EarlyStopping`,
    `ModelCheckpoint`, `TensorBoard`). `EarlyStopping` needs `mode="max"` for its keys, and a
    `patience` that outlasts the epochs between two attacks.

    Args:
        validation_data: `(images, labels)`, or a batched `tf.data.Dataset` of such pairs;
            a third element, sample weights, is ignored. Kept in memory.
        epsilons: ε values in the units of the images; 0 logs the clean accuracy.
        objectives: `"ce"`, `"hr"`, Keras losses or callables; see `attacks.FGSM`.
        every: attack after epochs `every`, 2·`every`, … and the last.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.
        through: `"logits"` (exact) or `"probabilities"` (as published, through the clipped
            softmax).

    Raises:
        ValueError: for an argument that is not as described; for unfit images or labels
            when training begins, before the first epoch.

    Example:
        >>> model.fit(
        ...     x_train, y_train, epochs=20,
        ...     callbacks=[FGSMCallback((x_val, y_val), epsilons=(0.1, 0.25))],
        ... )
    """

    def __init__(
        self,
        validation_data,
        epsilons=(0.1, 0.25),
        objectives=("ce",),
        every=10,
        bounds=(0.0, 1.0),
        batch_size=256,
        through="logits",
    ):
        super().__init__()
        if not (isinstance(every, numbers.Integral) and every >= 1):
            raise ValueError(f"`every` must be a positive integer. Received: every={every!r}")
        if isinstance(objectives, (str, keras.losses.Loss)) or callable(objectives):
            objectives = (objectives,)
        self.images, self.labels = _arrays(validation_data)
        self.epsilons = tuple(check_epsilon(epsilon) for epsilon in epsilons)
        self.objectives = tuple(objectives_module.get(objective) for objective in objectives)
        self.every = int(every)
        self.bounds = check_bounds(bounds)
        self.batch_size = check_batch_size(batch_size)
        self.through = check_route(through)
        self._keys = [
            (f"val_fgsm_{objective.name}_{epsilon:g}_accuracy", (objective.name, epsilon))
            for objective in self.objectives
            for epsilon in self.epsilons
        ]
        if not self._keys or len({key for key, _ in self._keys}) < len(self._keys):
            raise ValueError(
                "`objectives` and `epsilons` must give at least one key and none twice. "
                f"Received: {[key for key, _ in self._keys]}"
            )

    def on_train_begin(self, logs=None):
        if self.model.built:  # say what is wrong with the data before the first epoch
            evaluation.prepare(self.model, self.images[:1], self.labels[:1], self.bounds)

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        due = last or (epoch + 1) % self.every == 0
        accuracy = self._attack() if due else {}
        if logs is not None:
            logs.update({key: accuracy.get(cell, math.nan) for key, cell in self._keys})

    def _attack(self):
        return evaluation.sweep(
            self.model,
            self.images,
            self.labels,
            objectives=self.objectives,
            epsilons=self.epsilons,
            through=self.through,
            bounds=self.bounds,
            batch_size=self.batch_size,
        ).accuracy


def _arrays(validation_data):
    """Images and labels as arrays, from a pair or a batched dataset of pairs."""
    if hasattr(validation_data, "as_numpy_iterator"):
        batches = [batch[:2] for batch in validation_data.as_numpy_iterator()]
        if not batches:
            raise ValueError("`validation_data` is an empty dataset.")
        return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
    if not (isinstance(validation_data, (tuple, list)) and len(validation_data) in (2, 3)):
        raise ValueError(
            "`validation_data` must be (images, labels) or a batched tf.data.Dataset of such "
            f"pairs. Received: {type(validation_data).__name__}"
        )
    return tuple(np.asarray(part) for part in validation_data[:2])
