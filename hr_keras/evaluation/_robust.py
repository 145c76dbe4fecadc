"""Accuracy under several attacks, and under the worst of them for each example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hr_keras._core.attack_view import gather_inputs
from hr_keras._core.checks import check_batch_size, check_count
from hr_keras._core.examples import KEYS, Chunk, Examples, Keys, Preprocess
from hr_keras._core.files import Path
from hr_keras._core.logits import check_backend, classifier_output
from hr_keras._core.unknown_logits import format_accuracies
from hr_keras.attacks import Attack, Task
from hr_keras.attacks._task import is_correct
from hr_keras.attacks.worst_case import check_attacks
from hr_keras.evaluation._chunks import check_distinct, evaluate, open_finished

__all__ = ["RobustAccuracy", "robust_accuracy"]


@dataclass(frozen=True)
class RobustAccuracy:
    """Holds which examples a classifier gets right, clean and under each of several attacks.

    Args:
        correct: Whether the clean example is classified correctly, bool `(n,)`.
        withstood: For the name of each attack, whether the example is classified correctly,
            clean and under this attack, bool `(n,)`.
        logits_known: Whether attacks used the logits of the model. If not, accuracy under attack
            may be far too high, and what is printed says so. Default `True`.
    """

    correct: np.ndarray
    withstood: dict[str, np.ndarray]
    logits_known: bool = True

    def __str__(self) -> str:
        """Returns the accuracies, a line each."""
        attacked = {**self.per_attack, "worst_case": self.worst_case}
        return format_accuracies(self.clean, attacked, self.logits_known)

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
    labels: Any = None,
    attacks: Attack | Sequence[Attack] = (),
    batch_size: int = 256,
    first_index: int = 0,
    *,
    preprocess: Preprocess = None,
    keys: Keys = KEYS,
    progress: bool = False,
    resume: Path | None = None,
) -> RobustAccuracy:
    """Computes accuracy under each of several attacks, and under the worst for each example.

    ```
    worst_case = 1/n · #{i: x_i is classified correctly, and under every attack}
    ```

    Costs one forward pass, and for each attack what it costs for the examples that are
    classified correctly, and a forward pass to verify its images. If the model draws random
    numbers, the mean of 10 passes counts. One `attacks.WorstCase` of the attacks is cheaper.

    Under a `tf.distribute` strategy that the model was built in, examples are spread over its
    devices, with the same results. With several workers, every worker must make this call; if one
    ends, the others raise a `tf.errors.UnavailableError` within a minute.

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point, inside the bounds of the attacks; or a batched
            `tf.data.Dataset` or `keras.utils.PyDataset` of (images, labels), of which a few batches
            are in memory. Whole numbers in a dataset, such as uint8, become float32.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`, of which
            the most probable class counts as the true one. `None` for a dataset.
        attacks: An attack or several, of different names and the same `bounds`, none targeted. At
            least one.
        batch_size: Examples in one compiled step; it replaces that of the attacks. Default 256.
        first_index: Index of the first image, for parts of a data set; see `Attack`. Default 0.
        preprocess: Function from a batch of images to a batch of images inside the bounds, which ε
            and the attacks then apply to. Default `None`.
        keys: Names of images and labels if the elements of a dataset are dicts. Default
            `("image", "label")`.
        progress: Whether to show a progress bar with the time left. Default `False`.
        resume: File of finished examples: those in it are not computed again, and new ones are
            added. One of another model, other settings or other examples is refused. Default
            `None`.

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
        print(result)  # every accuracy
        print(result.clean, result.per_attack["pgd_margin_0.1"], result.worst_case)
        ```
    """
    check_backend()
    checked = check_attacks(attacks)
    check_distinct("attacks", tuple(attack.name for attack in checked))
    batch_size = check_batch_size(batch_size)
    first_index = check_count("first_index", first_index, lowest=0)

    def attack(chunk: Chunk) -> dict[str, np.ndarray]:
        index = first_index + chunk.first_index
        bounds = checked[0].bounds
        task = Task.of(model, chunk.images, chunk.labels, bounds, batch_size, index)
        return {"correct": _withstand(task, checked)}

    examples = Examples.of(gather_inputs(model, images), labels, preprocess, keys)
    settings = {
        "attacks": checked,
        "batch_size": batch_size,
        "first_index": first_index,
    }
    finished = open_finished(resume, model, settings)
    correct = evaluate(attack, model, examples, batch_size, progress, finished)["correct"].T
    names = (one.name for one in checked)
    logits_known = classifier_output(model).kind != "probabilities"
    return RobustAccuracy(correct[0], dict(zip(names, correct[1:], strict=True)), logits_known)


def _withstand(task: Task, attacks: Sequence[Attack]) -> np.ndarray:
    """Finds which examples are classified correctly, clean and under each attack: `(n, 1 + k)`."""
    task = task.replace(logits=task.find_mean_logits())
    correct = np.asarray(is_correct(task.logits, task.labels))
    rows = np.flatnonzero(correct)
    columns = [correct]
    for attack in attacks:
        still = correct.copy()
        if len(rows):
            still[rows] = ~np.asarray(attack.attempt(task.select(rows)).fooled)
        columns.append(still)
    return np.stack(columns, axis=1)
