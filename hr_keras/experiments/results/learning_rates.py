"""A learning rate for each method, chosen on the validation split; the test split is never used."""

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hr_keras._core import files
from hr_keras._core.rendering import format_estimate, new_figure, render_figure
from hr_keras.experiments.methods import METHODS, get_method
from hr_keras.experiments.plan import Plan, plan_grid
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.result import GRADIENT_KEYS
from hr_keras.experiments.results.tables import (
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
    from matplotlib.figure import Figure

FACTORS = (0.3, 1.0, 3.0, 10.0)  # of the protocol's learning rate

RULE = (
    "For each method, the learning rate whose mean validation accuracy after the last epoch is "
    "highest; the smallest if there are several."
)


def plan_search(
    output: str | pathlib.Path | None = None,
    preset: str | None = None,
    datasets: Sequence[str] = (),
    rates: Sequence[float] = (),
    methods: Sequence[str] | None = None,
    **changes: Any,
) -> Plan:
    """Returns the runs of a search, one for each learning rate. Nothing is written.

    Args:
        output: As in `plan_grid`.
        preset: As in `plan_grid`.
        datasets: As in `plan_grid`.
        rates: Learning rates to try, besides those of the folder; none: `FACTORS` times that of
            the protocol for a new one.
        methods: Names of methods. One that trains as another one is replaced by that.
        changes: Arguments of `Protocol`; `None` keeps a value.

    Raises:
        ValueError: As in `plan_grid`.
    """
    if methods is not None:
        methods = tuple(dict.fromkeys(get_method(name).trains_as or name for name in methods))
    changes |= {"evaluated_on": "validation", "methods": methods}
    return plan_grid("learning_rate", rates, _default_rates, output, preset, datasets, **changes)


def _default_rates(protocol: Protocol) -> list[float]:
    return [float(f"{factor * protocol.learning_rate:g}") for factor in FACTORS]


def rows(folders: list[RunFolder]) -> pd.DataFrame:
    """Returns validation accuracies without attack, a row for each method and learning rate.

    Columns: dataset, method, learning_rate, mean, standard_error, low, high, realizations,
    gradient_ratio (NaN where it was not measured), chosen (by `RULE`).

    Args:
        folders: Run folders of one search.
    """
    found = pd.concat([_summarize(folder) for folder in folders], ignore_index=True)
    order = {name: k for k, name in enumerate(folders[0].protocol.methods)}
    found = found.sort_values(
        ["method", "learning_rate"],
        key=lambda column: column.map(order) if column.name == "method" else column,
        ignore_index=True,
    )
    best = found.groupby("method", sort=False)["mean"].idxmax()
    return found.assign(chosen=found.index.isin(best))


def _summarize(folder: RunFolder) -> pd.DataFrame:
    accuracies = folder.accuracies()
    clean = accuracies[accuracies["attack"] == "none"]
    found = summarize_groups(clean, ["dataset", "method"], "accuracy")
    found.insert(2, "learning_rate", folder.protocol.learning_rate)
    ratios = find_gradient_ratios(folder.histories()).groupby("method")["log_ratio"].mean()
    return found.assign(gradient_ratio=np.exp(found["method"].map(ratios).astype(float)))


def find_gradient_ratios(histories: pd.DataFrame) -> pd.DataFrame:
    """Returns log(‖∂HR‖/‖∂CE‖) at the same weights, a row for each model and measured epoch.

    Columns: method (that trained the weights), realization, epoch, log_ratio.

    Args:
        histories: From `RunFolder.histories`.
    """
    keys = ["method", "realization", "epoch"]
    norms = [
        histories[histories["metric"] == GRADIENT_KEYS[name]].set_index(keys)["value"]
        for name in ("hr", "ce")
    ]
    positive = [norm.where(norm > 0) for norm in norms]
    ratios = (np.log(positive[0]) - np.log(positive[1])).rename("log_ratio")
    return ratios.dropna().reset_index()


def choose_rates(found: pd.DataFrame) -> tuple[tuple[str, float], ...]:
    """Returns the chosen learning rates, also of methods that train as another one.

    `ce_step` gets that of CE times the ratio of the gradients of HR and CE while CE trained.

    Args:
        found: From `rows`.

    Returns:
        Pairs as `Protocol.learning_rates` takes them.
    """
    chosen = found[found["chosen"]].set_index("method")
    rates = {str(name): float(rate) for name, rate in chosen["learning_rate"].items()}
    for method in METHODS.values():
        if method.trains_as in rates:
            rates[method.name] = rates[method.trains_as]
    if "ce_step" in rates:
        ratio = float(chosen["gradient_ratio"]["ce"])
        del rates["ce_step"]
        if math.isfinite(ratio):
            rates["ce_step"] = float(f"{rates['ce'] * ratio:.3g}")
    return tuple(rates.items())


def read_rates(path: str | pathlib.Path) -> tuple[tuple[str, float], ...]:
    """Returns the learning rates that the search in a folder chose; see `choose_rates`.

    Args:
        path: Folder of a search.

    Raises:
        ValueError: If it holds none, or not every model of it is trained.
    """
    folders = list(map(RunFolder, RunFolder.find_in(path)))
    if not folders or not all(map(is_searched, folders)):
        raise ValueError(
            f"{path} holds no search for learning rates. Run `hr-keras tune --output {path}` first."
        )
    for folder in folders:
        wanted = folder.protocol.realizations * len(folder.protocol.methods)
        if len(folder.results()) < wanted:
            raise ValueError(
                f"{folder.path} has {len(folder.results())} of {wanted} results. Run "
                f"`hr-keras tune --output {path}` to finish the search."
            )
    return choose_rates(rows(folders))


def is_searched(folder: RunFolder) -> bool:
    """Returns whether a run folder is one of a search for learning rates, and not for α.

    Args:
        folder: A run folder.
    """
    in_search = folder.protocol.evaluated_on == "validation"
    return in_search and folder.path.resolve().name.startswith("learning_rate-")


def check_search(path: str | pathlib.Path, protocol: Protocol) -> None:
    """Checks that the learning rates of a search were chosen for what a protocol trains.

    Args:
        path: Folder of a search, as for `read_rates`.
        protocol: What the rates are used for.

    Raises:
        ValueError: If data, model, optimizer, batch size, α or schedule differ.
    """
    searched = RunFolder(RunFolder.find_in(path)[0]).protocol

    def describe(one: Protocol) -> dict[str, Any]:
        names = ("model", "optimizer", "batch_size", "alpha", "schedule")
        return {"dataset": one.dataset_sha256 or one.dataset} | {
            name: getattr(one, name) for name in names
        }

    before, now = describe(searched), describe(protocol)
    if differ := [f"{name} {before[name]} for {now[name]}" for name in now
                  if before[name] != now[name]]:  # fmt: skip
        raise ValueError(
            f"{path} chose learning rates for another training: {', '.join(differ)}. Search again "
            "with `hr-keras tune` in another folder."
        )


def markdown(folder: RunFolder, found: pd.DataFrame) -> str:
    """Returns the search as Markdown.

    Args:
        folder: One of the run folders of the search.
        found: From `rows`.
    """
    return join_sections(
        f"# Validation accuracy for each learning rate: {describe_dataset(folder)}",
        describe_protocol(folder.protocol, with_rate=False),
        _layout(found),
        f"**Chosen.** {RULE} The test split was not used.",
        _describe_ends(found),
        describe_errors(int(found["realizations"].max())),
        _describe_ratio(found),
    )


def _layout(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each method, a column for each learning rate."""
    lines = []
    for method, group in found.groupby("method", sort=False):
        line = {"trained with": label_method(str(method))}
        for row in group.itertuples():
            text = format_estimate(row.mean, row.standard_error)
            line[f"{row.learning_rate:g}"] = f"**{text}**" if row.chosen else text
        lines.append(line)
    return pd.DataFrame(lines).fillna("–")


def _describe_ends(found: pd.DataFrame) -> str:
    """Names the methods for which a rate outside of the grid may be better."""
    rates = found.groupby("method", sort=False)["learning_rate"]
    ends = (found["learning_rate"] == rates.transform("min")) | (
        found["learning_rate"] == rates.transform("max")
    )
    if not (methods := [label_method(name) for name in found[found["chosen"] & ends]["method"]]):
        return ""
    return f"At an end of the grid, where a rate beyond it may be better: {', '.join(methods)}."


def _describe_ratio(found: pd.DataFrame) -> str:
    rates = dict(choose_rates(found))
    if "ce_step" not in rates:
        return ""
    ratio = found[found["chosen"] & (found["method"] == "ce")]["gradient_ratio"].item()
    return (
        f"While CE trains with its learning rate, the gradient of HR is {ratio:.2f} times as long "
        "as that of CE at the same weights (geometric mean over the epochs). "
        f"{rates['ce']:g} times this is {rates['ce_step']:g}, the learning rate of "
        f"{label_method('ce_step')}."
    )


def figure(folder: RunFolder, found: pd.DataFrame) -> "Figure":
    """Draws validation accuracy against learning rate for each method; a dot is the chosen one.

    Args:
        folder: One of the run folders of the search.
        found: From `rows`.
    """
    drawn = new_figure(figsize=(7.5, 4.5))
    axes = drawn.subplots()
    for name, group in found.groupby("method", sort=False):
        method = get_method(str(name))
        axes.plot(
            group["learning_rate"], group["mean"], color=method.colour, label=method.label,
            marker="o", markevery=[int(np.flatnonzero(group["chosen"])[0])],
        )  # fmt: skip
    axes.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy")
    axes.grid(alpha=0.3)
    title = f"{folder.protocol.data_title}; dots: chosen rates"
    axes.set_title(title, fontsize=10, parse_math=False)
    drawn.legend(loc="outside right upper", title="trained with", frameon=False)
    return drawn


def write(folders: list[RunFolder], path: pathlib.Path) -> str:
    """Writes what each learning rate of a search gives, and which ones are chosen.

    Args:
        folders: Run folders of one search.
        path: Folder of the search.

    Returns:
        The same as Markdown.
    """
    found = rows(folders)
    text = markdown(folders[0], found)
    for ending, content in render_figure(figure(folders[0], found)).items():
        files.write_atomically(path / f"learning_rates.{ending}", content)
    caption = f"The search for learning rates: {folders[0].protocol.data_title}"
    write_tables(path, "learning_rates", text, found, {caption: _layout(found)})
    return text
