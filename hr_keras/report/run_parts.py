"""What a page shows of run folders: a part for each, and one for a search for α."""

import dataclasses
import functools

import pandas as pd

from hr_keras._core.rendering import printable_text
from hr_keras.experiments.results import (
    accuracy_table,
    alpha_search,
    confidence,
    confusion,
    convergence,
    error_bound,
    saturation,
    verdict,
)
from hr_keras.experiments.results.tables import describe_versions, join_sections
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.report.parts import (
    Document,
    Part,
    add_figures,
    list_values,
    make_figure,
    to_csv,
)


def make_run_part(folder: RunFolder) -> Part:
    """Returns the verdict and everything that is saved of a run folder."""
    found = verdict.rows(folder)
    documents = [_make_table(folder), _make_convergence(folder)]
    if len(folder.confusions()):
        documents.append(_make_confusion(folder))
    if len(folder.error_terms()):
        documents.append(_make_bounds(folder))
    if len(folder.saturation()):
        documents.append(_make_saturation(folder))
    return Part(
        title=printable_text(f"{folder.protocol.data_title} ({folder.path.resolve().name})"),
        verdict=verdict.describe(found),
        summary=Document(verdict.markdown(found), data={"verdict.csv": to_csv(found)}),
        documents=(*documents, _make_protocol([folder])),
    )


def _make_table(folder: RunFolder) -> Document:
    found, compared = accuracy_table.rows(folder), accuracy_table.differences(folder)
    data = {"table": found, "differences": compared, "confidence": confidence.rows(folder)}
    return Document(
        accuracy_table.markdown([folder], [found], [compared]),
        data={f"{name}.csv": to_csv(rows) for name, rows in data.items() if len(rows)},
    )


def _make_convergence(folder: RunFolder) -> Document:
    found = convergence.rows(folder)
    figure = make_figure(
        lambda: convergence.figure(folder),
        "Validation accuracy against epoch, for each method and ε; left FGSM as published, right "
        "exact. The numbers are in curves.csv.",
    )
    return add_figures(
        convergence.markdown(folder, found),
        {"figure": figure},
        {"convergence.csv": to_csv(found), "curves.csv": to_csv(convergence.find_curves(folder))},
    )


def _make_confusion(folder: RunFolder) -> Document:
    matrices = folder.confusions()
    sizes = sorted(size for size in matrices["epsilon"].unique() if size) or [0.0]
    usual = 0.1 if 0.1 in sizes else sizes[0]
    figures = {
        f"confusion-{size:g}": make_figure(
            functools.partial(confusion.figure, folder, size),
            "Mean softmax for each true class and decision: a column for each method, a row for "
            f"each route of the attack, at ε = {size:g}. The numbers are in "
            "confusion_matrices.csv.",
            f"{size:g}" if len(sizes) > 1 else "",
            is_chosen=len(sizes) > 1 and size == usual,
        )
        for size in sizes
    }
    keys = ["dataset", "method", "attack", "through", "epsilon", "decision", "label"]
    means = matrices.groupby(keys, sort=False)["probability"].mean().reset_index()
    norms = pd.concat([confusion.rows(folder, size) for size in sizes])
    return add_figures(
        confusion.markdown(folder, confusion.rows(folder, usual)),
        figures,
        {"confusion.csv": to_csv(norms), "confusion_matrices.csv": to_csv(means)},
    )


def _make_bounds(folder: RunFolder) -> Document:
    upper, lower = error_bound.rows(folder), error_bound.lower_rows(folder)
    figure = make_figure(
        lambda: error_bound.figure(folder, upper),
        "Probability of error and its upper bound: left against epoch on the validation split, "
        "right against the order α after training. The numbers are in bounds.csv.",
    )
    return add_figures(
        error_bound.markdown(folder, upper, lower),
        {"bounds": figure},
        {"bounds.csv": to_csv(upper), "lower_bounds.csv": to_csv(lower)},
    )


def _make_saturation(folder: RunFolder) -> Document:
    found = saturation.rows(folder)
    figure = make_figure(
        lambda: saturation.figure(folder),
        "Accuracy under FGSM against the factor of the logits, for each method, as published and "
        "exact, a panel for each ε. The numbers are in saturation.csv.",
    )
    return add_figures(
        saturation.markdown(folder, found),
        {"saturation": figure},
        {"saturation.csv": to_csv(found)},
    )


def make_search_part(folders: list[RunFolder]) -> Part:
    """Returns the chosen α and the accuracies for each α."""
    epsilons = folders[0].protocol.attack_epsilons
    found = alpha_search.rows(folders, 0.1 if 0.1 in epsilons else epsilons[0])
    figure = make_figure(
        lambda: alpha_search.figure(folders[0], found),
        "Validation accuracy against α, without attack, attacked exactly and as published. The "
        "numbers are in alpha.csv.",
    )
    choice = alpha_search.describe_choice(found)
    _, _, text = alpha_search.markdown(folders[0], found).replace(choice, "").partition("\n")
    return Part(
        title=printable_text(f"{folders[0].protocol.data_title} (search for α)"),
        verdict=choice,
        summary=Document(
            f"## Validation accuracy for each α\n{text}",
            data={"alpha.csv": to_csv(found)},
        ),
        documents=(
            add_figures("# Accuracy against α\n", {"alpha": figure}, {}),
            _make_protocol(folders),
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
            list_values({k.replace("_", " "): _join(value) for k, value in protocol.items()}),
            "## Versions",
            list_values(versions),
            *map(describe_versions, folders),
        ),
        data={
            "protocol.json": folders[0].protocol.to_json(),
            "versions.csv": to_csv(pd.DataFrame(versions.items(), columns=["name", "version"])),
        },
    )


def _join(value: object) -> str:
    """A value of a protocol as text; empty where there is none."""
    if isinstance(value, tuple):
        return ", ".join(map(_join, value))
    return "" if value is None else str(value)
