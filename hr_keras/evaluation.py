"""What a classifier gets right, clean and under attack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hr_keras._core.checks import check_batch_size, check_bounds, check_epsilons
from hr_keras._core.compiled import compiled, in_batches
from hr_keras._core.logits import check_backend, classifier_output
from hr_keras.attacks import Attack, Task
from hr_keras.attacks import objectives as objectives_module
from hr_keras.attacks._perturbation import Bounds
from hr_keras.attacks._task import as_array, build_predict, check_labels, is_correct, prepare
from hr_keras.attacks.fgsm import build_sweep
from hr_keras.attacks.objectives import Identifier, Route, check_route
from hr_keras.attacks.worst_case import check_attacks

__all__ = [
    "RobustAccuracy",
    "Sweep",
    "confusion_matrix",
    "log_probabilities",
    "robust_accuracy",
    "sweep",
]


@dataclass(frozen=True)
class Sweep:
    """Holds the result of FGSM over objectives × ε, example by example.

    Args:
        objectives: Names of the objectives.
        epsilons: ε values, in the order of the call.
        through: Route of the gradient, `"logits"` or `"probabilities"`.
        correct: Whether the attacked example is still classified correctly, bool
            `(objectives, epsilons, n)`. A prediction that is not finite is not correct.
        zero_gradient: Whether the gradient is exactly zero in every pixel, so that the attack
            returns its input, bool `(objectives, n)`.
    """

    objectives: tuple[str, ...]
    epsilons: tuple[float, ...]
    through: Route
    correct: np.ndarray
    zero_gradient: np.ndarray

    @property
    def accuracy(self) -> dict[tuple[str, float], float]:
        """Accuracy for each (objective, ε)."""
        return {
            (objective, epsilon): float(self.correct[i, j].mean())
            for i, objective in enumerate(self.objectives)
            for j, epsilon in enumerate(self.epsilons)
        }

    @property
    def zero_gradient_share(self) -> dict[str, float]:
        """Share of the examples whose gradient is exactly zero, for each objective."""
        shares = self.zero_gradient.mean(axis=1)
        return dict(zip(self.objectives, map(float, shares), strict=True))


def sweep(
    model: keras.Model,
    images: Any,
    labels: Any,
    objectives: Identifier | Sequence[Identifier] = ("ce", "hr"),
    epsilons: Sequence[float] = (0.0, 0.1, 0.25),
    through: Route = "logits",
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    jit_compile: bool = False,
) -> Sweep:
    """Computes accuracy under FGSM for every objective and ε, and the share of zero gradients.

    ```
    accuracy(L, ε) = 1/n · #{i: argmax_k z_k(x_i + ε·sign ∇L(x_i, y_i)) = y_i}
    ```

    Costs one forward pass, one backward pass for each objective and one forward pass for each
    (objective, ε > 0); the accuracy at ε = 0 comes from the first. Memory is that of one batch.
    A second call with the same model, objectives and batch shape compiles nothing.

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point, inside `bounds`.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`, of which
            the most probable class counts as the true one.
        objectives: `"ce"`, `"hr"`, Keras losses or callables, one or several; see
            `attacks.FGSM`. Default `("ce", "hr")`.
        epsilons: ε values in the units of the images, each at least 0. Default
            `(0.0, 0.1, 0.25)`.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.

    Returns:
        A `Sweep`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        ```python
        from hr_keras import evaluation

        result = evaluation.sweep(model, x_test, y_test)
        print(result.accuracy["ce", 0.1], result.zero_gradient_share["ce"])
        ```
    """
    check_backend()
    found = tuple(objectives_module.get(objective) for objective in _as_tuple(objectives))
    names = tuple(objective.name for objective in found)
    _check_distinct("objectives", names)
    values = check_epsilons(epsilons)
    _check_distinct("epsilons", values)
    bounds, through = check_bounds(bounds), check_route(through)
    images, labels = prepare(model, images, labels, bounds)
    step = compiled(
        model,
        ("sweep", found, through, bounds),
        lambda model_ref: build_sweep(model_ref, found, through, bounds),
        jit_compile,
    )
    positive = [epsilon for epsilon in values if epsilon > 0]
    clean, attacked, zero = in_batches(
        step, images, labels, check_batch_size(batch_size), np.asarray(positive, "float64")
    )
    columns = iter(np.moveaxis(attacked.astype(bool), 0, -1))  # (ε > 0, objectives, n)
    unattacked = np.broadcast_to(clean, (len(found), len(clean)))
    correct = [next(columns) if epsilon > 0 else unattacked for epsilon in values]
    return Sweep(names, values, through, np.stack(correct, axis=1), zero.T.astype(bool))


@dataclass(frozen=True)
class RobustAccuracy:
    """Holds which examples a classifier gets right, clean and under each of several attacks.

    Args:
        correct: Whether the clean example is classified correctly, bool `(n,)`.
        withstood: For the name of each attack, whether the example is classified correctly,
            clean and under this attack, bool `(n,)`.
    """

    correct: np.ndarray
    withstood: dict[str, np.ndarray]

    @property
    def clean(self) -> float:
        """Accuracy without an attack."""
        return float(self.correct.mean())

    @property
    def per_attack(self) -> dict[str, float]:
        """Accuracy under each attack alone, by its name."""
        return {name: float(still.mean()) for name, still in self.withstood.items()}

    @property
    def robust(self) -> np.ndarray:
        """Whether the example is classified correctly under every attack, bool `(n,)`."""
        return np.logical_and.reduce([self.correct, *self.withstood.values()])

    @property
    def worst_case(self) -> float:
        """Accuracy under the worst attack for each example: at most that of any one attack."""
        return float(self.robust.mean())


def robust_accuracy(
    model: keras.Model,
    images: Any,
    labels: Any,
    attacks: Attack | Sequence[Attack],
    batch_size: int = 256,
    first_index: int = 0,
) -> RobustAccuracy:
    """Computes accuracy under each of several attacks, and under the worst for each example.

    ```
    worst_case = 1/n · #{i: x_i is classified correctly, and under every attack}
    ```

    Costs one forward pass, and for each attack what it costs for the examples that are
    classified correctly, and a forward pass to verify its images. If the model draws random
    numbers, the mean of 10 passes counts. One `attacks.WorstCase` of the attacks is cheaper.

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point, inside the bounds of the attacks.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`, of which
            the most probable class counts as the true one.
        attacks: An attack or several, of different names and the same `bounds`, none targeted.
        batch_size: Examples in one compiled step; it replaces that of the attacks. Default 256.
        first_index: Index of the first image, for parts of a data set; see `Attack`. Default 0.

    Returns:
        A `RobustAccuracy`: `.clean`, `.per_attack`, `.worst_case`, `.robust`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        ```python
        from hr_keras import evaluation
        from hr_keras.attacks import PGD, Square

        attacks = [PGD(0.1, "margin", n_iter=5), Square(0.1, n_queries=20)]
        result = evaluation.robust_accuracy(model, x_test, y_test, attacks)
        print(result.clean, result.per_attack["pgd_margin_0.1"], result.worst_case)
        ```
    """
    check_backend()
    checked = check_attacks(attacks)
    _check_distinct("attacks", tuple(attack.name for attack in checked))
    batch_size = check_batch_size(batch_size)
    task = Task.of(model, images, labels, checked[0].bounds, batch_size, first_index)
    task = task.replace(logits=task.find_mean_logits())
    correct = is_correct(task.logits, task.labels)
    rows = np.flatnonzero(correct)
    withstood = {attack.name: correct.copy() for attack in checked}
    for attack in checked if len(rows) else ():
        withstood[attack.name][rows] = ~np.asarray(attack.attempt(task.select(rows)).fooled)
    return RobustAccuracy(correct, withstood)


def log_probabilities(model: keras.Model, images: Any, batch_size: int = 256) -> np.ndarray:
    """Computes a classifier's soft decisions from its logits: nothing is clipped or saturates.

    ```
    log q_k = z_k − log Σ_j exp(z_j)
    ```

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point.
        batch_size: Examples in one compiled step. Default 256.

    Returns:
        Log-probabilities, float64 `(n, classes)`, in nats.

    Raises:
        ValueError: If the model is no classifier.

    Example:
        ```python
        from hr_keras import evaluation

        predicted = evaluation.log_probabilities(model, x_test).argmax(axis=-1)
        ```
    """
    images = as_array(images)
    classifier_output(model, images)
    step = compiled(model, "predict", build_predict)
    unused = np.zeros(len(images), "int32")
    (found,) = in_batches(step, images, unused, check_batch_size(batch_size))
    logits = found.astype("float64")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def confusion_matrix(
    model: keras.Model, images: Any, labels: Any, batch_size: int = 256
) -> np.ndarray:
    """Computes the semi-empirical confusion matrix: mean soft decisions for each class.

    ```
    C[ŷ, y] = p(ŷ|y) = Σ_i p_i(y) q(ŷ|x_i) / Σ_i p_i(y)
    ```

    Rows are the classifier's decisions ŷ, columns the true classes y. "Semi-empirical": the
    images are a sample, but the decision is the whole softmax, not its largest entry alone.

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point, adversarial or not.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`.
        batch_size: Examples in one compiled step. Default 256.

    Returns:
        Float64 `(classes, classes)`. Each column sums to 1; that of a class without images is
        NaN.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - "A novel loss to train DNNs", section 3

    Example:
        ```python
        from hr_keras import evaluation
        from hr_keras.attacks import FGSM

        adversarial = FGSM(0.1)(model, x_test, y_test)
        matrix = evaluation.confusion_matrix(model, adversarial, y_test)
        distance = np.linalg.norm(np.eye(10) - matrix)  # 0: always right, and certain of it
        ```
    """
    probabilities = np.exp(log_probabilities(model, images, batch_size))
    classes = probabilities.shape[-1]
    labels = check_labels(np.asarray(labels), len(probabilities), classes)
    weights = np.eye(classes)[labels] if labels.ndim == 1 else labels.astype("float64")
    with np.errstate(invalid="ignore"):
        return probabilities.T @ weights / weights.sum(axis=0)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _check_distinct(argument: str, values: tuple[Any, ...]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(
            f"`{argument}` must hold at least one value and none twice. Received: {values}"
        )
