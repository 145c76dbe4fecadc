"""The honest column of Table 1: what stronger attacks than FGSM leave of the same models."""

import dataclasses

from hr_keras import datasets, evaluation
from hr_keras._core.files import write_atomically
from hr_keras.attacks import worst_case
from hr_keras.experiments import measurements
from hr_keras.experiments.estimate import estimate
from hr_keras.experiments.protocol import LOSSES


@dataclasses.dataclass(frozen=True)
class Strong:
    """What one attack leaves of the models trained on CE and on HR, and the difference.

    Attributes:
        dataset: as `datasets.load` names it.
        attack: its name, see `attacks.named`.
        examples: test images attacked, the first of the split.
        epsilon: size of the attack; at 0 the accuracy of the same images without attack.
        ce, hr: mean accuracy of the models trained on it.
        ce_error, hr_error: standard errors over realizations; `None` for fewer than two.
        difference: mean of (trained on HR − trained on CE), in pairs of the same seed.
        low, high: its 95 % interval, Student's t; `None` for fewer than two pairs.
        pairs: how many.
        direction_holds: whether HR is better in the mean.
        beyond_chance: whether the interval leaves 0 out; `None` without an interval.
    """

    dataset: str
    attack: str
    examples: int
    epsilon: float
    ce: float
    ce_error: float | None
    hr: float
    hr_error: float | None
    difference: float
    low: float | None
    high: float | None
    pairs: int
    direction_holds: bool
    beyond_chance: bool | None


def completed(protocol, result, attack, examples, folder, data_dir=None):
    """A result that holds what an attack leaves of its model.

    Where it is missing, the saved model is attacked, once, at each ε > 0 of the protocol,
    and `strong`, a list of `attack, examples, epsilon, accuracy`, is kept in the result's file.

    Args:
        protocol: the `Protocol` of the run folder.
        result: of `realization.run`.
        attack: one of `attacks.named.NAMES`.
        examples: how many test images, the first; `None`: all of them.
        folder: the run folder, which may hold the model.
        data_dir: where tensorflow-datasets has its data.

    Raises:
        ValueError: if neither the accuracies nor the model is there.
    """
    size = min(examples or result["test_size"], result["test_size"])
    kept = result.get("strong", [])
    if any((row["attack"], row["examples"]) == (attack, size) for row in kept):
        return result
    model = measurements.saved_model(result, folder, f"attack {attack!r} on {size} examples")
    data = datasets.load(protocol.dataset, protocol.validation, result["seed"], data_dir)
    rows = _attack(model, attack, *(array[:size] for array in data.test), protocol.epsilons)
    result = {**result, "strong": [*kept, *rows]}
    path = folder / f"{measurements.stem(result)}.json"
    write_atomically(path, measurements.result_json(result))
    return result


def _attack(model, attack, images, labels, epsilons):
    found = {
        epsilon: evaluation.robust_accuracy(
            model, images, labels, worst_case.make_attack(attack, epsilon)
        )
        for epsilon in epsilons
        if epsilon > 0
    }
    shared = {"attack": attack, "examples": len(images)}
    clean = next(iter(found.values())).clean
    return [
        {**shared, "epsilon": 0.0, "accuracy": clean},
        *(
            {**shared, "epsilon": epsilon, "accuracy": each.worst_case}
            for epsilon, each in found.items()
        ),
    ]


def unfinished(results):
    """Of every attack that not all results were put under: `(attack, examples)` → how many were."""
    under = [{(row["attack"], row["examples"]) for row in r.get("strong", [])} for r in results]
    counts = {key: sum(key in keys for keys in under) for key in sorted(set().union(*under))}
    return {key: count for key, count in counts.items() if count < len(results)}


def rows(results, dataset):
    """The honest column from results: of every attack that each of them was put under.

    Args:
        results: of `realization.run`, the same realizations on CE and on HR.
        dataset: as `datasets.load` names it.

    Returns:
        A list of `Strong`, by attack, number of examples and ε.
    """
    found = [
        {(row["attack"], row["examples"], row["epsilon"]): row["accuracy"] for row in strong}
        for strong in (result.get("strong", []) for result in results)
    ]
    shared = [key for key in found[0] if all(key in other for other in found)]
    of = {
        loss: [row for row, result in zip(found, results, strict=True) if result["loss"] == loss]
        for loss in LOSSES
    }
    return [
        _row(dataset, key, *([row[key] for row in of[loss]] for loss in LOSSES)) for key in shared
    ]


def _row(dataset, key, ce, hr):
    of_ce, of_hr = estimate(ce), estimate(hr)
    difference = estimate(b - a for a, b in zip(ce, hr, strict=True))
    low, high = difference.interval or (None, None)
    attack, examples, epsilon = key
    return Strong(
        dataset=dataset,
        attack=attack,
        examples=examples,
        epsilon=epsilon,
        ce=of_ce.mean,
        ce_error=of_ce.standard_error,
        hr=of_hr.mean,
        hr_error=of_hr.standard_error,
        difference=difference.mean,
        low=low,
        high=high,
        pairs=difference.realizations,
        direction_holds=difference.mean > 0,
        beyond_chance=None if low is None else not low <= 0 <= high,
    )
