"""The search for α on the validation split; the test split is never used."""

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hr_keras._core import files
from hr_keras._core.rendering import format_estimate, new_figure, render_figure
from hr_keras.experiments.plan import Plan, plan_grid
from hr_keras.experiments.results.tables import (
    check_epsilon,
    describe_dataset,
    describe_errors,
    describe_protocol,
    join_sections,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import estimate_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = (1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0)
METHODS = ("hr",)  # cross-entropy has no α

RULE = (
    "Of the α whose clean accuracy is within one standard error of the best, the one with the "
    "highest accuracy under the exact attack; the smallest if there are several."
)


def plan_search(
    output: str | pathlib.Path | None = None,
    preset: str | None = None,
    datasets: Sequence[str] = (),
    alphas: Sequence[float] = (),
    **changes: Any,
) -> Plan:
    """Returns the runs of a search, one for each α, each in its folder. Nothing is written.

    Args:
        output: Folder of a search, or the path of a new one; `None` for one in `runs`.
        preset: Name of a preset; `None` for that of the folder, or `"quick"` for a new one.
        datasets: None (that of the folder or preset), or one.
        alphas: Orders to try, besides those of the folder; none: `GRID` for a new one.
        changes: Arguments of `Protocol`; `None` keeps a value.

    Raises:
        ValueError: For an α that is not greater than 1 or given twice, several data sets, and
            a folder that holds something else.
    """
    changes |= {"evaluated_on": "validation", "methods": METHODS}
    return plan_grid("alpha", alphas, lambda _: GRID, output, preset, datasets, **changes)


def rows(folders: list[RunFolder], epsilon: float = 0.1) -> pd.DataFrame:
    """Returns validation accuracies of HR-trained models under FGSM with CE, a row for each α.

    Columns: dataset, alpha, epsilon, clean, clean_error, exact, exact_error, published,
    published_error (means and standard errors), zero_gradient_share, realizations, eligible
    (`clean` is within one standard error of the best), chosen (the α of `RULE`). With a single
    realization the standard error of the best clean accuracy p is √(p(1 − p)/n) for n images.

    Args:
        folders: Run folders of one search.
        epsilon: Size of the attack, one of the protocol's, greater than 0.

    Raises:
        ValueError: For another ε, and folders of other methods than `METHODS`.
    """
    check_epsilon(epsilon, folders[0].protocol.attack_epsilons)
    found = pd.DataFrame([_summarize(folder, epsilon) for folder in folders])
    found = found.sort_values("alpha", ignore_index=True)
    best = found.loc[found["clean"].idxmax()]
    error = best["clean_error"]
    if math.isnan(error):
        size = folders[0].accuracies()["examples"].iloc[0]
        error = math.sqrt(best["clean"] * (1 - best["clean"]) / size)
    found["eligible"] = found["clean"] >= best["clean"] - error
    found["chosen"] = found.index == found[found["eligible"]]["exact"].idxmax()
    return found


def _summarize(folder: RunFolder, epsilon: float) -> dict[str, Any]:
    if folder.protocol.methods != METHODS:
        raise ValueError(
            f"{folder.path} must be of a search for α, with the methods {METHODS}. Received: "
            f"{folder.protocol.methods}"
        )
    frame = folder.accuracies()
    row: dict[str, Any] = {
        "dataset": folder.protocol.data_name,
        "alpha": folder.protocol.alpha,
        "epsilon": epsilon,
    }
    attacked = frame[(frame["attack"] == "fgsm_ce") & (frame["epsilon"] == epsilon)]
    published = attacked[attacked["through"] == "probabilities"]
    for name, chosen in (
        ("clean", frame[frame["attack"] == "none"]),
        ("exact", attacked[attacked["through"] == "logits"]),
        ("published", published),
    ):
        found = estimate_mean(chosen["accuracy"])
        row |= {name: found.mean, f"{name}_error": found.standard_error}
    share = float(published["zero_gradient_share"].astype(float).mean())
    return row | {"zero_gradient_share": share, "realizations": len(published)}


def markdown(folder: RunFolder, found: pd.DataFrame) -> str:
    """Returns the search as Markdown.

    Args:
        folder: One of the run folders of the search.
        found: From `rows`.
    """
    realizations = int(found["realizations"].max())
    errors = describe_errors(realizations)
    if realizations < 2:
        errors += " That of the best clean accuracy p is √(p(1 − p)/n), for n validation images."
    return join_sections(
        f"# Validation accuracy for each α: {describe_dataset(folder)}",
        describe_protocol(folder.protocol, with_alpha=False),
        _layout(found),
        describe_choice(found),
        errors,
    )


def describe_choice(found: pd.DataFrame) -> str:
    """Says which α is chosen, and why.

    Args:
        found: From `rows`.
    """
    chosen = found[found["chosen"]].iloc[0]
    return (
        f"α = {chosen['alpha']:g} is chosen. {RULE} (*: within one standard error of the best.) "
        "The test split was not used."
    )


def _layout(found: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in found.itertuples():
        published = format_estimate(row.published, row.published_error)
        clean = format_estimate(row.clean, row.clean_error)
        lines.append(
            {
                "α": f"{row.alpha:g}",
                "clean": clean + (" *" if row.eligible else ""),
                f"ε = {row.epsilon:g}, exact": format_estimate(row.exact, row.exact_error),
                f"ε = {row.epsilon:g}, as published": (
                    f"{published} ({row.zero_gradient_share:.0%})"
                ),
                "": "**chosen**" if row.chosen else "",
            }
        )
    return pd.DataFrame(lines)


def figure(folder: RunFolder, found: pd.DataFrame) -> "Figure":
    """Draws validation accuracy against α, clean and attacked, and the chosen α.

    Args:
        folder: One of the run folders of the search.
        found: From `rows`.
    """
    chosen = found[found["chosen"]].iloc[0]
    drawn = new_figure(figsize=(7, 6.5))
    clean, attacked = drawn.subplots(2, 1, sharex=True)
    _draw_errors(clean, found, "clean", "o-", "#000000", "clean")
    _draw_errors(attacked, found, "exact", "s-", "#009E73", "attacked exactly")
    _draw_errors(attacked, found, "published", "^--", "#CC79A7", "attacked as published")
    for axes in (clean, attacked):
        label = f"chosen: α = {chosen['alpha']:g}"
        axes.axvline(chosen["alpha"], color="0.6", linestyle=":", label=label)
        axes.grid(alpha=0.3)
        axes.set_ylabel("validation accuracy")
        axes.legend(frameon=False, fontsize=9)
    clean.set_title("without attack", fontsize=10)
    attacked.set_title(f"FGSM with CE at ε = {chosen['epsilon']:g}", fontsize=10)
    attacked.set_xlabel("order α of the loss")
    drawn.suptitle(f"The search for α: {folder.protocol.data_title}", parse_math=False)
    return drawn


def _draw_errors(
    axes: "Axes", found: pd.DataFrame, name: str, style: str, colour: str, label: str
) -> None:
    errors = found[f"{name}_error"].fillna(0.0)
    axes.errorbar(
        found["alpha"], found[name], errors, fmt=style, color=colour, label=label, capsize=3
    )


def write(folders: list[RunFolder], path: pathlib.Path, epsilon: float = 0.1) -> str:
    """Writes what each α of a search gives, and which one is chosen.

    Args:
        folders: Run folders of one search.
        path: Folder of the search.
        epsilon: Size of the attack.

    Returns:
        The same as Markdown.
    """
    found = rows(folders, epsilon)
    text = markdown(folders[0], found)
    for ending, content in render_figure(figure(folders[0], found)).items():
        files.write_atomically(path / f"alpha.{ending}", content)
    caption = f"The search for α: {folders[0].protocol.data_title}"
    write_tables(path, "alpha", text, found, {caption: _layout(found)})
    return text
