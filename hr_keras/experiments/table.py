"""Table 1: training on CE and on HR, attacked with FGSM through the CE and the HR objective."""

import dataclasses
import statistics

from hr_keras.attacks.objectives import ROUTES
from hr_keras.experiments import paper, strong
from hr_keras.experiments.estimate import estimate
from hr_keras.experiments.protocol import LOSSES, Protocol


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table, over the realizations.

    Attributes:
        dataset: as `datasets.load` names it.
        through: route of the attack's gradient, one of `objectives.ROUTES`.
        column: the paper's name of the column.
        trained_on, attack: `"ce"` or `"hr"`.
        epsilon: size of the attack.
        accuracy: mean test accuracy.
        standard_error: of that mean over realizations; `None` for fewer than two.
        zero_gradient_share: mean share of the test examples whose gradient is exactly zero.
        realizations: how many.
        paper: what Table 1 has there, or `None`.
        difference: `accuracy − paper`, or `None`.
    """

    dataset: str
    through: str
    column: str
    trained_on: str
    attack: str
    epsilon: float
    accuracy: float
    standard_error: float | None
    zero_gradient_share: float
    realizations: int
    paper: float | None
    difference: float | None


@dataclasses.dataclass(frozen=True)
class Claim:
    """What training on HR instead of CE changes in one row of the table, in pairs.

    A pair is a CE- and an HR-trained model of the same seed: same split, initial weights and
    order of the data.

    Attributes:
        dataset: as `datasets.load` names it.
        through: route of the attack's gradient.
        attack: `"ce"` or `"hr"`.
        epsilon: size of the attack; for 0, where there is none, `attack` is `"ce"`.
        difference: mean of (accuracy trained on HR − accuracy trained on CE).
        low, high: 95 % interval of that mean, Student's t; `None` for fewer than two pairs.
        pairs: how many.
        paper: the same difference in Table 1, or `None`.
        direction_holds: whether HR is better in the mean, as the paper claims of every cell.
        beyond_chance: whether the interval leaves 0 out; `None` without an interval.
    """

    dataset: str
    through: str
    attack: str
    epsilon: float
    difference: float
    low: float | None
    high: float | None
    pairs: int
    paper: float | None
    direction_holds: bool
    beyond_chance: bool | None


@dataclasses.dataclass(frozen=True)
class Table:
    """Table 1 for one data set: `protocol`, lists of `Cell`, of `Claim` and of `strong.Strong`."""

    protocol: Protocol
    cells: list
    claims: list
    strong: list


def of(protocol, results):
    """The `Table` of a run folder.

    Args:
        protocol: its `Protocol`.
        results: from `experiments.train_all.run`.
    """
    dataset = protocol.dataset
    return Table(
        protocol, cells(results, dataset), claims(results, dataset), strong.rows(results, dataset)
    )


def cells(results, dataset):
    """The cells of Table 1 from the results of `experiments.train_all.run`.

    Args:
        results: from `experiments.train_all.run`.
        dataset: as `datasets.load` names it.

    Returns:
        A list of `Cell`, by route, ε and column of the paper.
    """
    return [
        _cell(results, dataset, through, epsilon, column)
        for through in ROUTES
        for epsilon in _epsilons(results)
        for column in paper.COLUMNS
    ]


def _cell(results, dataset, through, epsilon, column):
    trained_on, attack = paper.COLUMNS[column]
    rows = list(_rows(results, trained_on, through, attack, epsilon).values())
    accuracy = estimate(row["accuracy"] for row in rows)
    published = paper.accuracy(dataset, epsilon, column)
    return Cell(
        dataset=dataset,
        through=through,
        column=column,
        trained_on=trained_on,
        attack=attack,
        epsilon=epsilon,
        accuracy=accuracy.mean,
        standard_error=accuracy.standard_error,
        zero_gradient_share=statistics.fmean(row["zero_gradient_share"] for row in rows),
        realizations=accuracy.realizations,
        paper=published,
        difference=None if published is None else accuracy.mean - published,
    )


def claims(results, dataset):
    """HR − CE for every route, ε and attack, from the results of `experiments.train_all.run`.

    Args:
        results: from `experiments.train_all.run`; the same realizations on CE and on HR.
        dataset: as `datasets.load` names it.

    Returns:
        A list of `Claim`.
    """
    return [
        _claim(results, dataset, through, attack, epsilon)
        for through in ROUTES
        for epsilon in _epsilons(results)
        for attack in (LOSSES if epsilon > 0 else LOSSES[:1])
    ]


def _claim(results, dataset, through, attack, epsilon):
    ce, hr = (_rows(results, loss, through, attack, epsilon) for loss in LOSSES)
    found = estimate(hr[index]["accuracy"] - ce[index]["accuracy"] for index in ce)
    low, high = found.interval or (None, None)
    by_pair = {pair: name for name, pair in paper.COLUMNS.items()}
    of_ce, of_hr = (paper.accuracy(dataset, epsilon, by_pair[loss, attack]) for loss in LOSSES)
    return Claim(
        dataset=dataset,
        through=through,
        attack=attack,
        epsilon=epsilon,
        difference=found.mean,
        low=low,
        high=high,
        pairs=found.realizations,
        paper=None if of_ce is None else round(of_hr - of_ce, 6),
        direction_holds=found.mean > 0,
        beyond_chance=None if low is None else not low <= 0 <= high,
    )


def _epsilons(results):
    return list(dict.fromkeys(row["epsilon"] for row in results[0]["test"]))


def _rows(results, trained_on, through, attack, epsilon):
    """The row of each realization, by its number."""
    return {
        result["index"]: row
        for result in results
        if result["loss"] == trained_on
        for row in result["test"]
        if (row["through"], row["attack"], row["epsilon"]) == (through, attack, epsilon)
    }
