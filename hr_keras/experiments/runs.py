"""Which run folders a command is about: one a data set, new ones or those that are there."""

import pathlib
from typing import NamedTuple

from hr_keras._core import files
from hr_keras.experiments import paper
from hr_keras.experiments.protocol import Protocol, changed, from_preset


class Run(NamedTuple):
    """A protocol and the folder of its results."""

    protocol: Protocol
    folder: pathlib.Path


class Plan(NamedTuple):
    """Runs, a data set each, and the folder of what is about all of them.

    Where there is one run, the folder is that of the run.
    """

    folder: pathlib.Path
    runs: list


def plan(output=None, preset=None, datasets=(), **changes):
    """The runs that a command is about.

    A run folder's own protocol counts unless a preset is asked for, so that the folder alone
    is enough to go on with it, or to draw from it.

    Args:
        output: a run folder, a folder of run folders, or what is to become one; `None`: a
            folder of its own for the protocol under `runs`.
        preset: name of a preset, or `None`: that of the folder, `"quick"` for a new one.
        datasets: none (that of the folder or preset), or several, each with a run folder of
            its own under `output`.
        changes: attributes of `Protocol`; `None` leaves a value as it is.

    Returns:
        A `Plan`. Nothing is written.

    Raises:
        ValueError: for an argument that is not as described, and for a folder that holds
            something else.

    Example:
        >>> runs.plan("results/mnist10k/quick").runs[0].protocol.preset
        'quick'
    """
    _check_distinct(datasets)
    if output is not None:
        output = pathlib.Path(output)
        if not datasets and preset is None and not is_run(output) and (found := runs_in(output)):
            runs = [_run(folder, None, None, changes) for folder in found]
            _check_distinct([run.protocol.dataset for run in runs], found)
            return _several(output, runs)
    if len(datasets) > 1:
        return _plan_several(output, preset, datasets, changes)
    run = _run(output, preset, *(datasets or (None,)), changes)
    return Plan(run.folder, [run])


def _plan_several(output, preset, datasets, changes):
    if output is None:
        output = pathlib.Path("runs") / "_".join([*map(_stem, datasets), preset or "quick"])
    if is_run(output):
        raise ValueError(
            f"{output} is the run folder of one data set. Choose another output folder for several."
        )
    if output.is_dir() and files.holds_anything(output) and not runs_in(output):
        raise ValueError(f"{output} is not empty and holds no run folders. Choose another one.")
    return _several(
        output, [_run(output / _stem(name), preset, name, changes) for name in datasets]
    )


def _several(folder, runs):
    """In the order of the paper's columns, whatever the order asked for."""
    known = list(paper.DATASETS)

    def rank(run):
        name = run.protocol.dataset
        return known.index(name) if name in known else len(known), run.folder.name

    return Plan(folder, sorted(runs, key=rank))


def _run(folder, preset, dataset, changes):
    if preset is None and folder is not None and is_run(folder):
        there = protocol_of(folder)
        if there.evaluated_on != "test":
            raise ValueError(
                f"{folder} is of a search for α, on the validation split: see `hr-keras alpha`."
            )
        protocol = changed(there, dataset=dataset or dataset_of(there), **changes)
    else:
        protocol = from_preset(preset or "quick", dataset=dataset, **changes)
    return Run(protocol, folder or pathlib.Path("runs") / protocol.name)


def protocol_of(folder):
    """The protocol of a run folder."""
    return Protocol.from_json((folder / "protocol.json").read_bytes())


def dataset_of(protocol):
    """The data set's name, which makes `changed` look into its file again.

    `None` for a file that is gone: saved results can still be shown.
    """
    gone = protocol.dataset.endswith(".npz") and not pathlib.Path(protocol.dataset).exists()
    return None if gone else protocol.dataset


def is_run(folder):
    """Whether a folder is a run folder."""
    return (folder / "protocol.json").is_file()


def runs_in(folder):
    """The run folders in a folder."""
    return sorted(path.parent for path in folder.glob("*/protocol.json"))


def _stem(dataset):
    return pathlib.PurePath(dataset).stem


def _check_distinct(datasets, found=()):
    stems = [_stem(name) for name in datasets]
    if len(set(stems)) < len(stems):
        of = f". Give one of {', '.join(map(str, found))}" if found else ""
        raise ValueError(f"Data sets must have names that differ. Received: {', '.join(stems)}{of}")
