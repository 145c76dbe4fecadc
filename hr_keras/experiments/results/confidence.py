"""How certain the trained models are, beside their accuracy under FGSM and PGD."""

import math

import pandas as pd

from hr_keras._core.rendering import format_estimate
from hr_keras.experiments.results.tables import (
    describe_dataset,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import summarize_groups

_COLUMNS = {
    "mean_confidence": "mean confidence",
    "median_logit_gap": "logit gap, median",
    "high_logit_gap": "logit gap, 90 %",
    "zero_gradient_share": "zero gradients",
    "log_loss": "NLL",
    "calibration_error": "ECE",
}
_ATTACKS = {"published": "FGSM as published", "exact": "FGSM, exact", "pgd": "PGD"}


_KEYS = ["dataset", "method", "realization"]


def _values(folder: RunFolder) -> pd.DataFrame:
    """A row for each model, quantity and ε (NaN where there is none)."""
    confidences, accuracies = folder.confidences(), folder.accuracies()
    routes = {"probabilities": "published", "logits": "exact"}
    fgsm = accuracies[accuracies["attack"] == "fgsm_ce"].assign(
        quantity=lambda frame: frame["through"].map(routes)
    )
    published = fgsm[fgsm["quantity"] == "published"].drop_duplicates(_KEYS)
    parts = [
        confidences.melt(_KEYS, [name for name in _COLUMNS if name in confidences], "quantity"),
        published.melt(_KEYS, ["zero_gradient_share"], "quantity"),
        fgsm.rename(columns={"accuracy": "value"}),
    ]
    pgd = confidences.explode("pgd").dropna(subset="pgd").assign(quantity="pgd")
    parts.append(pgd.assign(epsilon=pgd["pgd"].str[0], value=pgd["pgd"].str[1]))
    columns = [*_KEYS, "quantity", "epsilon", "value"]
    found = pd.concat([part.reindex(columns=columns) for part in parts if len(part)])
    return found.astype({"value": "float64", "epsilon": "float64"})


def rows(folder: RunFolder) -> pd.DataFrame:
    """Returns mean confidence, logit gaps, zero gradients, NLL, ECE and accuracies by method.

    Columns: dataset, method, quantity, epsilon (NaN where there is none), mean, standard_error,
    low, high, realizations. Empty unless all models of the folder were measured.

    Args:
        folder: A run folder.
    """
    if not folder.results() or any(result.confidence is None for result in folder.results()):
        return pd.DataFrame(columns=["method", "quantity", "epsilon", "mean", "standard_error"])
    return summarize_groups(_values(folder), ["dataset", "method", "quantity", "epsilon"], "value")


def layout(folder: RunFolder, found: pd.DataFrame) -> pd.DataFrame:
    """Returns a table with a row for each method, as text.

    Args:
        folder: A run folder.
        found: From `rows`.
    """
    cells = found.set_index(["method", "quantity", "epsilon"]).sort_index()
    epsilons = sorted(found["epsilon"].dropna().unique())
    columns = [(label, quantity, math.nan) for quantity, label in _COLUMNS.items()]
    columns += [
        (f"{label}, ε = {epsilon:g}", quantity, epsilon)
        for epsilon in epsilons
        for quantity, label in _ATTACKS.items()
    ]
    lines = [
        {"trained with": label_method(method)}
        | {
            label: _format(quantity, cells.loc[(method, quantity, epsilon)])
            for label, quantity, epsilon in columns
        }
        for method in folder.protocol.methods
    ]
    return pd.DataFrame(lines)


def _format(quantity: str, cell: pd.Series) -> str:
    mean, error = cell["mean"], cell["standard_error"]
    if quantity == "zero_gradient_share":
        return f"{mean:.0%}"
    if quantity.endswith("logit_gap"):
        return f"{mean:.1f}"
    return format_estimate(mean, error)


def describe(folder: RunFolder) -> list[str | pd.DataFrame]:
    """Returns the table with its heading; nothing where models were not measured.

    Args:
        folder: A run folder.
    """
    found = rows(folder)
    if found.empty:
        return []
    examples = int(folder.confidences()["pgd_examples"].iloc[0])
    return [
        f"## {describe_dataset(folder)}: how certain the models are",
        layout(folder, found),
        "Logit gap: the largest logit minus the second largest, over the test images. Zero "
        "gradients: FGSM with CE as published, whose gradient is exactly zero once the gap is "
        "above 16. NLL in nats; ECE, the calibration error, with 15 bins. PGD: on the margin, 20 "
        f"steps, first {examples} test images.",
    ]


def write(folder: RunFolder) -> None:
    """Writes the table into a run folder as `confidence.md`, `.csv` and `.tex`, if there is one.

    Args:
        folder: A run folder.
    """
    if sections := describe(folder):
        found, title = rows(folder), str(sections[0]).removeprefix("## ")
        tables = {title: layout(folder, found)}
        write_tables(folder.path, "confidence", join_sections(*sections), found, tables)
