"""Attacks while a model trains: scheduling and logging only, `evaluation` does the work."""

import abc
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np

from hr_keras import evaluation, training
from hr_keras._core.checks import (
    check_batch_size,
    check_bounds,
    check_choice,
    check_count,
    check_epsilons,
)
from hr_keras._core.examples import KEYS, Keys, Preprocess
from hr_keras._core.logits import check_backend
from hr_keras._core.validation_data import check_image_shape, read_examples
from hr_keras.attacks import Attack
from hr_keras.attacks import objectives as objectives_module
from hr_keras.attacks._perturbation import Bounds
from hr_keras.attacks._task import check_images, prepare
from hr_keras.attacks.objectives import Identifier, Route
from hr_keras.attacks.worst_case import check_attacks

__all__ = ["AttackCallback", "FGSMCallback"]


Between = Literal["nan", "last"]


class _ValidationAttack(keras.callbacks.Callback, abc.ABC):
    """Decides when an attack is due, and writes its keys into the logs of every epoch."""

    def __init__(
        self,
        validation_data: Any,
        every: int,
        bounds: Bounds,
        batch_size: int,
        keys: Iterable[str],
        between: Between,
        decimal_point: str,
        validation_steps: int | None,
        preprocess: Preprocess,
        keys_of_elements: Keys,
    ) -> None:
        super().__init__()
        self.every = check_count("every", every)
        self.between = check_choice("between", between, get_args(Between))
        self.bounds = bounds
        self.batch_size = check_batch_size(batch_size)
        if not isinstance(decimal_point, str):
            raise ValueError(f"`decimal_point` must be text. Received: {decimal_point!r}")
        self._keys = tuple(key.replace(".", decimal_point) for key in keys)
        if not self._keys or len(set(self._keys)) < len(self._keys):
            raise ValueError(
                "There must be at least one key for the logs and none twice. "
                f"Received: {list(self._keys)}"
            )
        self.examples = read_examples(
            validation_data, validation_steps, preprocess, keys_of_elements
        )
        check_images(self.examples.read_first(self.batch_size)[0], self.bounds)
        self._begin()

    def _begin(self) -> None:
        self._attacked = self._checked = False
        self._last: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._begin()
        if self.model.built:
            self._check()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.model is None:
            raise ValueError(
                f"A {type(self).__name__} needs a model: pass it to fit(callbacks=[...]), or call "
                "its set_model(model) first. Received: no model"
            )
        if not self._checked:
            self._check()
        # Several workers attack together, so they agree on when.
        last = epoch + 1 == (self.params or {}).get("epochs") or training.any_worker(
            self.model.stop_training, self.model.distribute_strategy
        )
        self._attacked = last or (epoch + 1) % self.every == 0
        if self.between == "last" and not self._last:
            self._attacked = True  # so that every epoch has a number
        if self._attacked:
            self._last = self._values()
        repeated = self._attacked or self.between == "last"
        values = self._last if repeated else dict.fromkeys(self._keys, math.nan)
        if logs is not None:
            logs.update(values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        history = getattr(getattr(self.model, "history", None), "history", {})
        if self._attacked or not history.get(self._keys[0]):
            return
        for key, value in self._values().items():
            history[key][-1] = value

    def _check(self) -> None:
        images, labels = self.examples.read_first(self.batch_size)
        check_image_shape(self.model, images, "The images in `validation_data`")
        prepare(self.model, images, labels, self.bounds)
        self._checked = True

    def _values(self) -> dict[str, float]:
        # Layers may change their state at inference too, a random one its seed.
        variables = self.model.non_trainable_variables
        state = [keras.ops.convert_to_numpy(variable) for variable in variables]
        accuracies = self._find_accuracies()
        for variable, before in zip(variables, state, strict=True):
            # Only what changed: replicas may differ in the others, and would become alike.
            if not np.array_equal(keras.ops.convert_to_numpy(variable), before):
                variable.assign(before)
        return dict(zip(self._keys, accuracies, strict=True))

    @abc.abstractmethod
    def _find_accuracies(self) -> Iterable[float]:
        """Attacks the model and returns the accuracy for each key."""


class FGSMCallback(_ValidationAttack):
    """Attacks the validation data with FGSM every few epochs and logs the accuracy.

    ```
    logs["val_fgsm_{objective}_{epsilon:g}_accuracy"] = accuracy; on epochs not due, see `between`
    ```

    The keys, for example `val_fgsm_ce_0.1_accuracy`, are in the logs of every epoch. The last
    epoch is always due; if a later callback ends the training early, its value is in the
    history but comes too late for other callbacks. Training does not change: with and without
    the callback it gives the same weights, bit for bit.

    Put it **before** callbacks that read the logs (`CSVLogger`, `EarlyStopping`,
    `ModelCheckpoint`, `ReduceLROnPlateau`, `TensorBoard`), and give those that compare values
    `mode="max"`. If `every` is greater than 1, also choose `between="last"`: Keras takes a first
    NaN for the best value that is possible, and KerasTuner gives a trial with a NaN the score NaN.
    With `between="last"`, a `patience` must be longer than `every`.
    Under a strategy of several workers every process needs the callback: they share the attack.

    KerasTuner: pass the callback to `tuner.search(..., callbacks=[callback])` and use
    `objective=keras_tuner.Objective("val_fgsm_ce_0.1_accuracy", "max")`. Tuners copy their
    callbacks for every trial; the copies share the validation data.

    Args:
        validation_data: `(images, labels)`, or a batched `tf.data.Dataset` or
            `keras.utils.PyDataset` of such pairs, which is read anew for each attack, a few
            batches at a time. A third element, sample weights, is ignored. A dataset without an
            end needs `validation_steps`.
        epsilons: ε values in the units of the images; 0 logs the clean accuracy. Default
            `(0.1, 0.25)`.
        objectives: `"ce"`, `"hr"`, Keras losses or callables, one or several; see
            `attacks.FGSM`. Default `("ce",)`.
        every: Attack after epochs `every`, 2·`every`, … and the last. Default 10.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.
        through: `"logits"` (default, exact) or `"probabilities"` (as published, through the
            clipped softmax).
        prefix: Start of the keys. A second callback in the same list needs another. Default
            `"val_fgsm"`.
        between: What the keys hold on epochs not due: `"nan"` (default), or `"last"`, the last
            value. With `"last"` the first epoch is due too, so that every epoch has a number.
        decimal_point: Replaces every dot in the keys. Default `"."`. With `"_"`, the file name
            of a `ModelCheckpoint` may hold a key, for example
            `"{epoch}_{val_fgsm_ce_0_1_accuracy:.2f}.keras"`; Python cannot format one with a dot.
        validation_steps: How many batches of a dataset to take. Default `None`: all.
        preprocess: Function from a batch of images to a batch of images inside `bounds`.
            Default `None`.
        keys: Names of images and labels if the elements of a dataset are dicts. Default
            `("image", "label")`.

    Raises:
        ValueError: If an argument is not as described; if labels do not fit the model, when
            training begins (after the first epoch if the model is not built before; those of a
            dataset beyond its first batches, when it is attacked).

    References:
        - Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial Examples"

    Example:
        ```python
        from hr_keras.callbacks import FGSMCallback

        callback = FGSMCallback((x_val, y_val), epsilons=(0.1, 0.25), every=1)
        history = model.fit(x_train, y_train, epochs=1, callbacks=[callback], verbose=0)
        print(history.history["val_fgsm_ce_0.25_accuracy"])
        ```
    """

    def __init__(
        self,
        validation_data: Any,
        epsilons: Sequence[float] = (0.1, 0.25),
        objectives: Identifier | Sequence[Identifier] = ("ce",),
        every: int = 10,
        bounds: Bounds = (0.0, 1.0),
        batch_size: int = 256,
        through: Route = "logits",
        prefix: str = "val_fgsm",
        between: Between = "nan",
        decimal_point: str = ".",
        validation_steps: int | None = None,
        preprocess: Preprocess = None,
        keys: Keys = KEYS,
    ) -> None:
        check_backend()
        if not isinstance(objectives, (tuple, list)):
            objectives = (objectives,)
        self.epsilons = check_epsilons(epsilons)
        self.objectives = tuple(objectives_module.get(objective) for objective in objectives)
        self.through = objectives_module.check_route(through)
        self._cells = [(o.name, epsilon) for o in self.objectives for epsilon in self.epsilons]
        logged = [f"{prefix}_{name}_{epsilon:g}_accuracy" for name, epsilon in self._cells]
        bounds = check_bounds(bounds)
        more = (between, decimal_point, validation_steps, preprocess, keys)
        super().__init__(validation_data, every, bounds, batch_size, logged, *more)

    def _find_accuracies(self) -> Iterable[float]:
        accuracy = evaluation.sweep(
            self.model,
            self.examples,
            objectives=self.objectives,
            epsilons=self.epsilons,
            through=self.through,
            bounds=self.bounds,
            batch_size=self.batch_size,
        ).accuracy
        return [accuracy[cell] for cell in self._cells]


class AttackCallback(_ValidationAttack):
    """Attacks the validation data with any attack every few epochs and logs the accuracy.

    ```
    logs["val_{attack.name}_accuracy"] = accuracy; on epochs not due, see `between`
    ```

    The keys, for example `val_pgd_margin_0.1_accuracy`, follow the rules of `FGSMCallback`: in
    the logs of every epoch, the last epoch always due, training the same bit for bit, its place
    **before** callbacks that read the logs. Costs what the attacks cost for the examples that
    are classified correctly, and one forward pass. `attacks.fast` is made for it.

    Args:
        validation_data: `(images, labels)`, or a batched `tf.data.Dataset` or
            `keras.utils.PyDataset` of such pairs, which is read anew for each attack, a few
            batches at a time. A third element, sample weights, is ignored. A dataset without an
            end needs `validation_steps`.
        attacks: An attack or several, of different names and the same `bounds`, none targeted.
        every: Attack after epochs `every`, 2·`every`, … and the last. Default 10.
        batch_size: Examples in one compiled step; it replaces that of the attacks. Default 256.
        between: As in `FGSMCallback`.
        decimal_point: As in `FGSMCallback`.
        validation_steps: As in `FGSMCallback`.
        preprocess: As in `FGSMCallback`.
        keys: As in `FGSMCallback`.

    Raises:
        ValueError: If an argument is not as described; if labels do not fit the model, when
            training begins (after the first epoch if the model is not built before; those of a
            dataset beyond its first batches, when it is attacked).

    Example:
        ```python
        from hr_keras.attacks import PGD
        from hr_keras.callbacks import AttackCallback

        callback = AttackCallback((x_val, y_val), PGD(0.1, "margin", n_iter=5), every=1)
        model.fit(x_train, y_train, epochs=1, callbacks=[callback], verbose=0)
        ```
    """

    def __init__(
        self,
        validation_data: Any,
        attacks: Attack | Sequence[Attack],
        every: int = 10,
        batch_size: int = 256,
        between: Between = "nan",
        decimal_point: str = ".",
        validation_steps: int | None = None,
        preprocess: Preprocess = None,
        keys: Keys = KEYS,
    ) -> None:
        check_backend()
        self.attacks = check_attacks(attacks)
        logged = [f"val_{attack.name}_accuracy" for attack in self.attacks]
        if len(set(logged)) < len(logged):
            raise ValueError(f"`attacks` must have different names. Received: {logged}")
        more = (between, decimal_point, validation_steps, preprocess, keys)
        super().__init__(validation_data, every, self.attacks[0].bounds, batch_size, logged, *more)

    def _find_accuracies(self) -> Iterable[float]:
        return evaluation.robust_accuracy(
            self.model, self.examples, attacks=self.attacks, batch_size=self.batch_size
        ).per_attack.values()
