"""Figures of an audit, from its `audit.json`."""

import base64
import textwrap

import numpy as np

from hr_keras._core.rendering import new_figure, render_figure

# Colour-blind safe (Okabe & Ito), without its yellow, and three more.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#5E4FA2", "0.45"
)  # fmt: skip
_MARKERS = "os^vDPX*h"


def security_curve(audit, title=""):
    """Accuracy against ε for every attack, and for the worst of them on each example.

    Args:
        audit: the dict of `audit.audit`.
        title: above the picture.

    Returns:
        `{"png": bytes, "svg": bytes}`.
    """
    figure = new_figure(figsize=(7.5, 4.6))
    axes = figure.subplots()
    names = list(dict.fromkeys(row["attack"] for row in audit["curve"]))
    start = {"epsilon": 0.0, **audit["clean"]}
    for k, name in enumerate(names):
        rows = [start, *(row for row in audit["curve"] if row["attack"] == name)]
        worst = name == "worst_case"
        colour = "black" if worst else _COLOURS[k % len(_COLOURS)]
        x, y, low, high = (
            [row[key] for row in rows] for key in ("epsilon", "accuracy", "low", "high")
        )
        if worst:
            axes.fill_between(x, low, high, color="0.88", linewidth=0, label="95 % interval")
        # Below the others, so that none of them hides where they agree.
        axes.plot(
            x,
            y,
            "-" if worst else "--",
            color=colour,
            marker=None if worst else _MARKERS[k % len(_MARKERS)],
            markersize=5,
            linewidth=2.2 if worst else 1.2,
            label="worst case" if worst else name,
            zorder=2 if worst else 3,
        )
    chance = 1 / audit["model"]["classes"]
    axes.axhline(chance, color="0.5", linestyle=":", linewidth=1, label="chance")
    axes.axvline(audit["protocol"]["epsilon"], color="0.8", linewidth=1, zorder=1)
    norm = {"linf": "L∞", "l2": "L2"}[audit["protocol"]["norm"]]
    axes.set(xlabel=f"ε ({norm})", ylabel="accuracy", ylim=(-0.02, 1.02))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    axes.set_title(textwrap.fill(title, 64), fontsize=10, parse_math=False)
    return render_figure(figure)


def adversarial_pictures(audit, title=""):
    """Clean image, adversarial image and their difference, a column an example.

    Args:
        audit: the dict of `audit.audit`, with at least one picture.
        title: above the picture.

    Returns:
        `{"png": bytes, "svg": bytes}`.
    """
    pictures = audit["pictures"]
    columns = len(pictures)
    width = max(1.35 * columns + 0.9, 4)
    figure = new_figure(figsize=(width, 5.4))
    rows = figure.subplots(3, columns, squeeze=False)
    low, high = audit["protocol"]["bounds"]
    for column, picture in enumerate(pictures):
        clean, adversarial = (
            _pixels(picture[key], low, high) for key in ("image", "adversarial_image")
        )
        # Grey is no change, and the largest of this image is black or white.
        change = adversarial - clean
        largest = np.abs(change).max() or 1.0
        for row, image in enumerate((clean, adversarial, 0.5 + change / (2 * largest))):
            axes = rows[row, column]
            axes.imshow(image.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        rows[0, column].set_title(_caption(picture, "predicted"), fontsize=8)
        rows[1, column].set_title(_caption(picture, "adversarial"), fontsize=8)
        rows[2, column].set_title(f"±{largest * (high - low):.2g}", fontsize=8)
        rows[2, column].set_xlabel(picture["attack"], fontsize=8)
    for row, name in enumerate(("clean", "adversarial", "perturbation")):
        rows[row, 0].set_ylabel(name, fontsize=9)
    title = textwrap.fill(title, int(11 * width))  # with the name of a file, of any length
    figure.suptitle(title, fontsize=10, parse_math=False)
    return render_figure(figure)


def _caption(picture, which):
    probability = picture[f"{which}_probability"]
    return f"{picture[which]}" + ("" if probability is None else f" ({probability:.2f})")


def _pixels(image, low, high):
    """`(height, width)` or `(height, width, 3)` in [0, 1] of any image of `audit.json`.

    Of several frames, the one in the middle.
    """
    pixels = np.frombuffer(base64.b64decode(image["base64"], validate=True), "<f4")
    pixels = (pixels.reshape(image["shape"]).astype("float64") - low) / (high - low)
    while pixels.ndim > 3:
        pixels = pixels[len(pixels) // 2]
    if pixels.ndim == 1:
        pixels = pixels[None, :]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = pixels.mean(axis=2)
    return pixels
