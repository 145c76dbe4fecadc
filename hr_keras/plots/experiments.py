"""Figures of the experiments."""

import statistics

import numpy as np

from hr_keras._core.figure import new_figure, rendered
from hr_keras.experiments.estimate import estimate

# Colour-blind safe (Okabe & Ito), one a loss; one line style an ε.
_COLOURS = {"ce": "#0072B2", "hr": "#D55E00"}
_STYLES = ("-", "--", ":", "-.")
_ROUTES = {"probabilities": "as published", "logits": "exactly"}


def accuracy_against_epoch(results, title=""):
    """Validation accuracy against epoch, clean and attacked, for CE and HR: Figure 1.

    A panel a route of the attack. A curve is the mean over realizations, its band ± one
    standard error where there are two or more.

    Args:
        results: from `experiments.train_all.run`, or the same from files. Where an earlier version
            wrote them, they hold the exact attack alone.
        title: above the picture.

    Returns:
        `{"png": bytes, "svg": bytes}`.
    """
    panels = {
        through: keys
        for through in _ROUTES
        if len(keys := _accuracies(results[0]["history"], through)) > 1
    }
    figure = new_figure(figsize=(2 + 4.9 * len(panels), 4.5))
    for axes, (through, keys) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        _draw_accuracies(axes, results, keys)
        axes.set_title(f"attacked {_ROUTES[through]}", fontsize=10)
    figure.supylabel("validation accuracy", fontsize=10)
    figure.suptitle(title, parse_math=False)  # it may hold the name of a file
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="trained on", frameon=False)
    return rendered(figure)


def _draw_accuracies(axes, results, keys):
    for loss, colour in _COLOURS.items():
        histories = [result["history"] for result in results if result["loss"] == loss]
        for style, (epsilon, key) in zip(_STYLES, keys, strict=False):
            label = f"{loss.upper()}, ε = {epsilon:g}"
            _draw_curve(axes, [history[key] for history in histories], style, colour, label)
    axes.set(xlabel="epoch", ylim=(0, 1))
    axes.grid(alpha=0.3)


def _accuracies(history, through):
    """(ε, key) of the clean accuracy and of those under CE through a route, by ε."""
    start = {"logits": "val_fgsm_ce_", "probabilities": "val_published_fgsm_ce_"}[through]
    attacked = [
        (float(key.removeprefix(start).removesuffix("_accuracy")), key)
        for key in history
        if key.startswith(start)
    ]
    return [(0.0, "val_accuracy"), *sorted(attacked)]


def confusion_matrices(confusions, title=""):
    """Matrices p(ŷ|y) side by side, a column a loss and a row a route of the attack.

    Args:
        confusions: of `experiments.confusion.Confusion`.
        title: above the picture.

    Returns:
        `{"png": bytes, "svg": bytes}`.
    """
    figure = new_figure(figsize=(9, 9.4))
    axes = figure.subplots(2, 2)
    for row, through in enumerate(_ROUTES):
        for column, loss in enumerate(_COLOURS):
            (one,) = (c for c in confusions if (c.through, c.trained_on) == (through, loss))
            image = _draw_matrix(axes[row, column], one)
    figure.colorbar(image, ax=axes, shrink=0.5, label="p(ŷ | y)")
    figure.suptitle(title, parse_math=False)
    return rendered(figure)


def _draw_matrix(axes, confusion):
    matrix = np.array(confusion.matrix, "float64")
    classes = len(matrix)
    image = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
    if classes <= 12:
        for row, column in np.argwhere(matrix >= 0.005):
            value = matrix[row, column]
            axes.text(
                column,
                row,
                f"{value:.2f}".removeprefix("0"),
                ha="center",
                va="center",
                fontsize=7,
                color="black" if value > 0.55 else "white",
            )
        axes.set(xticks=range(classes), yticks=range(classes))
    norm = f"‖I − C‖ = {confusion.norm:.2f}"
    if confusion.standard_error is not None:
        norm += f" ± {confusion.standard_error:.2f}"
    if confusion.paper is not None:
        norm += f" (paper: {confusion.paper:.2f})"
    axes.set(xlabel="true class y", ylabel="decision ŷ")
    name = f"trained on {confusion.trained_on.upper()}, attacked {_ROUTES[confusion.through]}"
    axes.set_title(f"{name}\n{norm}", fontsize=10)
    return image


def error_bounds(results, upper_bounds, title=""):
    """P_e and its upper bound: against epoch on the validation split, and against α.

    Args:
        results: from `experiments.train_all.run`. Where an earlier version wrote them, they hold
            no bound against epoch, and that panel is left out.
        upper_bounds: of `experiments.bounds.UpperBound`.
        title: above the picture.

    Returns:
        `{"png": bytes, "svg": bytes}`.
    """
    by_epoch = all("val_error_bound" in result["history"] for result in results)
    figure = new_figure(figsize=(11 if by_epoch else 6.5, 4.5))
    *left, right = figure.subplots(1, 2 if by_epoch else 1, squeeze=False)[0]
    for axes in left:
        _draw_bounds_by_epoch(axes, results)
    _draw_bounds_by_alpha(right, upper_bounds)
    figure.suptitle(title, parse_math=False)
    return rendered(figure)


def _draw_bounds_by_epoch(axes, results):
    for loss, colour in _COLOURS.items():
        histories = [result["history"] for result in results if result["loss"] == loss]
        error = [[1 - value for value in history["val_accuracy"]] for history in histories]
        bound = [history["val_error_bound"] for history in histories]
        _draw_curve(axes, bound, "-", colour, f"{loss.upper()}, bound")
        _draw_curve(axes, error, "--", colour, f"{loss.upper()}, error")
    axes.set(xlabel="epoch", ylabel="probability of error, validation split", yscale="log")
    axes.set_title("against epoch, at the α trained with", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_bounds_by_alpha(axes, upper_bounds):
    for loss, colour in _COLOURS.items():
        for style, split in zip(("-", ":"), ("test", "train"), strict=True):
            rows = [r for r in upper_bounds if (r.trained_on, r.split) == (loss, split)]
            label = f"{loss.upper()}, bound, {split}"
            axes.plot(
                [r.alpha for r in rows], [r.bound for r in rows], style, color=colour, label=label
            )
            if split == "test" and rows[0].error > 0:
                label = f"{loss.upper()}, error, {split}"
                axes.axhline(rows[0].error, linestyle="--", color=colour, label=label)
    axes.set(xlabel="order α", ylabel="probability of error", xscale="log", yscale="log")
    ticks = (1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title("after training, against the order of the bound", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def alpha_search(candidates, title=""):
    """Validation accuracy against α, clean and attacked, with the α that is chosen.

    Args:
        candidates: of `experiments.alpha.Candidate`.
        title: above the picture.

    Returns:
        `{"png": bytes, "svg": bytes}`.
    """
    (chosen,) = (one.alpha for one in candidates if one.chosen)
    figure = new_figure(figsize=(7, 6.5))
    clean, attacked = figure.subplots(2, 1, sharex=True)
    _draw_errors(clean, candidates, "clean", "o-", "#000000", "clean")
    _draw_errors(attacked, candidates, "exact", "s-", "#009E73", "attacked exactly")
    _draw_errors(attacked, candidates, "published", "^--", "#CC79A7", "attacked as published")
    for axes in (clean, attacked):
        axes.axvline(chosen, color="0.6", linestyle=":", label=f"chosen: α = {chosen:g}")
        axes.grid(alpha=0.3)
        axes.set_ylabel("validation accuracy")
        axes.legend(frameon=False, fontsize=9)
    clean.set_title("without attack", fontsize=10)
    attacked.set_title(f"FGSM with CE at ε = {candidates[0].epsilon:g}", fontsize=10)
    attacked.set_xlabel("order α trained with")
    figure.suptitle(title, parse_math=False)
    return rendered(figure)


def _draw_errors(axes, candidates, name, style, colour, label):
    axes.errorbar(
        [one.alpha for one in candidates],
        [getattr(one, name) for one in candidates],
        [getattr(one, f"{name}_error") or 0.0 for one in candidates],
        fmt=style,
        color=colour,
        label=label,
        capsize=3,
    )


def _draw_curve(axes, series, style, colour, label):
    epochs, mean, error = _curve(series)
    axes.plot(epochs, mean, style, color=colour, label=label)
    low, high = np.subtract(mean, error), np.add(mean, error)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _curve(series):
    """Epochs with a value, mean and standard error over realizations."""
    points = [
        (epoch, statistics.fmean(values), estimate(values).standard_error or 0.0)
        for epoch, values in enumerate(zip(*series, strict=True), 1)
        if None not in values
    ]
    return tuple(map(list, zip(*points, strict=True)))
