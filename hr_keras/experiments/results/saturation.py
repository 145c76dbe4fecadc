"""FGSM against the scale of the logits: how much "robustness" a multiplication buys."""

from typing import TYPE_CHECKING

import pandas as pd

from hr_keras._core.rendering import ROUTE_LABELS, format_estimate, new_figure, render_figure
from hr_keras.experiments.methods import get_method
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.results.tables import (
    NOTES,
    describe_dataset,
    describe_errors,
    describe_protocol,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import summarize_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN_FACTORS = (0.1, 1.0, 10.0, 100.0, 1000.0)
_STYLES = {"probabilities": "-", "logits": "--"}


def check_epsilons(protocol: Protocol) -> None:
    """Checks that there is an attack to draw.

    Raises:
        ValueError: Unless the protocol has an ε greater than 0.
    """
    if not any(protocol.epsilons):
        raise ValueError(
            f"`epsilons` must hold a value greater than 0. Received: {protocol.epsilons}"
        )


def rows(folder: RunFolder) -> pd.DataFrame:
    """Returns mean accuracies for each method, route, ε and scale of the logits.

    Columns: dataset, method, through, epsilon, wanted_confidence (NaN for a factor of the grid),
    factor (NaN for a wanted confidence: it differs from model to model), examples, mean,
    standard_error, low, high, realizations, mean_confidence, mean_factor, zero_gradient_share.

    Args:
        folder: A run folder that `hr-keras saturation` has measured.
    """
    found = folder.saturation().rename(columns={"factor": "mean_factor"})
    found["factor"] = found["mean_factor"].where(found["wanted_confidence"].isna())
    found = found.sort_values(
        "through", key=lambda column: column.map(list(ROUTE_LABELS).index), kind="stable"
    )
    keys = ["dataset", "method", "through", "epsilon", "wanted_confidence", "factor", "examples"]
    means = found.groupby(keys, sort=False, dropna=False)
    others = means[["mean_confidence", "mean_factor", "zero_gradient_share"]].mean()
    return summarize_groups(found, keys, "accuracy").join(others.reset_index(drop=True))


def _layout_scales(found: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """A row for each method and route, a column for each factor."""
    grid = found[(found["epsilon"] == epsilon) & found["factor"].isin(_SHOWN_FACTORS)]
    return pd.DataFrame(
        {"trained with": label_method(method), "attacked": ROUTE_LABELS[through]}
        | {f"c = {row.factor:g}": _format(row) for row in group.itertuples()}
        for (method, through), group in grid.groupby(["method", "through"], sort=False)
    )


def _layout_equal_confidence(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each confidence, ε and method, a column for each route."""
    keys = ["wanted_confidence", "epsilon", "method"]
    equal = found[found["wanted_confidence"].notna()].sort_values(keys[:2], kind="stable")
    return pd.DataFrame(
        {
            "mean confidence": f"{confidence:g}",
            "ε": f"{epsilon:g}",
            "trained with": label_method(method),
            "c": f"{group['mean_factor'].iloc[0]:.3g}",
        }
        | {ROUTE_LABELS[row.through]: _format(row) for row in group.itertuples()}
        for (confidence, epsilon, method), group in equal.groupby(keys, sort=False)
    )


def _format(row: pd.Series) -> str:
    share = f" ({row.zero_gradient_share:.0%})" if row.through == "probabilities" else ""
    return format_estimate(row.mean, row.standard_error) + share


def markdown(folder: RunFolder, found: pd.DataFrame) -> str:
    """Returns accuracy against the scale, and at equal mean confidence, as Markdown.

    Args:
        folder: A run folder.
        found: From `rows`.
    """
    sections: list[str | pd.DataFrame] = [
        f"# FGSM against the scale of the logits: {describe_dataset(folder)}",
        describe_protocol(folder.protocol),
        "After training, all logits are multiplied by c. This changes no decision, so the true "
        "robustness is the same at every c. c = 1 is the model as trained.",
    ]
    for epsilon in found["epsilon"].unique():
        title = f"## Accuracy under FGSM with CE at ε = {epsilon:g}"
        sections += [title, _layout_scales(found, epsilon)]
    sections += [
        "In brackets: the share of test images whose gradient is exactly zero. Exact FGSM changes "
        "with c too, because CE weighs the wrong classes by their probabilities: at a large c it "
        "attacks the likeliest of them.",
        "## At equal mean confidence",
        _layout_equal_confidence(found),
        "The logits of each model are multiplied by the c that gives this mean confidence on the "
        "test images, then attacked. Shown is the mean c.",
        f"{int(found['examples'].max()):,} test images. "
        + describe_errors(int(found["realizations"].max())),
        NOTES.get(folder.protocol.dataset, ""),
    ]
    return join_sections(*sections)


def figure(folder: RunFolder) -> "Figure":
    """Draws accuracy against the factor c of the logits, a panel for each ε.

    A solid curve is FGSM as published, a dashed one exact. A dot is the model as trained, c = 1.
    A curve is the mean over realizations, its band ± one standard error.

    Args:
        folder: A run folder that `hr-keras saturation` has measured.
    """
    found = rows(folder)
    found = found[found["factor"].notna()]
    epsilons = found["epsilon"].unique()
    drawn = new_figure(figsize=(2.2 + 4.6 * len(epsilons), 4.5))
    for axes, epsilon in zip(
        drawn.subplots(1, len(epsilons), sharey=True, squeeze=False)[0], epsilons, strict=True
    ):
        for (method, through), curve in found[found["epsilon"] == epsilon].groupby(
            ["method", "through"], sort=False
        ):
            _draw_curve(axes, curve, method, through)
        axes.set(xscale="log", xlabel="logits multiplied by c", ylim=(0, 1))
        axes.set_title(f"ε = {epsilon:g}", fontsize=10)
        axes.grid(alpha=0.3)
    drawn.supylabel("accuracy", fontsize=10)
    name = folder.protocol.data_title
    drawn.suptitle(f"FGSM with CE, test split; dots: as trained, c = 1: {name}", parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right upper", title="trained with", frameon=False)
    return drawn


def _draw_curve(axes: "Axes", curve: pd.DataFrame, method: str, through: str) -> None:
    curve = curve.sort_values("factor")
    chosen, error = get_method(method), curve["standard_error"].fillna(0.0)
    label = f"{chosen.label}, {ROUTE_LABELS[through]}"
    own = [k for k, factor in enumerate(curve["factor"]) if factor == 1.0]
    axes.plot(
        curve["factor"], curve["mean"], _STYLES[through], color=chosen.colour, label=label,
        marker="o", markevery=own,
    )  # fmt: skip
    axes.fill_between(
        curve["factor"], curve["mean"] - error, curve["mean"] + error, color=chosen.colour,
        alpha=0.15, linewidth=0,
    )  # fmt: skip


def write(folders: list[RunFolder]) -> str:
    """Writes the tables and the picture of each folder.

    Args:
        folders: Run folders that `hr-keras saturation` has measured.

    Returns:
        The tables as Markdown.
    """
    texts = []
    for folder in folders:
        found = rows(folder)
        texts.append(markdown(folder, found))
        folder.write("saturation", **render_figure(figure(folder)))
        name = folder.protocol.data_title
        tables = {
            f"FGSM with CE at ε = {epsilon:g}, logits multiplied by c: {name}": _layout_scales(
                found, epsilon
            )
            for epsilon in found["epsilon"].unique()
        }
        title = f"FGSM with CE at equal mean confidence: {name}"
        tables[title] = _layout_equal_confidence(found)
        write_tables(folder.path, "saturation", texts[-1], found, tables)
    return "\n".join(texts)
