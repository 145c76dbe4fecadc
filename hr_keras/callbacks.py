"""Attacks while a model trains: scheduling and logging only, `evaluation` does the work."""

import math

import keras
import numpy as np

from hr_keras import evaluation
from hr_keras._core.logits import check_backend
from hr_keras.attacks import _attack
from hr_keras.attacks import objectives as objectives_module
from hr_keras.attacks.worst_case import check_attacks


class _ValidationAttack(keras.callbacks.Callback):
    """Scheduling and logging: when an attack is due, and its keys in the logs of every epoch.

    Args:
        validation_data: see `FGSMCallback`.
        every: attack after epochs `every`, 2·`every`, … and the last.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.
        keys: names in the logs.
    """

    def __init__(self, validation_data, every, bounds, batch_size, keys):
        super().__init__()
        self.every = _attack.check_count("every", every)
        self.bounds = bounds
        self.batch_size = _attack.check_batch_size(batch_size)
        self.images, self.labels = _arrays(validation_data)
        _attack.check_images(self.images, self.bounds)
        if len(self.images) != len(self.labels):
            raise ValueError(
                "`validation_data` must hold as many labels as images. "
                f"Received: {len(self.images)} images, {len(self.labels)} labels"
            )
        self._keys = tuple(keys)

    def on_train_begin(self, logs=None):
        self._attacked = self._checked = False
        if self.model.built:
            self._check()

    def on_epoch_end(self, epoch, logs=None):
        if not self._checked:
            self._check()
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        self._attacked = last or (epoch + 1) % self.every == 0
        values = self._values() if self._attacked else dict.fromkeys(self._keys, math.nan)
        if logs is not None:
            logs.update(values)

    def on_train_end(self, logs=None):
        history = getattr(getattr(self.model, "history", None), "history", {})
        if self._attacked or not history.get(self._keys[0]):
            return
        for key, value in self._values().items():
            history[key][-1] = value

    def _check(self):
        _attack.prepare(self.model, self.images, self.labels, self.bounds)
        self._checked = True

    def _values(self):
        # Layers may change their state at inference too, a random one its seed.
        variables = self.model.non_trainable_variables
        state = [keras.ops.convert_to_numpy(variable) for variable in variables]
        accuracies = self._accuracies()
        for variable, before in zip(variables, state, strict=True):
            # Only what changed: replicas may differ in the others, and would become alike.
            if not np.array_equal(keras.ops.convert_to_numpy(variable), before):
                variable.assign(before)
        return dict(zip(self._keys, accuracies, strict=True))

    def _accuracies(self):
        """The accuracy of each key."""
        raise NotImplementedError


class FGSMCallback(_ValidationAttack):
    """Attacks the validation data with FGSM every few epochs and logs the accuracy left.

    Adds `val_fgsm_{objective}_{epsilon:g}_accuracy`, for example
    `val_fgsm_ce_0.1_accuracy`, to the logs of every epoch: NaN on epochs that are not
    due. The last epoch is always due; where a later callback ends the training early, its
    value is in the history but came too late for other callbacks. Training is not
    touched: with and without the callback it gives the same weights, bit for bit.

    Put it **before** callbacks that read the logs (`CSVLogger`, `EarlyStopping`,
    `ModelCheckpoint`, `TensorBoard`). Keras takes a first NaN for the best value there will
    ever be, so with `every` greater than 1 give `EarlyStopping`
    `start_from_epoch=every - 1` (and a `patience` longer than `every`), and `ModelCheckpoint`
    `initial_value_threshold=-1.0`; both need `mode="max"`. `ReduceLROnPlateau` has no such
    argument: use it with `every=1`.

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
        prefix: start of the keys; a second callback in the same list needs another.

    Raises:
        ValueError: for an argument or images that are not as described; for labels that
            do not fit the model when training begins (after the first epoch where the
            model is not built before).

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
        prefix="val_fgsm",
    ):
        check_backend()
        if not isinstance(objectives, (tuple, list)):
            objectives = (objectives,)
        self.epsilons = _attack.check_epsilons(epsilons)
        self.objectives = tuple(objectives_module.get(objective) for objective in objectives)
        self.through = _attack.check_route(through)
        self._cells = [(o.name, epsilon) for o in self.objectives for epsilon in self.epsilons]
        keys = [f"{prefix}_{name}_{epsilon:g}_accuracy" for name, epsilon in self._cells]
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(
                "`objectives` and `epsilons` must give at least one key and none twice. "
                f"Received: {keys}"
            )
        bounds = _attack.check_bounds(bounds)
        super().__init__(validation_data, every, bounds, batch_size, keys)

    def _accuracies(self):
        accuracy = evaluation.sweep(
            self.model,
            self.images,
            self.labels,
            objectives=self.objectives,
            epsilons=self.epsilons,
            through=self.through,
            bounds=self.bounds,
            batch_size=self.batch_size,
        ).accuracy
        return [accuracy[cell] for cell in self._cells]


class AttackCallback(_ValidationAttack):
    """Attacks the validation data with any attack every few epochs and logs the accuracy left.

    Adds `val_{attack.name}_accuracy`, for example `val_pgd_margin_0.1_accuracy`, to the logs
    of every epoch, by the rules of `FGSMCallback`: NaN on epochs that are not due, the last
    epoch always due, training untouched bit for bit, its place **before** callbacks that
    read the logs. Costs what the attacks cost for the examples that the model has right,
    and one forward pass. `attacks.fast` is made for it.

    Args:
        validation_data: `(images, labels)`, or a batched `tf.data.Dataset` of such pairs;
            a third element, sample weights, is ignored. Kept in memory.
        attacks: an attack or several, of different names and the same `bounds`, none targeted.
        every: attack after epochs `every`, 2·`every`, … and the last.
        batch_size: examples in one compiled step; it replaces that of the attacks.

    Raises:
        ValueError: for an argument or images that are not as described; for labels that
            do not fit the model when training begins (after the first epoch where the
            model is not built before).

    Example:
        >>> model.fit(
        ...     x_train, y_train, epochs=20,
        ...     callbacks=[AttackCallback((x_val, y_val), fast(epsilon=0.1))],
        ... )
    """

    def __init__(self, validation_data, attacks, every=10, batch_size=256):
        check_backend()
        self.attacks = check_attacks(attacks)
        keys = [f"val_{attack.name}_accuracy" for attack in self.attacks]
        if len(set(keys)) < len(keys):
            raise ValueError(f"`attacks` must have different names. Received: {keys}")
        super().__init__(validation_data, every, self.attacks[0].bounds, batch_size, keys)

    def _accuracies(self):
        return evaluation.robust_accuracy(
            self.model, self.images, self.labels, self.attacks, self.batch_size
        ).per_attack.values()


def _arrays(validation_data):
    """Images and labels as arrays, from a pair or a batched dataset of pairs."""
    if hasattr(validation_data, "as_numpy_iterator"):
        if int(validation_data.cardinality()) == -1:
            raise ValueError("`validation_data` is a dataset without an end.")
        validation_data = _joined(list(validation_data.as_numpy_iterator()))
    if not (isinstance(validation_data, (tuple, list)) and len(validation_data) in (2, 3)):
        raise ValueError(
            "`validation_data` must be (images, labels) or a batched tf.data.Dataset of such "
            f"pairs. Received: {type(validation_data).__name__}"
        )
    return tuple(np.asarray(part) for part in validation_data[:2])


def _joined(batches):
    pairs = all(isinstance(batch, tuple) and len(batch) in (2, 3) for batch in batches)
    if not batches or not pairs or any(np.ndim(batch[1]) == 0 for batch in batches):
        raise ValueError(
            "`validation_data` must be a dataset of at least one batch (images, labels). Received: "
            + ("an empty one" if not batches else "one whose elements are not batches of pairs")
        )
    return tuple(np.concatenate([batch[k] for batch in batches]) for k in range(2))
