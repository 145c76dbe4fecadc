"""How many epochs training on CE and on HR take to reach a validation accuracy."""

import dataclasses
import math

from hr_keras.experiments.estimate import estimate
from hr_keras.experiments.protocol import LOSSES

# The paper says "faster" and names no accuracy: shares of what every run of the folder reaches.
SHARES = (0.9, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class Convergence:
    """Epochs until the validation accuracy is first at least `accuracy`.

    Attributes:
        dataset: as `datasets.load` names it.
        accuracy: the validation accuracy to reach.
        ce, hr: mean number of epochs of those realizations that reach it; `None` if none does.
        ce_reached, hr_reached: how many realizations reach it.
        realizations: how many there are.
        difference: mean of (epochs on HR − epochs on CE) over the pairs that both reach it,
            `None` without such a pair; negative where HR is faster.
        low, high: 95 % interval of that mean, Student's t; `None` for fewer than two pairs.
        pairs: how many.
    """

    dataset: str
    accuracy: float
    ce: float | None
    hr: float | None
    ce_reached: int
    hr_reached: int
    realizations: int
    difference: float | None
    low: float | None
    high: float | None
    pairs: int


def check_accuracies(accuracies):
    """A ValueError unless each accuracy is in (0, 1]."""
    for accuracy in accuracies:
        if not 0 < accuracy <= 1:
            raise ValueError(f"An accuracy to reach must be in (0, 1]. Received: {accuracy}")


def convergence(results, dataset, accuracies=()):
    """CE against HR, for each validation accuracy.

    Args:
        results: from `experiments.train_all.run`.
        dataset: as `datasets.load` names it.
        accuracies: validation accuracies, each in (0, 1]; by default, those of
            `SHARES` of the accuracy that every run reaches.

    Returns:
        A list of `Convergence`.

    Raises:
        ValueError: for an accuracy out of range.
    """
    check_accuracies(accuracies)
    return [_reach(results, dataset, value) for value in accuracies or _usual(results)]


def _usual(results):
    reached = min(max(result["history"]["val_accuracy"]) for result in results)
    return [math.floor(1000 * share * reached) / 1000 for share in SHARES]


def _reach(results, dataset, accuracy):
    epochs = {
        loss: {r["index"]: _first(r, accuracy) for r in results if r["loss"] == loss}
        for loss in LOSSES
    }
    reached = {
        loss: {k: epoch for k, epoch in found.items() if epoch is not None}
        for loss, found in epochs.items()
    }
    both = [k for k in reached["ce"] if k in reached["hr"]]
    difference = estimate(reached["hr"][k] - reached["ce"][k] for k in both) if both else None
    low, high = (difference and difference.interval) or (None, None)
    mean = {loss: estimate(found.values()).mean for loss, found in reached.items() if found}
    return Convergence(
        dataset=dataset,
        accuracy=accuracy,
        ce=mean.get("ce"),
        hr=mean.get("hr"),
        ce_reached=len(reached["ce"]),
        hr_reached=len(reached["hr"]),
        realizations=len(epochs["ce"]),
        difference=difference and difference.mean,
        low=low,
        high=high,
        pairs=len(both),
    )


def _first(result, accuracy):
    history = result["history"]["val_accuracy"]
    return next((k for k, value in enumerate(history, 1) if value >= accuracy), None)
