"""Proposition 1 and Corollary 1 on trained models: the error and what bounds it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hr_keras._core import proposition
from hr_keras._core.rendering import new_figure, render_figure
from hr_keras.experiments.methods import get_method
from hr_keras.experiments.results.convergence import draw_curve
from hr_keras.experiments.results.tables import (
    describe_dataset,
    describe_protocol,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MODEL = ["dataset", "method", "realization", "split", "classes", "label_smoothing"]
_GROUP = ["dataset", "method", "split", "alpha"]


def rows(folder: RunFolder) -> pd.DataFrame:
    """Returns the upper bounds, a row for each method, split and order α.

    Columns: dataset, method, split, alpha; means over realizations of error (P_e), uncertainty
    (P_u), entropy (H, nats), divergence (R, nats), bound (Proposition 1) and surrogate
    (Corollary 1); realizations; holds (both bounds hold in every realization); tightest (no other
    α has a smaller bound on this split).
    """
    terms = _join_terms(folder, "divergence")
    entropy, divergence, alpha = terms[["entropy", "divergence", "alpha"]].to_numpy().T
    with np.errstate(over="ignore"):  # a bound is at most 1
        terms["bound"] = proposition.upper_bound(np, entropy, divergence, alpha)
        terms["surrogate"] = proposition.surrogate_bound(np, entropy + divergence, alpha)
    terms["holds"] = terms["error"] <= terms[["bound", "surrogate"]].min(axis=1)
    for column in ("bound", "surrogate"):
        terms[column] = terms[column].map(_round)
    columns = ["error", "uncertainty", "entropy", "divergence", "bound", "surrogate"]
    found = _average(terms, columns)
    smallest = found.groupby(["method", "split"])["bound"].transform("idxmin")
    return found.assign(tightest=smallest == found.index)


def lower_rows(folder: RunFolder) -> pd.DataFrame:
    """Returns the largest lower bound for each method and split, with smoothed labels.

    With certain labels the lower bound is 0: the divergence is infinite.

    Columns: dataset, method, split, alpha (where the bound is largest), smoothed_error, bound,
    realizations, holds, label_smoothing, beta.
    """
    terms = _join_terms(folder, "reversed_divergence")
    entropy, divergence, alpha = terms[["entropy", "reversed_divergence", "alpha"]].to_numpy().T
    constants = terms["classes"].map(proposition.beta).to_numpy()
    terms["bound"] = proposition.lower_bound(np, entropy, divergence, alpha, constants)
    terms["holds"] = terms["smoothed_error"] >= terms["bound"]
    terms["bound"] = terms["bound"].map(_round)
    found = _average(terms, ["smoothed_error", "bound"])
    largest = found.loc[found.groupby(["method", "split"], sort=False)["bound"].idxmax()]
    classes, smoothing = int(terms["classes"].iloc[0]), terms["label_smoothing"].iloc[0]
    return largest.assign(label_smoothing=smoothing, beta=proposition.beta(classes))


def _round(value: float) -> float:
    """12 digits: the last bits of exp differ from processor to processor."""
    return float(f"{value:.12g}")


def _join_terms(folder: RunFolder, quantity: str) -> pd.DataFrame:
    """A row for each model, split and α: a divergence, and beside it the terms without α."""
    terms = folder.error_terms()
    single = terms[terms["alpha"].isna()].pivot_table(
        index=_MODEL, columns="quantity", values="value", sort=False
    )
    chosen = terms[terms["quantity"] == quantity].rename(columns={"value": quantity})
    return chosen[[*_MODEL, "alpha", quantity]].merge(single.reset_index(), on=_MODEL)


def _average(terms: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    groups = terms.groupby(_GROUP, sort=False)
    found = groups[columns].mean()
    found["realizations"] = groups.size()
    found["holds"] = groups["holds"].all()
    return found.reset_index()


def markdown(folder: RunFolder, upper: pd.DataFrame, lower: pd.DataFrame) -> str:
    """Returns the bounds as Markdown.

    Args:
        folder: A run folder.
        upper: From `rows`.
        lower: From `lower_rows`.
    """
    tables = _layout(folder, upper, lower)
    return join_sections(
        f"# Bounds on the probability of error: {describe_dataset(folder)}",
        describe_protocol(folder.protocol),
        "## P_e ≤ [(1 − e^(−H))·e^R]^((α−1)/α) (Proposition 1)",
        tables["Upper bound"],
        "## The bound for a range of α",
        tables["Upper bound against α"],
        "## Lower bound (Proposition 1)",
        "With certain labels it is trivial: P_e ≥ 0. The classifier gives every class some "
        "probability, so the divergence is infinite. With "
        f"{lower['label_smoothing'].iloc[0]:.0%} of each label spread evenly over the classes, and "
        f"β = {lower['beta'].iloc[0]:.3f}:",
        tables["Lower bound"],
        f'Means over {int(upper["realizations"].max())} realizations; "holds" is about each. A '
        "probability of 1 is what is known without a bound.",
    )


def _layout(folder: RunFolder, upper: pd.DataFrame, lower: pd.DataFrame) -> dict[str, pd.DataFrame]:
    groups = [(key, group) for key, group in upper.groupby(["method", "split"], sort=False)]
    against_alpha = {"α": [f"{alpha:g}" for alpha in groups[0][1]["alpha"]]}
    for (method, split), group in groups:
        against_alpha[f"{label_method(method)}, {split}"] = [f"{v:.3g}" for v in group["bound"]]
    alpha = folder.protocol.alpha
    return {
        "Upper bound": pd.DataFrame([_layout_upper(alpha, *group) for group in groups]),
        "Upper bound against α": pd.DataFrame(against_alpha),
        "Lower bound": pd.DataFrame(
            {
                "trained with": label_method(row.method),
                "split": row.split,
                "P_e": f"{row.smoothed_error:.3g}",
                "bound": f"{row.bound:.3g}",
                "at α": f"{row.alpha:g}",
                "holds?": _say(row.holds),
            }
            for row in lower.itertuples()
        ),
    }


def _layout_upper(alpha: float, key: tuple[str, str], group: pd.DataFrame) -> dict[str, Any]:
    trained = group[group["alpha"] == alpha].iloc[0]
    tightest = group[group["tightest"]].iloc[0]
    return {
        "trained with": label_method(key[0]),
        "split": key[1],
        "P_e": f"{trained['error']:.3g}",
        "P_u": f"{trained['uncertainty']:.3g}",
        "H, nats": f"{trained['entropy']:.3g}",
        f"R at α = {alpha:g}, nats": f"{trained['divergence']:.3g}",
        f"bound at α = {alpha:g}": f"{trained['bound']:.3g}",
        "tightest α": f"{tightest['alpha']:g}",
        "bound there": f"{tightest['bound']:.3g}",
        "Corollary 1 there": f"{tightest['surrogate']:.3g}",
        "hold?": _say(group["holds"].all()),
    }


def _say(holds: bool) -> str:
    return "yes" if holds else "NO"


def figure(folder: RunFolder, upper: pd.DataFrame) -> "Figure":
    """Draws P_e and its upper bound: against epoch on the validation split, and against α.

    Args:
        folder: A run folder.
        upper: From `rows`.
    """
    drawn = new_figure(figsize=(11, 4.5))
    left, right = drawn.subplots(1, 2)
    _draw_by_epoch(left, folder)
    _draw_by_alpha(right, folder, upper)
    title = f"Probability of error and its upper bound: {folder.protocol.data_title}"
    drawn.suptitle(title, parse_math=False)
    return drawn


def _draw_by_epoch(axes: "Axes", folder: RunFolder) -> None:
    histories = folder.histories()
    for method in folder.protocol.methods:
        chosen = histories[histories["method"] == method]
        bound = chosen[chosen["metric"] == "val_error_bound"]
        accuracy = chosen[chosen["metric"] == "val_accuracy"]
        label = label_method(method)
        draw_curve(axes, bound, "-", method, f"{label}, bound")
        error = accuracy.assign(value=1 - accuracy["value"])
        draw_curve(axes, error, "--", method, f"{label}, error")
    axes.set(xlabel="epoch", ylabel="probability of error, validation split", yscale="log")
    axes.set_title("against epoch, at the α of the loss", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_by_alpha(axes: "Axes", folder: RunFolder, upper: pd.DataFrame) -> None:
    for method in folder.protocol.methods:
        colour, label = get_method(method).colour, label_method(method)
        for style, split in zip(("-", ":"), ("test", "train"), strict=True):
            chosen = upper[(upper["method"] == method) & (upper["split"] == split)]
            axes.plot(chosen["alpha"], chosen["bound"], style, color=colour,
                      label=f"{label}, bound, {split}")  # fmt: skip
            error = chosen["error"].iloc[0]
            if split == "test" and error > 0:
                axes.axhline(error, linestyle="--", color=colour, label=f"{label}, error, {split}")
    axes.set(xlabel="order α", ylabel="probability of error", xscale="log", yscale="log")
    ticks = (1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title("after training, against the order of the bound", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def write(folders: list[RunFolder]) -> str:
    """Writes the bounds of each folder.

    Args:
        folders: Run folders.

    Returns:
        The bounds as Markdown.
    """
    texts = []
    for folder in folders:
        upper, lower = rows(folder), lower_rows(folder)
        texts.append(markdown(folder, upper, lower))
        folder.write("bounds", **render_figure(figure(folder, upper)))
        tables = {
            f"{caption}: {folder.protocol.data_title}": table
            for caption, table in _layout(folder, upper, lower).items()
        }
        write_tables(folder.path, "bounds", texts[-1], upper, tables)
    return "\n".join(texts)
