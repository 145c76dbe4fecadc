"""What a page shows of each folder: Markdown, figures and data from the modules of the results."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from hr_keras import audit
from hr_keras._core.rendering import plain_text
from hr_keras.audit import report as audit_report
from hr_keras.experiments.results import (
    accuracy_table,
    alpha_search,
    confidence,
    confusion,
    convergence,
    saturation,
    verdict,
)
from hr_keras.experiments.results.tables import describe_versions, join_sections
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.report.drawing import draw

if TYPE_CHECKING:
    from hr_keras.audit import AuditResult


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Args:
        svg: Inline SVG, drawn by us.
        alt: What it shows, for those who do not see it.
    """

    svg: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Document:
    """A result as Markdown, whose images are names of its figures.

    Args:
        text: Markdown. Its highest heading is `#`.
        figures: By name.
        data: Content of the files to download, by name.
    """

    text: str
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """What a page shows of a folder.

    Args:
        title: Text from outside.
        verdict: Markdown, on the first screen.
        summary: Numbers side by side and what separates them, on the first screen.
        documents: All results.
    """

    title: str
    verdict: str
    summary: Document
    documents: tuple[Document, ...]


def find_parts(path: pathlib.Path) -> list[Part]:
    """Reads a folder.

    Args:
        path: A run folder, a folder of run folders, a search for α or an audit.

    Raises:
        ValueError: If it is none of these, holds no results, or a file is damaged.
    """
    audited = audit.read_audit(path)
    if audited is not None:
        return [_make_audit_part(audited)]
    runs = [path] if RunFolder.is_run_folder(path) else RunFolder.find_in(path)
    if not runs:
        raise ValueError(f"{path} holds no results: no protocol.json, no audit.json.")
    folders = [folder for folder in map(RunFolder, runs) if _has_every_method(folder)]
    if not folders:
        raise ValueError(
            f"{path} holds no results yet: each method needs a trained model. The command that "
            "made the folder finishes it."
        )
    searched = [folder for folder in folders if folder.protocol.evaluated_on == "validation"]
    parts = [_make_run_part(folder) for folder in folders if folder not in searched]
    return parts + ([_make_search_part(searched)] if searched else [])


def _has_every_method(folder: RunFolder) -> bool:
    return {result.method for result in folder.results()} == set(folder.protocol.methods)


def _make_run_part(folder: RunFolder) -> Part:
    found, base = verdict.rows(folder), folder.protocol.methods[0]
    summary = verdict.markdown(found)
    documents = [_make_table(folder), _make_convergence(folder, base)]
    if len(folder.confusions()):
        documents.append(_make_confusion(folder))
    if len(folder.saturation()):
        documents.append(_make_saturation(folder))
    return Part(
        title=f"{folder.protocol.data_name} ({folder.path.resolve().name})",
        verdict=verdict.describe(found),
        summary=Document(summary, data={"verdict.csv": _to_csv(found)}),
        documents=(*documents, _make_protocol([folder])),
    )


def _make_table(folder: RunFolder) -> Document:
    found, compared = accuracy_table.rows(folder), accuracy_table.differences(folder)
    data = {"table": found, "differences": compared, "confidence": confidence.rows(folder)}
    return Document(
        accuracy_table.markdown([folder], [found], [compared]),
        data={f"{name}.csv": _to_csv(rows) for name, rows in data.items() if len(rows)},
    )


def _make_convergence(folder: RunFolder, base: str) -> Document:
    found = convergence.rows(folder, baseline=base)
    figure = Figure(
        draw(lambda: convergence.figure(folder)),
        "Validation accuracy against epoch, for each method and ε; left FGSM as published, right "
        "exact. The numbers are in curves.csv.",
    )
    return _with_figures(
        convergence.markdown(folder, found),
        {"figure": figure},
        {"convergence.csv": _to_csv(found), "curves.csv": _to_csv(convergence.find_curves(folder))},
    )


def _make_confusion(folder: RunFolder) -> Document:
    sizes = folder.confusions()["epsilon"].unique()
    epsilon = 0.1 if 0.1 in sizes else min((size for size in sizes if size), default=0.0)
    found = confusion.rows(folder, epsilon)
    figure = Figure(
        draw(lambda: confusion.figure(folder, epsilon)),
        "Mean softmax for each true class and decision: a column for each method, a row for each "
        "route of the attack. The numbers are in confusion_matrices.csv.",
    )
    keys = ["dataset", "method", "attack", "through", "epsilon", "decision", "label"]
    matrices = folder.confusions().groupby(keys, sort=False)["probability"].mean().reset_index()
    return _with_figures(
        confusion.markdown(folder, found),
        {"confusion": figure},
        {"confusion.csv": _to_csv(found), "confusion_matrices.csv": _to_csv(matrices)},
    )


def _make_saturation(folder: RunFolder) -> Document:
    found = saturation.rows(folder)
    figure = Figure(
        draw(lambda: saturation.figure(folder)),
        "Accuracy under FGSM against the factor of the logits, for each method, as published and "
        "exact, a panel for each ε. The numbers are in saturation.csv.",
    )
    return _with_figures(
        saturation.markdown(folder, found),
        {"saturation": figure},
        {"saturation.csv": _to_csv(found)},
    )


def _make_search_part(folders: list[RunFolder]) -> Part:
    epsilons = folders[0].protocol.attack_epsilons
    found = alpha_search.rows(folders, 0.1 if 0.1 in epsilons else epsilons[0])
    figure = Figure(
        draw(lambda: alpha_search.figure(folders[0], found)),
        "Validation accuracy against α, without attack, attacked exactly and as published. The "
        "numbers are in alpha.csv.",
    )
    choice = alpha_search.describe_choice(found)
    _, _, text = alpha_search.markdown(folders[0], found).replace(choice, "").partition("\n")
    return Part(
        title=f"{folders[0].protocol.data_name} (search for α)",
        verdict=choice,
        summary=Document(
            f"## Validation accuracy for each α\n{text}",
            data={"alpha.csv": _to_csv(found)},
        ),
        documents=(
            _with_figures("# Accuracy against α\n", {"alpha": figure}, {}),
            _make_protocol(folders),
        ),
    )


def _make_audit_part(result: "AuditResult") -> Part:
    name = audit_report.find_name(result)
    figures = {
        "curve.png": Figure(
            draw(lambda: audit_report.draw_curve(result)),
            "Accuracy against ε under each attack and in the worst case. The numbers are in the "
            "table above.",
        )
    }
    if result.pictures:
        changes = ", ".join(f"{one.predicted} → {one.adversarial}" for one in result.pictures)
        figures["pictures.png"] = Figure(
            draw(lambda: audit_report.draw_pictures(result)),
            f"Clean images, adversarial images and perturbations. Decisions: {changes}.",
        )
    data = {"audit.json": result.to_json()}
    table = pd.DataFrame([dataclasses.asdict(row) for row in result.rows]).drop(columns="correct")
    return Part(
        title=f"Audit of {name}",
        verdict=audit_report.summarize(result),
        summary=Document(
            join_sections(*audit_report.format_accuracies(result)),
            data={"accuracies.csv": _to_csv(table)},
        ),
        documents=(
            Document(
                join_sections("# Details of the audit", *audit_report.format_details(result)),
                figures,
                data,
            ),
        ),
    )


def _make_protocol(folders: list[RunFolder]) -> Document:
    """Every field of the protocol, and the versions that made the results."""
    protocol = dataclasses.asdict(folders[0].protocol)
    if len(folders) > 1:  # a search
        protocol["alpha"] = ", ".join(f"{folder.protocol.alpha:g}" for folder in folders)
    made = [result.versions for folder in folders for result in folder.results()]
    names = dict.fromkeys(name for versions in made for name in versions)
    versions = {
        name: ", ".join(sorted({str(one[name]) for one in made if name in one})) for name in names
    }
    return Document(
        join_sections(
            "# Protocol and versions",
            "## Protocol",
            _table_of({name: _join(value) for name, value in protocol.items()}),
            "## Versions",
            _table_of(versions),
            *map(describe_versions, folders),
        ),
        data={"protocol.json": folders[0].protocol.to_json()},
    )


def _join(value: object) -> str:
    """A value of a protocol as text; empty where there is none."""
    if isinstance(value, tuple):
        return ", ".join(map(_join, value))
    return "" if value is None else str(value)


def _table_of(values: Mapping[str, str]) -> pd.DataFrame:
    given = {name: value for name, value in values.items() if value}
    lines = {
        "name": [plain_text(name.replace("_", " ")) for name in given],
        "value": [plain_text(value) for value in given.values()],
    }
    return pd.DataFrame(lines)


def _with_figures(text: str, figures: dict[str, Figure], data: dict[str, str]) -> Document:
    """The figures follow the first heading."""
    heading, _, rest = text.partition("\n")
    images = "\n\n".join(f"![]({name})" for name in figures)
    return Document(f"{heading}\n\n{images}\n{rest}", figures, data)


def _to_csv(rows: pd.DataFrame) -> str:
    return str(rows.to_csv(index=False, lineterminator="\n"))
