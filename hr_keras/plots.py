"""Figures from saved results, never from models."""

import io
import math
import statistics

# Colour-blind safe (Okabe & Ito), one a loss; one line style an ε.
_COLOURS = {"ce": "#0072B2", "hr": "#D55E00"}
_STYLES = ("-", "--", ":", "-.")


def accuracy_against_epoch(results, title=""):
    """Validation accuracy against epoch, clean and attacked, for CE and HR: Figure 1.

    A curve is the mean over realizations, its band ± one standard error where there are
    two or more.

    Args:
        results: from `experiments.table.run`, or the same from files.
        title: above the picture.

    Returns:
        A PNG, as bytes.
    """
    from matplotlib.figure import Figure

    keys = [key for key in results[0]["history"] if _epsilon(key) is not None]
    keys.sort(key=_epsilon)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for loss, colour in _COLOURS.items():
        histories = [result["history"] for result in results if result["loss"] == loss]
        for style, key in zip(_STYLES, keys, strict=False):
            epochs, mean, error = _curve([history[key] for history in histories])
            label = f"{loss.upper()}, ε = {_epsilon(key):g}"
            axes.plot(epochs, mean, style, color=colour, label=label)
            low = [m - e for m, e in zip(mean, error, strict=True)]
            high = [m + e for m, e in zip(mean, error, strict=True)]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1), title=title)
    axes.title.set_parse_math(False)  # it may hold the name of a file
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", title="trained on", frameon=False)
    buffer = io.BytesIO()
    # No date and no version in the file: the same results give the same bytes.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _epsilon(key):
    """ε of a history key: 0 for the clean accuracy, None for what is no accuracy under CE."""
    if key == "val_accuracy":
        return 0.0
    if key.startswith("val_fgsm_ce_") and key.endswith("_accuracy"):
        return float(key.removeprefix("val_fgsm_ce_").removesuffix("_accuracy"))
    return None


def _curve(series):
    """Epochs with a value, mean and standard error over realizations."""
    points = [
        (epoch, statistics.fmean(values), _standard_error(values))
        for epoch, values in enumerate(zip(*series, strict=True), 1)
        if None not in values
    ]
    return tuple(map(list, zip(*points, strict=True)))


def _standard_error(values):
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
