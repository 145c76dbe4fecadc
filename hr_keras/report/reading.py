"""Folders for a page: what they hold, and whether it belongs together."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from hr_keras import audit
from hr_keras._core.rendering import ROUTE_LABELS, plain_text
from hr_keras.experiments.result import Result
from hr_keras.experiments.results import learning_rates
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.report.audit_part import make_audit_part
from hr_keras.report.parts import Part
from hr_keras.report.run_parts import make_run_part, make_search_part


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a page shows of some folders.

    Args:
        parts: At least one.
        unfinished: Names of run folders that are not shown: a method has no trained model yet.
    """

    parts: tuple[Part, ...]
    unfinished: tuple[str, ...]


def read_folders(paths: Sequence[pathlib.Path]) -> Contents:
    """Reads folders.

    Args:
        paths: Run folders, folders of run folders, searches for α, or audits.

    Raises:
        ValueError: If one is none of these, holds no results or those of two protocols, or a file
            is damaged.
    """
    read = [_read_folder(path) for path in paths]
    return Contents(
        tuple(part for one in read for part in one.parts),
        tuple(name for one in read for name in one.unfinished),
    )


def _read_folder(path: pathlib.Path) -> Contents:
    if not path.is_dir():
        problem = "is a file: give its folder" if path.exists() else "does not exist"
        raise ValueError(f"{path} {problem}.")
    runs = [path] if RunFolder.is_run_folder(path) else RunFolder.find_in(path)
    audited = audit.read_audit(path)
    if audited is not None:
        if runs:
            raise ValueError(f"{path} holds an audit and a run: give each a folder.")
        return Contents((make_audit_part(audited),), ())
    if not runs:
        raise ValueError(f"{path} holds no results: no protocol.json, no audit.json.")
    folders = list(map(RunFolder, runs))
    if any(learning_rates.is_searched(folder) for folder in folders):
        raise ValueError(f"{path} is a search for learning rates: read learning_rates.md.")
    finished = [folder for folder in folders if _has_every_method(folder)]
    if not finished:
        raise ValueError(
            f"{path} holds no results yet: each method needs a trained model. The command that "
            "made the folder finishes it."
        )
    for folder in finished:
        _check_results(folder)
    searched = [folder for folder in finished if folder.protocol.evaluated_on == "validation"]
    if searched:
        _check_search(path, searched)
    parts = [make_run_part(folder) for folder in finished if folder not in searched]
    parts += [make_search_part(searched)] if searched else []
    unfinished = [folder.path.name for folder in folders if folder not in finished]
    return Contents(tuple(parts), tuple(map(plain_text, unfinished)))


def _has_every_method(folder: RunFolder) -> bool:
    return {result.method for result in folder.results()} == set(folder.protocol.methods)


def _check_results(folder: RunFolder) -> None:
    """What the protocol determines must be in each result, and the same in all of them."""
    first, *others = folder.results()
    for other in others:
        before, now = (_describe_result(one, folder) for one in (first, other))
        if differ := [name for name in before if before[name] != now[name]]:
            raise ValueError(
                f"{folder.path} holds results of two protocols: those of {first.method} "
                f"{first.realization} and {other.method} {other.realization} differ in "
                f"{', '.join(differ)}."
            )
    for result in (first, *others):
        if missing := _find_missing(result):
            raise ValueError(
                f"{folder.path} is damaged: the result of {result.method} {result.realization} "
                f"lacks {', '.join(missing)}."
            )


def _find_missing(result: Result) -> list[str]:
    accuracies = result.history.get("val_accuracy", ())
    routes = {one.through for one in result.accuracies if one.attack.startswith("fgsm_")}
    splits = {one.split for one in result.error_terms if one.divergence}
    found = {
        "val_accuracy": any(value is not None for value in accuracies),
        **{f"FGSM {label}": route in routes for route, label in ROUTE_LABELS.items()},
        "error terms": not result.error_terms or {"train", "test"} <= splits,
    }
    return [name for name, there in found.items() if not there]


def _describe_result(result: Result, folder: RunFolder) -> dict[str, Any]:
    return {
        "seed": result.seed - result.realization,
        "epochs": max((len(values) for values in result.history.values()), default=0),
        "split": {one.split for one in result.accuracies},
        "sizes of FGSM": {
            one.epsilon for one in result.accuracies if one.attack.startswith("fgsm_")
        },
    }


def _check_search(path: pathlib.Path, folders: list[RunFolder]) -> None:
    """Only α differs between the folders of a search, and it differs between any two."""
    first = folders[0].protocol
    for folder in folders[1:]:
        differ = [name for name in first.differences(folder.protocol) if name != "alpha"]
        if differ:
            raise ValueError(
                f"{path} holds searches of two protocols: {folders[0].path.name} and "
                f"{folder.path.name} differ in {', '.join(differ)}."
            )
    if len({folder.protocol.alpha for folder in folders}) < len(folders):
        raise ValueError(f"{path} holds two searches: an α is in two folders.")
