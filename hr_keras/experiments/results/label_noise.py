"""Accuracy against the share of wrong labels in training: the test labels are right."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hr_keras._core import files
from hr_keras._core.rendering import (
    ROUTE_LABELS,
    format_estimate,
    format_interval,
    new_figure,
    render_figure,
)
from hr_keras.experiments.methods import get_method
from hr_keras.experiments.plan import Plan, plan_grid
from hr_keras.experiments.results.tables import (
    choose_baseline,
    describe_dataset,
    describe_errors,
    describe_protocol,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import compare_methods, summarize_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.0, 0.2, 0.4)

_QUANTITY = ["attack", "through", "epsilon"]


def plan_series(
    output: str | pathlib.Path | None = None,
    preset: str | None = None,
    datasets: Sequence[str] = (),
    shares: Sequence[float] = (),
    **changes: Any,
) -> Plan:
    """Returns runs that differ in label noise, each in its folder. Nothing is written.

    Args:
        output: As in `plan_grid`.
        preset: As in `plan_grid`.
        datasets: As in `plan_grid`.
        shares: Of wrong labels, besides those of the folder; none: `SHARES` for a new one.
        changes: Arguments of `Protocol`; `None` keeps a value.

    Raises:
        ValueError: As in `plan_grid`.
    """
    changes |= {"evaluated_on": "test"}
    return plan_grid("label_noise", shares, lambda _: SHARES, output, preset, datasets, **changes)


def rows(folders: list[RunFolder], baseline: str | None = None) -> pd.DataFrame:
    """Returns test accuracies without attack and under FGSM with CE, and differences.

    Columns: dataset, label_noise, method, attack, through, epsilon, mean, standard_error, low,
    high, realizations, difference (to the baseline, in pairs of the same realization),
    difference_low, difference_high (its 95 % interval), pairs.

    Args:
        folders: Run folders that differ in label noise.
        baseline: Method that differences refer to; `None` for the first.
    """
    baseline = choose_baseline(folders[0].protocol, baseline)
    parts = []
    for folder in folders:
        accuracies = folder.accuracies()
        size = accuracies.groupby(_QUANTITY)["examples"].transform("max")
        chosen = accuracies[
            accuracies["attack"].isin(("none", "fgsm_ce")) & (accuracies["examples"] == size)
        ]
        parts.append(chosen.assign(label_noise=folder.protocol.label_noise))
    frame = pd.concat(parts).sort_values("label_noise", kind="stable")
    keys = ["label_noise", *_QUANTITY]
    found = summarize_groups(frame, ["dataset", "label_noise", "method", *_QUANTITY], "accuracy")
    compared = compare_methods(frame, keys, "accuracy", baseline)
    names = {"mean": "difference", "low": "difference_low", "high": "difference_high",
             "realizations": "pairs"}  # fmt: skip
    compared = compared.rename(columns=names)[["method", *keys, *names.values()]]
    return found.merge(compared, how="left", on=["method", *keys])


def _tables(found: pd.DataFrame, baseline: str) -> dict[str, pd.DataFrame]:
    """A table for each attack: a row for each method, two columns for each share."""
    tables = {}
    for (_, through, epsilon), group in found.groupby(_QUANTITY, sort=False):
        lines: dict[str, dict[str, str]] = {}
        for row in group.itertuples():
            line = lines.setdefault(row.method, {"trained with": label_method(row.method)})
            share = f"{100 * row.label_noise:g} %"
            line[share] = format_estimate(row.mean, row.standard_error)
            line[f"{share}: − {label_method(baseline)}"] = (
                "–"
                if pd.isna(row.difference)
                else format_interval(row.difference, row.difference_low, row.difference_high)
            )
        table = pd.DataFrame(lines.values())
        attack = f"under FGSM with CE at ε = {epsilon:g}, {ROUTE_LABELS.get(through)}"
        tables["without attack" if through == "none" else attack] = table
    return tables


def markdown(folders: list[RunFolder], found: pd.DataFrame, baseline: str | None = None) -> str:
    """Returns the accuracies as Markdown.

    Args:
        folders: Run folders that differ in label noise.
        found: From `rows`.
        baseline: Method that differences refer to; `None` for the first.
    """
    baseline = choose_baseline(folders[0].protocol, baseline)
    sections: list[str | pd.DataFrame] = [
        f"# Test accuracy after training with wrong labels: {describe_dataset(folders[0])}",
        describe_protocol(folders[0].protocol, with_noise=False),
        "So many of the training and validation labels were replaced by another class, each as "
        "likely. All methods of a realization have the same wrong labels. The test labels are "
        "right.",
    ]
    for title, table in _tables(found, baseline).items():
        sections += [f"## Accuracy {title}", table]
    pairs = found["pairs"].max()
    if pairs > 1:
        sections.append(
            f"Differences: mean over {pairs:.0f} pairs of the same seed, and its 95 % interval "
            "(Student's t)."
        )
    sections.append(describe_errors(int(found["realizations"].max())))
    return join_sections(*sections)


def figure(folders: list[RunFolder], found: pd.DataFrame) -> "Figure":
    """Draws test accuracy without attack against label noise, ± one standard error.

    Args:
        folders: Run folders that differ in label noise.
        found: From `rows`.
    """
    drawn = new_figure(figsize=(7.5, 4.5))
    axes = drawn.subplots()
    for name, group in found[found["attack"] == "none"].groupby("method", sort=False):
        method = get_method(str(name))
        axes.errorbar(
            100 * group["label_noise"], group["mean"], group["standard_error"].fillna(0.0),
            color=method.colour, label=method.label, marker="o", capsize=3,
        )  # fmt: skip
    axes.set(xlabel="wrong training labels, %", ylabel="test accuracy without attack")
    axes.grid(alpha=0.3)
    axes.set_title(folders[0].protocol.data_title, fontsize=10, parse_math=False)
    drawn.legend(loc="outside right upper", title="trained with", frameon=False)
    return drawn


def write(folders: list[RunFolder], path: pathlib.Path, baseline: str | None = None) -> str:
    """Writes the accuracies of a series.

    Args:
        folders: Run folders that differ in label noise.
        path: Folder of the series.
        baseline: Method that differences refer to; `None` for the first.

    Returns:
        The same as Markdown.
    """
    found = rows(folders, baseline)
    text = markdown(folders, found, baseline)
    for ending, content in render_figure(figure(folders, found)).items():
        files.write_atomically(path / f"label_noise.{ending}", content)
    name = folders[0].protocol.data_title
    tables = _tables(found, choose_baseline(folders[0].protocol, baseline))
    captions = {f"Accuracy {title}: {name}": table for title, table in tables.items()}
    write_tables(path, "label_noise", text, found, captions)
    return text
