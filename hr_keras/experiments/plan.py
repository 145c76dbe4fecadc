"""Which run folders a command works on: one for each data set, new or existing."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from hr_keras._core import files
from hr_keras.experiments.protocol import (
    PAPER_PRESETS,
    Protocol,
    change_protocol,
    from_preset,
)
from hr_keras.experiments.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Run:
    """A protocol and the path of its run folder, which may not exist yet."""

    protocol: Protocol
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Plan:
    """Runs of different data sets, and the folder for what is about all of them.

    With a single run, the folder is that of the run.
    """

    folder: pathlib.Path
    runs: tuple[Run, ...]

    def create(self) -> list[RunFolder]:
        """Creates or opens the run folders; see `RunFolder.create`."""
        return [RunFolder.create(run.path, run.protocol) for run in self.runs]


def plan_runs(
    output: str | pathlib.Path | None = None,
    preset: str | None = None,
    datasets: Sequence[str] = (),
    **changes: Any,
) -> Plan:
    """Returns the runs that a command works on. Nothing is written.

    The protocol of an existing run folder is used unless a preset is given. The folder alone is
    therefore enough to resume it, or to draw from it.

    Args:
        output: A run folder, a folder of run folders, or the path of a new one; `None` for
            a new folder in `runs`, named after the protocol.
        preset: Name of a preset; `None` for that of the folder, or `"quick"` for a new one.
        datasets: None (that of the folder or preset), or several, each with a run folder inside
            `output`.
        changes: Arguments of `Protocol`; `None` keeps a value.

    Raises:
        ValueError: For an argument that is not as described, and for a folder that holds
            something else.

    Example:

    ```python
    from hr_keras.experiments.plan import plan_runs

    plan = plan_runs(tmp_path / "run", preset="quick", realizations=1)
    folders = plan.create()
    ```
    """
    _check_distinct([_stem(name) for name in datasets])
    if output is not None:
        output = pathlib.Path(output)
        is_open = not datasets and preset is None and not RunFolder.is_run_folder(output)
        if is_open and (found := RunFolder.find_in(output)):
            return _sort_runs(output, [_plan_run(path, None, None, changes) for path in found])
    if len(datasets) > 1:
        return _plan_several(output, preset, datasets, changes)
    run = _plan_run(output, preset, datasets[0] if datasets else None, changes)
    return Plan(run.path, (run,))


def plan_grid(
    field: str,
    values: Sequence[float],
    default: Callable[[Protocol], Sequence[float]],
    output: str | pathlib.Path | None = None,
    preset: str | None = None,
    datasets: Sequence[str] = (),
    **changes: Any,
) -> Plan:
    """Returns runs that differ in one value, each in its folder. Nothing is written.

    Args:
        field: Name of that argument of `Protocol`.
        values: To try, besides those of the folder; none: `default` for a new one.
        default: Gives the values for a protocol.
        output: Folder of such runs, or the path of a new one; `None` for one in `runs`.
        preset: Name of a preset; `None` for that of the folder, or `"quick"` for a new one.
        datasets: None (that of the folder or preset), or one.
        changes: Arguments of `Protocol`; `None` keeps a value. `evaluated_on` must be there.

    Raises:
        ValueError: For a value that the protocol refuses or that is given twice, several data
            sets, and a folder that holds something else.
    """
    if len(datasets) > 1:
        raise ValueError(
            f"Runs that differ in `{field}` take one data set. Received: {', '.join(datasets)}"
        )
    if len(set(values)) < len(values):
        raise ValueError(
            f"The values of `{field}` must differ. Received: {', '.join(map(str, values))}"
        )
    (dataset,) = datasets or (None,)
    before = [] if output is None else _read_grid(pathlib.Path(output), field, changes)
    if before and preset is None:
        base = change_protocol(before[0], dataset=dataset or find_dataset(before[0]), **changes)
        values = [*values, *(getattr(protocol, field) for protocol in before)]
    else:
        base = from_preset(preset or "quick", dataset=dataset, **changes)
    folder = pathlib.Path(output or pathlib.Path("runs") / f"{base.name}_{field}")
    found = [
        change_protocol(base, **{field: value}) for value in sorted({*(values or default(base))})
    ]
    return Plan(
        folder, tuple(Run(one, folder / f"{field}-{getattr(one, field):g}") for one in found)
    )


def _read_grid(path: pathlib.Path, field: str, changes: dict[str, Any]) -> list[Protocol]:
    """The protocols of the runs that a folder of `plan_grid` holds."""
    if RunFolder.is_run_folder(path):
        raise ValueError(
            f"{path} is a run folder: choose the folder that holds those of each `{field}`, or "
            "another one."
        )
    paths = RunFolder.find_in(path)
    if not paths and path.is_dir() and files.holds_anything(path):
        raise ValueError(
            f"{path} is not empty and holds no runs of one `{field}` each. Choose another folder."
        )
    found = [RunFolder(one).protocol for one in paths]
    for one in found:
        if one.evaluated_on != changes["evaluated_on"]:
            raise ValueError(
                f"{path} holds runs that were evaluated on the {one.evaluated_on} split, not on "
                f"the {changes['evaluated_on']} split. Choose another output folder."
            )
    if not all(one.name.startswith(f"{field}-") for one in paths):
        raise ValueError(
            f"{path} holds other runs than those of one `{field}` each. Choose another output "
            "folder."
        )
    return found


def _plan_several(
    output: pathlib.Path | None,
    preset: str | None,
    datasets: Sequence[str],
    changes: dict[str, Any],
) -> Plan:
    if output is None:
        output = pathlib.Path("runs") / "_".join([*map(_stem, datasets), preset or "quick"])
    if RunFolder.is_run_folder(output):
        raise ValueError(
            f"{output} is the run folder of one data set. Choose another output folder for several."
        )
    if output.is_dir() and files.holds_anything(output) and not RunFolder.find_in(output):
        raise ValueError(f"{output} is not empty and holds no run folders. Choose another one.")
    runs = [_plan_run(output / _stem(name), preset, name, changes) for name in datasets]
    return _sort_runs(output, runs)


def _sort_runs(folder: pathlib.Path, runs: list[Run]) -> Plan:
    """In the order of the paper's columns, whatever the order asked for."""
    _check_distinct([run.protocol.data_title for run in runs], [run.path for run in runs])
    known = list(PAPER_PRESETS)

    def rank(run: Run) -> tuple[int, str]:
        name = run.protocol.paper_dataset
        return known.index(name) if name in known else len(known), run.path.name

    return Plan(folder, tuple(sorted(runs, key=rank)))


def _plan_run(
    path: pathlib.Path | None, preset: str | None, dataset: str | None, changes: dict[str, Any]
) -> Run:
    if preset is None and path is not None and RunFolder.is_run_folder(path):
        before = RunFolder(path).protocol
        if before.evaluated_on != "test":
            raise ValueError(
                f"{path} belongs to a search on the validation split: see `hr-keras alpha` and "
                "`hr-keras tune`."
            )
        protocol = change_protocol(before, dataset=dataset or find_dataset(before), **changes)
    else:
        protocol = from_preset(preset or "quick", dataset=dataset, **changes)
    return Run(protocol, path or pathlib.Path("runs") / protocol.name)


def find_dataset(protocol: Protocol) -> str | None:
    """Returns the name of the data set, which makes `change_protocol` read its file again.

    `None` for a file that is gone: saved results can still be shown.
    """
    is_gone = protocol.dataset.endswith(".npz") and not pathlib.Path(protocol.dataset).exists()
    return None if is_gone else protocol.dataset


def _stem(dataset: str) -> str:
    return pathlib.PurePath(dataset).stem


def _check_distinct(names: Sequence[str], paths: Sequence[pathlib.Path] = ()) -> None:
    if len(set(names)) < len(names):
        hint = f". Give one of {', '.join(map(str, paths))}" if paths else ""
        raise ValueError(
            f"Data sets must have names that differ. Received: {', '.join(names)}{hint}"
        )
