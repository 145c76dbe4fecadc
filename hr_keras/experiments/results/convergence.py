"""Figure 1, validation accuracy against epoch, and the epochs to reach an accuracy."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hr_keras._core.rendering import (
    ROUTE_LABELS,
    format_interval,
    format_share,
    new_figure,
    render_figure,
)
from hr_keras.experiments.methods import get_method
from hr_keras.experiments.results.tables import (
    choose_baseline,
    describe_dataset,
    describe_protocol,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import compare_methods, summarize_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The paper says "faster" and names no accuracy: shares of what every run of the folder reaches.
SHARES = (0.9, 0.95, 0.99)

_PREFIXES = {"logits": "val_fgsm_ce_", "probabilities": "val_published_fgsm_ce_"}
_LONGEST_LEGEND = 20  # lines that are as high as the picture
_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")  # one for each ε


def check_accuracies(accuracies: Sequence[float]) -> None:
    """Checks accuracies to reach.

    Raises:
        ValueError: Unless each is in (0, 1].
    """
    for accuracy in accuracies:
        if not 0 < accuracy <= 1:
            raise ValueError(f"An accuracy to reach must be in (0, 1]. Received: {accuracy}")


def rows(
    folder: RunFolder, accuracies: Sequence[float] = (), baseline: str | None = None
) -> pd.DataFrame:
    """Returns the epochs until the validation accuracy first reaches a value.

    Columns: dataset, accuracy, method, epochs (mean over the realizations that reach it), reached
    (how many), realizations, difference (epochs − epochs of the baseline, mean over the pairs that
    both reach it), low, high (its 95 % interval), pairs.

    Args:
        folder: A run folder.
        accuracies: Validation accuracies, each in (0, 1]; by default those of `SHARES` of the
            accuracy that every run reaches.
        baseline: Method that differences refer to; `None` for the first.

    Raises:
        ValueError: For an accuracy out of range.
    """
    baseline = choose_baseline(folder.protocol, baseline)
    accuracies = choose_accuracies(folder, accuracies)
    histories = folder.histories()
    history = histories[histories["metric"] == "val_accuracy"]
    return pd.concat(
        [_count_epochs(folder, history, accuracy, baseline) for accuracy in accuracies],
        ignore_index=True,
    )


def choose_accuracies(folder: RunFolder, accuracies: Sequence[float] = ()) -> Sequence[float]:
    """Returns the accuracies; by default `SHARES` of what every run of the folder reaches.

    Args:
        folder: A run folder.
        accuracies: Validation accuracies, each in (0, 1], or none.

    Raises:
        ValueError: For an accuracy out of range.
    """
    check_accuracies(accuracies)
    if accuracies:
        return accuracies
    histories = folder.histories()
    history = histories[histories["metric"] == "val_accuracy"]
    common = history.groupby(["method", "realization"])["value"].max().min()
    return [math.floor(1000 * share * common) / 1000 for share in SHARES]


def _count_epochs(
    folder: RunFolder, history: pd.DataFrame, accuracy: float, baseline: str
) -> pd.DataFrame:
    reached = history[history["value"] >= accuracy]
    first = reached.groupby(["method", "realization"], sort=False)["epoch"].min().reset_index()
    means = summarize_groups(first, ["method"], "epoch").set_index("method")
    changes = compare_methods(first.assign(all=0), ["all"], "epoch", baseline).set_index("method")
    found = []
    for method in folder.protocol.methods:
        row = {
            "dataset": folder.protocol.data_name,
            "accuracy": accuracy,
            "method": method,
            "epochs": means["mean"].get(method, math.nan),
            "reached": int(means["realizations"].get(method, 0)),
            "realizations": history[history["method"] == method]["realization"].nunique(),
        }
        for column, name in (("difference", "mean"), ("low", "low"), ("high", "high")):
            row[column] = changes[name].get(method, math.nan)
        row["pairs"] = int(changes["realizations"].get(method, 0))
        found.append(row)
    return pd.DataFrame(found)


def markdown(folder: RunFolder, found: pd.DataFrame, baseline: str | None = None) -> str:
    """Returns the epochs to reach a validation accuracy as Markdown.

    Args:
        folder: A run folder.
        found: From `rows`.
        baseline: Method that differences refer to; `None` for the first.
    """
    pairs = int(found["pairs"].max())
    interval = (
        f"The difference is a mean over at most {pairs} pairs of the same seed, with its 95 % "
        "interval (Student's t)."
        if pairs > 1
        else "Fewer than two pairs: no interval. Use `--realizations` for more."
    )
    return join_sections(
        f"# Epochs to reach a validation accuracy: {describe_dataset(folder)}",
        describe_protocol(folder.protocol),
        _layout(found, choose_baseline(folder.protocol, baseline)),
        "In brackets: how many realizations reach it, where not all do. " + interval,
    )


def _layout(found: pd.DataFrame, baseline: str) -> pd.DataFrame:
    lines = []
    for accuracy, group in found.groupby("accuracy", sort=False):
        line = {"validation accuracy": format_share(accuracy)}
        for row in group.itertuples():
            count = f" ({row.reached} of {row.realizations})" * (row.reached < row.realizations)
            text = "–" if math.isnan(row.epochs) else f"{row.epochs:.1f}{count}"
            line[f"trained with {label_method(row.method)}"] = text
        for row in group.itertuples():
            if row.method != baseline:
                text = "–" if row.pairs == 0 else _format_epochs(row)
                line[f"{label_method(row.method)} − {label_method(baseline)}, epochs"] = text
        lines.append(line)
    return pd.DataFrame(lines)


def _format_epochs(row: Any) -> str:
    text = format_interval(row.difference, row.low, row.high, "{:+.1f}".format)
    return text.replace("-", "−")


def figure(folder: RunFolder) -> "Figure":
    """Draws validation accuracy against epoch, clean and attacked, for each method: Figure 1.

    A panel for each route of the attack. A curve is the mean over realizations, its band ± one
    standard error where there are two or more.

    Args:
        folder: A run folder.
    """
    histories = folder.histories()
    drawn = new_figure(figsize=(2 + 4.9 * len(ROUTE_LABELS), 4.5))
    panels = drawn.subplots(1, len(ROUTE_LABELS), sharey=True)
    for axes, (through, label) in zip(panels, ROUTE_LABELS.items(), strict=True):
        _draw_accuracies(axes, folder, histories, through)
        axes.set_title(f"FGSM, {label}", fontsize=10)
    drawn.supylabel("validation accuracy", fontsize=10)
    title = f"FGSM with CE on the validation split: {folder.protocol.data_title}"
    drawn.suptitle(title, parse_math=False)
    handles = panels[-1].get_legend_handles_labels()[0]
    if len(handles) > _LONGEST_LEGEND:
        handles = _describe_colours_and_styles(folder, len(handles))
    drawn.legend(handles=handles, loc="outside right upper", title="trained with", frameon=False)
    return drawn


def _describe_colours_and_styles(folder: RunFolder, curves: int) -> list[Any]:
    """A line for each method and one for each ε, where a line for each curve would be cut off."""
    from matplotlib.lines import Line2D

    methods = folder.protocol.methods
    epsilons = sorted({0.0, *folder.protocol.epsilons})[: curves // len(methods)]
    return [
        *(Line2D([], [], color=get_method(name).colour, label=label_method(name))
          for name in methods),
        *(Line2D([], [], color="black", linestyle=style, label=f"ε = {epsilon:g}")
          for style, epsilon in zip(_STYLES, epsilons, strict=False)),
    ]  # fmt: skip


def find_curves(folder: RunFolder) -> pd.DataFrame:
    """Returns the curves of Figure 1: a row for each method, route, ε and epoch with a value.

    Columns: dataset, method, through (`"none"` without attack), epsilon, epoch, mean,
    standard_error, realizations.

    Args:
        folder: A run folder.
    """
    histories = folder.histories().dropna(subset="value")
    names = {"val_accuracy": ("none", 0.0)}
    for through in ROUTE_LABELS:
        names |= {key: (through, epsilon) for epsilon, key in find_attacked(histories, through)}
    histories = histories[histories["metric"].isin(names)]
    histories = histories.assign(
        through=[names[key][0] for key in histories["metric"]],
        epsilon=[names[key][1] for key in histories["metric"]],
    )
    keys = ["dataset", "method", "through", "epsilon", "epoch"]
    found = histories.groupby(keys, sort=False)["value"].agg(["mean", "sem", "count"])
    columns = {"sem": "standard_error", "count": "realizations"}
    return found.rename(columns=columns).reset_index()


def find_attacked(histories: pd.DataFrame, through: str) -> list[tuple[float, str]]:
    """Returns (ε, metric) of the validation accuracies under FGSM with CE, by ε.

    Args:
        histories: From `RunFolder.histories`.
        through: Route of the attack.
    """
    return sorted(
        (float(key.removeprefix(_PREFIXES[through]).removesuffix("_accuracy")), key)
        for key in histories["metric"].unique()
        if key.startswith(_PREFIXES[through])
    )


def _draw_accuracies(
    axes: "Axes", folder: RunFolder, histories: pd.DataFrame, through: str
) -> None:
    attacked = find_attacked(histories, through)
    for method in folder.protocol.methods:
        chosen = histories[histories["method"] == method]
        for style, (epsilon, key) in zip(_STYLES, [(0.0, "val_accuracy"), *attacked], strict=False):
            label = f"{label_method(method)}, ε = {epsilon:g}"
            draw_curve(axes, chosen[chosen["metric"] == key], style, method, label)
    axes.set(xlabel="epoch", ylim=(0, 1))
    axes.grid(alpha=0.3)


def draw_curve(axes: "Axes", history: pd.DataFrame, style: str, method: str, label: str) -> None:
    """Draws the mean over realizations against epoch, and a band of ± one standard error.

    Args:
        axes: Where to draw.
        history: Rows of `RunFolder.histories` of one method and metric.
        style: Line style.
        method: Gives the colour.
        label: For the legend.
    """
    by_epoch = history.dropna(subset="value").groupby("epoch")["value"]
    mean, error = by_epoch.mean(), by_epoch.sem().fillna(0.0)
    colour = get_method(method).colour
    axes.plot(mean.index, mean, style, color=colour, label=label)
    axes.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)


def write_figure(folder: RunFolder) -> None:
    """Writes Figure 1 as `figure.png` and `figure.svg` into a run folder."""
    folder.write("figure", **render_figure(figure(folder)))


def write(
    folders: list[RunFolder], accuracies: Sequence[float] = (), baseline: str | None = None
) -> str:
    """Writes Figure 1 of each folder, and the epochs to reach validation accuracies.

    Args:
        folders: Run folders.
        accuracies: To reach; see `rows`.
        baseline: Method that differences refer to; `None` for the first.

    Returns:
        The epochs as Markdown.
    """
    texts = []
    for folder in folders:
        write_figure(folder)
        found = rows(folder, accuracies, baseline)
        texts.append(markdown(folder, found, baseline))
        caption = f"Epochs to reach a validation accuracy: {folder.protocol.data_title}"
        tables = {caption: _layout(found, choose_baseline(folder.protocol, baseline))}
        write_tables(folder.path, "convergence", texts[-1], found, tables)
    return "\n".join(texts)
