"""Table 1: training on CE and on HR, attacked with FGSM through the CE and the HR objective."""

import dataclasses
import math
import pathlib
import statistics

from hr_keras import distribution
from hr_keras.attacks.objectives import ROUTES
from hr_keras.experiments import realization
from hr_keras.experiments.protocol import LOSSES, Protocol
from hr_keras.files import write_atomically

# The paper's columns: its name, trained on, attacked with.
COLUMNS = (("CE", "ce", "ce"), ("HR_CE", "hr", "ce"), ("HR", "hr", "hr"), ("CE_HR", "ce", "hr"))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table, over the realizations.

    Attributes:
        through: route of the attack's gradient, one of `objectives.ROUTES`.
        column: the paper's name of the column.
        trained_on, attack: `"ce"` or `"hr"`.
        epsilon: size of the attack.
        accuracy: mean test accuracy.
        standard_error: of that mean over realizations; `None` for fewer than two.
        zero_gradient_share: mean share of the test examples whose gradient is exactly zero.
        realizations: how many.
    """

    through: str
    column: str
    trained_on: str
    attack: str
    epsilon: float
    accuracy: float
    standard_error: float | None
    zero_gradient_share: float
    realizations: int


def open_folder(folder, protocol):
    """Make `folder` a run folder of `protocol`, or check that it is one.

    Raises:
        ValueError: if it holds another protocol (apart from the number of realizations,
            which may change), or something else.
    """
    folder = pathlib.Path(folder)
    path = folder / "protocol.json"
    if path.exists():
        there = Protocol.from_json(path.read_bytes())
        if names := there.differences(protocol):
            changes = [
                f"{name}={getattr(there, name)!r} there, {getattr(protocol, name)!r} now"
                for name in names
            ]
            raise ValueError(
                f"{folder} holds results of a different protocol: {'; '.join(changes)}. "
                "Choose another output folder; nothing there was changed."
            )
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not a run folder (it has no protocol.json) and is not empty. "
            "Choose another output folder; nothing there was changed."
        )
    write_atomically(path, protocol.to_json())


def run(protocol, folder, data_dir=None, on_epoch=None):
    """Every realization of a protocol, on CE and on HR; what the folder already has is kept.

    Args:
        protocol: a `Protocol`.
        folder: run folder, see `open_folder`.
        data_dir: where tensorflow-datasets has its data.
        on_epoch: called as `on_epoch(index, loss, epochs_done)`.

    Returns:
        The results of `realization.run`, one for each (index, loss). With several workers
        every one must make this call; all but the chief get a list of `None`.
    """
    if distribution.is_chief(distribution.get_strategy(protocol.strategy)):
        open_folder(folder, protocol)
    results = []
    for index in range(protocol.realizations):
        for loss in LOSSES:
            report = None if on_epoch is None else _partial(on_epoch, index, loss)
            results.append(realization.run(protocol, loss, index, folder, data_dir, report))
            if report is not None:
                report(protocol.epochs)
    return results


def _partial(on_epoch, index, loss):
    return lambda done: on_epoch(index, loss, done)


def cells(results):
    """The cells of Table 1 from the results of `run`.

    Returns:
        A list of `Cell`, by route, ε and column of the paper.
    """
    epsilons = list(dict.fromkeys(row["epsilon"] for row in results[0]["test"]))
    return [
        _cell(results, through, epsilon, *column)
        for through in ROUTES
        for epsilon in epsilons
        for column in COLUMNS
    ]


def _cell(results, through, epsilon, column, trained_on, attack):
    rows = [
        row
        for result in results
        if result["loss"] == trained_on
        for row in result["test"]
        if (row["through"], row["attack"], row["epsilon"]) == (through, attack, epsilon)
    ]
    accuracies = [row["accuracy"] for row in rows]
    n = len(accuracies)
    return Cell(
        through=through,
        column=column,
        trained_on=trained_on,
        attack=attack,
        epsilon=epsilon,
        accuracy=statistics.fmean(accuracies),
        standard_error=statistics.stdev(accuracies) / math.sqrt(n) if n > 1 else None,
        zero_gradient_share=statistics.fmean(row["zero_gradient_share"] for row in rows),
        realizations=n,
    )
