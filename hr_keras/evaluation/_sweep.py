"""Accuracy under FGSM for several objectives and ε, from one gradient for each objective."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hr_keras._core.attack_view import gather_inputs
from hr_keras._core.checks import check_batch_size, check_bounds, check_epsilons
from hr_keras._core.compiled import compiled, in_batches
from hr_keras._core.examples import KEYS, Chunk, Examples, Keys, Preprocess
from hr_keras._core.files import Path
from hr_keras._core.logits import check_backend
from hr_keras.attacks import objectives as objectives_module
from hr_keras.attacks._perturbation import Bounds
from hr_keras.attacks._task import Task
from hr_keras.attacks.fgsm import build_sweep
from hr_keras.attacks.objectives import Identifier, Route, check_route
from hr_keras.evaluation._chunks import check_distinct, evaluate, open_finished

__all__ = ["Sweep", "sweep"]


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
    labels: Any = None,
    objectives: Identifier | Sequence[Identifier] = ("ce", "hr"),
    epsilons: Sequence[float] = (0.0, 0.1, 0.25),
    through: Route = "logits",
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    jit_compile: bool = False,
    *,
    preprocess: Preprocess = None,
    keys: Keys = KEYS,
    progress: bool = False,
    resume: Path | None = None,
) -> Sweep:
    """Computes accuracy under FGSM for every objective and ε, and the share of zero gradients.

    ```
    accuracy(L, ε) = 1/n · #{i: argmax_k z_k(x_i + ε·sign ∇L(x_i, y_i)) = y_i}
    ```

    Costs one forward pass, one backward pass for each objective and one forward pass for each
    (objective, ε > 0); the accuracy at ε = 0 comes from the first. Memory is that of a few batches.
    A second call with the same model, objectives and batch shape compiles nothing.

    Under a `tf.distribute` strategy that the model was built in, examples are spread over its
    devices, with the same results. With several workers, every worker must make this call; if one
    ends, the others raise a `tf.errors.UnavailableError` within a minute.

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point, inside `bounds`; or a batched `tf.data.Dataset` or
            `keras.utils.PyDataset` of (images, labels), of which a few batches are in memory.
            Whole numbers in a dataset, such as uint8, become float32.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`, of which
            the most probable class counts as the true one. `None` for a dataset.
        objectives: `"ce"`, `"hr"`, Keras losses or callables, one or several; see
            `attacks.FGSM`. Default `("ce", "hr")`.
        epsilons: ε values in the units of the images, each at least 0. Default
            `(0.0, 0.1, 0.25)`.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        preprocess: Function from a batch of images to a batch of images inside `bounds`, which ε
            and the attack then apply to. Default `None`.
        keys: Names of images and labels if the elements of a dataset are dicts. Default
            `("image", "label")`.
        progress: Whether to show a progress bar with the time left. Default `False`.
        resume: File of finished examples: those in it are not computed again, and new ones are
            added. One of another model, other settings or other examples is refused. Default
            `None`.

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
    given = _as_tuple(objectives)
    found = tuple(objectives_module.get(objective) for objective in given)
    names = tuple(objective.name for objective in found)
    check_distinct("objectives", names)
    values = check_epsilons(epsilons)
    check_distinct("epsilons", values)
    bounds, through = check_bounds(bounds), check_route(through)
    batch_size = check_batch_size(batch_size)
    positive = np.array([epsilon for epsilon in values if epsilon > 0], "float64")

    def attack(chunk: Chunk) -> dict[str, np.ndarray]:
        data = (chunk.images, chunk.labels)
        task = Task.of(model, *data, bounds, batch_size, chunk.first_index)
        step = compiled(
            model,
            ("sweep", found, through, bounds),
            lambda model_ref: build_sweep(model_ref, found, through, bounds),
            jit_compile,
        )
        arrays = in_batches(
            step,
            task.images,
            task.labels,
            batch_size,
            positive,
            per_example=task.others,
            fill=not chunk.is_whole,
        )
        return dict(zip(("clean", "attacked", "zero"), arrays, strict=True))

    examples = Examples.of(gather_inputs(model, images), labels, preprocess, keys)
    settings = {
        "attack": "sweep",
        "objectives": [objectives_module.check_objective(one, False) for one in given],
        "epsilons": values,
        "through": through,
        "bounds": bounds,
        "batch_size": batch_size,
    }
    finished = open_finished(resume, model, settings)
    results = evaluate(attack, model, examples, batch_size, progress, finished)
    clean, zero = results["clean"], results["zero"]
    columns = iter(np.moveaxis(results["attacked"].astype(bool), 0, -1))  # (ε > 0, objectives, n)
    unattacked = np.broadcast_to(clean, (len(found), len(clean)))
    correct = [next(columns) if epsilon > 0 else unattacked for epsilon in values]
    return Sweep(names, values, through, np.stack(correct, axis=1), zero.T.astype(bool))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
