"""Methods at equal clean accuracy, and how large the gradients of HR are beside those of CE."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hr_keras._core.rendering import (
    ROUTE_LABELS,
    format_estimate,
    format_interval,
    format_share,
)
from hr_keras.experiments.methods import get_method, keep_model
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.results.convergence import choose_accuracies, find_attacked
from hr_keras.experiments.results.learning_rates import find_gradient_ratios
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

_KEYS = ["accuracy", "through", "epsilon"]


def _read_histories(folder: RunFolder) -> pd.DataFrame:
    """Without methods that change the model after training: their histories are of the others."""
    histories = folder.histories()
    return histories[[get_method(name).finish_model is keep_model for name in histories["method"]]]


def check_baseline(protocol: Protocol, baseline: str | None = None) -> str:
    """Returns the method that differences refer to: by default the first of the protocol.

    Args:
        protocol: The protocol of a run folder.
        baseline: Name of a method, or `None`.

    Raises:
        ValueError: If it is not one of the protocol's methods, or changes the model after training.
    """
    baseline = choose_baseline(protocol, baseline)
    if get_method(baseline).finish_model is not keep_model:
        raise ValueError(
            "`baseline` must be a method whose model is compared: its history must be its own. "
            f"Received: {baseline!r}"
        )
    return baseline


def rows(
    folder: RunFolder, accuracies: Sequence[float] = (), baseline: str | None = None
) -> pd.DataFrame:
    """Returns validation accuracy under FGSM with CE at equal validation accuracy without attack.

    Each model is taken at its first attacked epoch whose clean accuracy is at least `accuracy`.
    Methods that change the model after training, such as `ce_scaled`, are left out.

    Columns: dataset, accuracy, method, through, epsilon, mean, standard_error, low, high,
    realizations (that reach it), epoch (mean), clean (mean), difference (to the baseline, in pairs
    of the same realization), difference_low, difference_high (its 95 % interval), pairs.

    Args:
        folder: A run folder.
        accuracies: Validation accuracies without attack; by default as in `convergence.rows`.
        baseline: Method that differences refer to; `None` for the first.

    Raises:
        ValueError: For an accuracy out of range, or a baseline that is not among the methods.
    """
    baseline = check_baseline(folder.protocol, baseline)
    frame = pd.concat(
        [_find_first(folder, one) for one in choose_accuracies(folder, accuracies)],
        ignore_index=True,
    )
    keys = ["dataset", "accuracy", "method", "through", "epsilon"]
    found = summarize_groups(frame, keys, "value")
    means = frame.groupby(keys, sort=False)[["epoch", "clean"]].mean().reset_index(drop=True)
    names = {"mean": "difference", "low": "difference_low", "high": "difference_high",
             "realizations": "pairs"}  # fmt: skip
    compared = compare_methods(frame, _KEYS, "value", baseline).rename(columns=names)
    compared = compared[["method", *_KEYS, *names.values()]]
    return found.join(means).merge(compared, how="left", on=["method", *_KEYS])


def _find_first(folder: RunFolder, accuracy: float) -> pd.DataFrame:
    """A row for each model that reaches the accuracy, route and ε."""
    histories = _read_histories(folder)
    runs = ["dataset", "method", "realization", "epoch"]
    clean = histories[histories["metric"] == "val_accuracy"].set_index(runs)["value"]
    parts = []
    for through in ROUTE_LABELS:
        for epsilon, metric in find_attacked(histories, through):
            attacked = histories[histories["metric"] == metric].dropna(subset="value")
            attacked = attacked.set_index(runs)[["value"]].join(clean.rename("clean"))
            reached = attacked[attacked["clean"] >= accuracy].reset_index()
            first = reached.sort_values("epoch").groupby(runs[:3], sort=False).head(1)
            parts.append(first.assign(through=through, epsilon=epsilon, accuracy=accuracy))
    found = pd.concat(parts, ignore_index=True)
    order = {name: k for k, name in enumerate(folder.protocol.methods)}
    return found.sort_values("method", key=lambda names: names.map(order), kind="stable")


def gradient_rows(folder: RunFolder) -> pd.DataFrame:
    """Returns ‖∂HR‖/‖∂CE‖ at the same weights, for each method that trained the weights.

    Columns: method, epochs (`"first"`, `"all"` or `"last"` measured), ratio, low, high (the
    geometric mean over realizations and its 95 % interval), realizations.

    Args:
        folder: A run folder.
    """
    ratios = find_gradient_ratios(_read_histories(folder))
    runs = ["method", "realization"]
    means = ratios.sort_values("epoch").groupby(runs, sort=False)["log_ratio"]
    parts = {"first": means.first(), "all": means.mean(), "last": means.last()}
    frame = pd.concat([part.reset_index().assign(epochs=name) for name, part in parts.items()])
    found = summarize_groups(frame, ["method", "epochs"], "log_ratio")
    logs = found[["mean", "low", "high"]].astype("float64")
    found[["ratio", "low", "high"]] = np.exp(logs)
    order = {name: k for k, name in enumerate(folder.protocol.methods)}
    found = found.sort_values("method", key=lambda names: names.map(order), kind="stable")
    columns = ["method", "epochs", "ratio", "low", "high", "realizations"]
    return found[columns].reset_index(drop=True)


def _layout(found: pd.DataFrame, epsilon: float, baseline: str) -> pd.DataFrame:
    """A row for each accuracy and method, two columns for each route."""
    lines = []
    chosen = found[found["epsilon"] == epsilon]
    for (accuracy, method), group in chosen.groupby(["accuracy", "method"], sort=False):
        first = group.iloc[0]
        line = {
            "clean": f"≥ {format_share(accuracy)}",
            "trained with": label_method(method),
            "epoch": f"{first['epoch']:.1f}",
            "models": f"{first['realizations']}",
        }
        for row in group.itertuples():
            label = ROUTE_LABELS[row.through]
            line[label] = format_estimate(row.mean, row.standard_error)
            line[f"{label}: − {label_method(baseline)}"] = (
                "–"
                if pd.isna(row.difference)
                else format_interval(row.difference, row.difference_low, row.difference_high)
            )
        lines.append(line)
    return pd.DataFrame(lines)


def _layout_gradients(found: pd.DataFrame) -> pd.DataFrame:
    titles = {"first": "first epoch", "all": "all epochs", "last": "last epoch"}
    return pd.DataFrame(
        {"weights trained with": label_method(str(method))}
        | {
            titles[row.epochs]: format_interval(row.ratio, row.low, row.high, "{:.2f}".format)
            for row in group.itertuples()
        }
        for method, group in found.groupby("method", sort=False)
    )


def markdown(
    folder: RunFolder,
    found: pd.DataFrame,
    baseline: str | None = None,
    accuracies: Sequence[float] = (),
) -> str:
    """Returns both as Markdown.

    Args:
        folder: A run folder.
        found: From `rows`.
        baseline: Method that differences refer to; `None` for the first.
        accuracies: Those of `rows`.
    """
    baseline = check_baseline(folder.protocol, baseline)
    sections: list[str | pd.DataFrame] = [
        f"# At equal accuracy without attack: {describe_dataset(folder)}",
        describe_protocol(folder.protocol),
        "Validation split. Each model is taken at its first attacked epoch with at least this "
        'accuracy without attack; "models" counts those that reach it. Attacked with FGSM with '
        "CE.",
    ]
    for epsilon in found["epsilon"].unique():
        sections += [f"## ε = {epsilon:g}", _layout(found, epsilon, baseline)]
    known = set(found["accuracy"])
    missed = [one for one in choose_accuracies(folder, accuracies) if one not in known]
    if missed:
        sections.append(
            "No model reaches this accuracy on an attacked epoch: "
            f"{', '.join(map(format_share, missed))}."
        )
    pairs = found["pairs"].max()
    if pairs > 1:
        sections.append(
            f"Differences: mean over at most {pairs:.0f} pairs of the same seed, and its 95 % "
            "interval (Student's t)."
        )
    elif len(found):
        sections.append("Fewer than two pairs: no interval. Use `--realizations` for more.")
    gradients = gradient_rows(folder)
    if len(gradients):
        sections += [
            "## How much longer the gradient of HR is",
            _layout_gradients(gradients),
            "‖∂HR/∂weights‖ / ‖∂CE/∂weights‖ at the same weights, on one training batch each epoch "
            "with an attack: geometric means over these epochs and over realizations, with the "
            "95 % interval. A ratio of 1 throughout would mean that HR takes no larger step than "
            "CE.",
        ]
    return join_sections(*sections)


def write(
    folders: list[RunFolder], accuracies: Sequence[float] = (), baseline: str | None = None
) -> str:
    """Writes both for each folder.

    Args:
        folders: Run folders.
        accuracies: Validation accuracies without attack; see `rows`.
        baseline: Method that differences refer to; `None` for the first.

    Returns:
        The same as Markdown.
    """
    texts = []
    for folder in folders:
        found = rows(folder, accuracies, baseline)
        texts.append(markdown(folder, found, baseline, accuracies))
        name = folder.protocol.data_title
        chosen = check_baseline(folder.protocol, baseline)
        tables = {
            f"FGSM with CE at ε = {epsilon:g}, at equal accuracy without attack: {name}": _layout(
                found, epsilon, chosen
            )
            for epsilon in found["epsilon"].unique()
        }
        write_tables(folder.path, "comparison", texts[-1], found, tables)
    return "\n".join(texts)
