"""Table 1: training on CE and on HR, attacked with FGSM through the CE and the HR objective."""

import contextlib
import dataclasses
import pathlib
import statistics

from hr_keras import datasets, distribution, files
from hr_keras.attacks.objectives import ROUTES
from hr_keras.experiments import jobs as processes
from hr_keras.experiments import paper, realization, strong
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
        results: from `run`.
    """
    dataset = protocol.dataset
    return Table(
        protocol, cells(results, dataset), claims(results, dataset), strong.rows(results, dataset)
    )


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
        if there == protocol:
            return  # the file may be an earlier version's; it stays as it is
        if names := there.differences(protocol):
            changes = [
                f"{name}={getattr(there, name)!r} there, {getattr(protocol, name)!r} now"
                for name in names
            ]
            raise ValueError(
                f"{folder} holds results of a different protocol: {'; '.join(changes)}. "
                "Choose another output folder; nothing there was changed."
            )
    elif folder.is_file() or (folder.is_dir() and files.holds_anything(folder)):
        raise ValueError(
            f"{folder} is not a run folder (it has no protocol.json) and is not empty. "
            "Choose another output folder; nothing there was changed."
        )
    files.write_atomically(path, protocol.to_json())


@contextlib.contextmanager
def opened(plan):
    """`open_folder` for each run of a plan, with other processes kept out until the block ends.

    Args:
        plan: a `runs.Plan`.

    Raises:
        ValueError: as `open_folder`, and if another process is at work in one of the folders.
    """
    with contextlib.ExitStack() as stack:
        for folder in (plan.folder, *(run.folder for run in plan.runs)):
            stack.enter_context(files.exclusive(folder))
        for run in plan.runs:
            open_folder(run.folder, run.protocol)
        yield


def run(protocol, folder, data_dir=None, on_epoch=None, losses=LOSSES, jobs=1):
    """Every realization of a protocol, on CE and on HR; what the folder already has is kept.

    Args:
        protocol: a `Protocol`.
        folder: run folder, see `open_folder`.
        data_dir: where tensorflow-datasets has its data.
        on_epoch: called as `on_epoch(index, loss, epochs_done)`; first for what is there.
        losses: what to train on.
        jobs: how many to train at once, see `jobs.run`; 1: in this process, on all cores.

    Returns:
        The results of `realization.run`, one for each (index, loss). With several workers
        every one must make this call; all but the chief get a list of `None`.

    Raises:
        ValueError: for more `jobs` than cores, or than 1 where one model has several devices;
            if another process is at work in the folder.
    """
    strategy = distribution.get_strategy(protocol.strategy)
    if processes.check(jobs) > 1:
        _check_one_device(jobs, strategy)
    tasks = [
        (protocol, loss, index, folder, data_dir)
        for index in range(protocol.realizations)
        for loss in losses
    ]
    with contextlib.ExitStack() as stack:
        if distribution.is_chief(strategy):
            stack.enter_context(files.exclusive(folder))
            open_folder(folder, protocol)
        return _run(tasks, jobs, on_epoch)


def _run(tasks, jobs, on_epoch):
    reports = [_report(on_epoch, loss, index) for _, loss, index, *_ in tasks]
    new = [k for k, task in enumerate(tasks) if not _is_done(task)]
    for k, (protocol, *_) in enumerate(tasks):
        if k not in new:  # at once, or the processes' reports would come before
            reports[k](protocol.epochs)
            reports[k] = None
    if jobs > 1 and new:
        _prepare(*tasks[0])
        processes.run(
            realization.run, [tasks[k] for k in new], jobs, lambda k, done: reports[new[k]](done)
        )
    return [realization.run(*task, report) for task, report in zip(tasks, reports, strict=True)]


def _is_done(task):
    _, loss, index, folder, _ = task
    return realization.result_path(folder, loss, index).exists()


def _prepare(protocol, loss, index, folder, data_dir):
    """The data set, once, not by all processes at once."""
    if protocol.dataset in datasets.TFDS:
        datasets.load(protocol.dataset, data_dir=data_dir)


def _report(on_epoch, loss, index):
    def report(done):
        if on_epoch is not None:
            on_epoch(index, loss, done)

    return report


def default_jobs(protocol):
    """As many jobs as cores, where a model trains on one device that is a CPU; else 1.

    However few models there are: one thread each, so that neither the number of realizations
    nor that of cores changes what is trained, or keeps it from going on.
    """
    strategy = distribution.get_strategy(protocol.strategy)
    if distribution.is_multi_worker(strategy) or strategy.num_replicas_in_sync > 1:
        return 1
    if distribution.gpu_count() > 0:
        return 1
    return processes.processors()


def _check_one_device(jobs, strategy):
    if distribution.is_multi_worker(strategy) or strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`jobs` must be 1 where a model trains on several devices or with workers. "
            f"Received: {jobs}"
        )


def cells(results, dataset):
    """The cells of Table 1 from the results of `run`.

    Args:
        results: from `run`.
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
    """HR − CE for every route, ε and attack, from the results of `run`.

    Args:
        results: from `run`; the same realizations on CE and on HR.
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
