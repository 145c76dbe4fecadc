"""The models of a run folder: those that are missing are trained, several at once."""

import contextlib
import pathlib

from hr_keras import datasets, training
from hr_keras._core import files, replicas, runtime
from hr_keras.experiments import jobs as processes
from hr_keras.experiments import realization
from hr_keras.experiments.protocol import LOSSES, Protocol


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
            stack.enter_context(files.lock_folder(folder))
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
    strategy = training.get_strategy(protocol.strategy)
    if processes.check(jobs) > 1:
        _check_one_device(jobs, strategy)
    tasks = [
        (protocol, loss, index, folder, data_dir)
        for index in range(protocol.realizations)
        for loss in losses
    ]
    with contextlib.ExitStack() as stack:
        if training.is_chief(strategy):
            stack.enter_context(files.lock_folder(folder))
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
    strategy = training.get_strategy(protocol.strategy)
    if training.is_multi_worker(strategy) or strategy.num_replicas_in_sync > 1:
        return 1
    if replicas.gpu_count() > 0:
        return 1
    return runtime.count_processors()


def _check_one_device(jobs, strategy):
    if training.is_multi_worker(strategy) or strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`jobs` must be 1 where a model trains on several devices or with workers. "
            f"Received: {jobs}"
        )
