"""Draws the pictures of the documentation from formulas: `python docs/draw.py`."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

FOLDER = pathlib.Path(__file__).parent / "pictures"
CE, HR, GREEN = "#0072B2", "#D55E00", "#009E73"  # as in the tables; Okabe & Ito's palette
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hr_keras",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "path.simplify_threshold": 0.2,
}


def new_figure(panels=2):
    figure = Figure(figsize=(3.6 * panels, 2.9), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def draw_one_example():
    """Cross-entropy, entropy and their sum for one example of two classes, and their pull."""
    figure, (values, pulls) = new_figure()
    q = np.linspace(0.003, 0.997, 150)
    cross_entropy = -np.log(q)
    entropy = -q * np.log(q) - (1 - q) * np.log(1 - q)
    values.plot(q, cross_entropy, color=CE, label="cross-entropy")
    values.plot(q, entropy, color=GREEN, label="entropy H")
    values.plot(q, cross_entropy + entropy, color=HR, label="both: HR of one example")
    values.set(xlabel="probability of the right class, q", ylabel="nats", ylim=(0, 3.5))
    values.legend()
    gap = np.linspace(-4, 12, 150)
    q = 1 / (1 + np.exp(-gap))
    pull = 1 / (1 + np.exp(gap))  # 1 − q without rounding
    pulls.semilogy(gap, pull, color=CE, label="cross-entropy")
    pulls.semilogy(gap, pull * (1 + q * gap), color=HR, label="HR of one example")
    pulls.set(xlabel="logit of the right class − the other", ylabel="pull: − slope of the loss")
    pulls.legend()
    return figure


def draw_batch():
    """How much an example counts, and the Rényi term between the mean and the maximum."""
    figure, (weights, terms) = new_figure()
    cross_entropy = np.linspace(0, 4, 50)
    for alpha, style in ((1.001, ":"), (1.6, "-"), (3.0, "--")):
        label = "α → 1, the mean" if alpha < 1.1 else f"α = {alpha:g}"
        weight = np.exp((alpha - 1) * cross_entropy)
        weights.semilogy(cross_entropy, weight, style, color=HR, label=label)
    weights.set(xlabel="cross-entropy of an example", ylabel="its weight, an easy one has 1")
    weights.legend()
    batch = np.array([0.05, 0.2, 0.5, 3.0])
    alphas = 1 + np.geomspace(0.01, 19, 100)
    renyi = [np.log(np.mean(np.exp((a - 1) * batch))) / (a - 1) for a in alphas]
    terms.semilogx(alphas - 1, renyi, color=HR)
    terms.axhline(batch.max(), color="0.4", linestyle="--")
    terms.axhline(batch.mean(), color="0.4", linestyle=":")
    terms.text(0.011, batch.max() - 0.22, "largest cross-entropy")
    terms.text(0.8, batch.mean() - 0.28, "mean cross-entropy")
    terms.axvline(0.6, color="0.7", linewidth=1)
    terms.text(0.56, 2.3, "α = 1.6", ha="right")
    terms.set(xlabel="α − 1", ylabel="Rényi term of four examples", ylim=(0, 3.2))
    return figure


def draw_zero_gradient():
    """The size of the gradient of cross-entropy: exact, and what float32 makes of it."""
    figure, (panel,) = new_figure(1)
    figure.set_size_inches(5.4, 2.9)
    gap = np.arange(0, 24, 0.05)
    panel.semilogy(gap, 1 / (1 + np.exp(gap)), color="0.6", linewidth=4, label="exact")
    probability = (1 / (1 + np.exp(-gap.astype("float32")))).astype("float32")
    clipped = probability > np.float32(1 - 1e-7)
    published = np.where(clipped, np.nan, np.float32(1) - probability)
    panel.semilogy(gap, published, color=HR, label="through the softmax, float32")
    last = gap[~clipped].max()
    panel.axvline(last, color=HR, linestyle=":")
    panel.text(last + 0.3, 2e-3, "from here on\nexactly zero", color=HR)
    panel.set(xlabel="logit of the right class − the next", ylabel="size of the gradient, 1 − q")
    panel.legend(loc="lower left")
    return figure


PICTURES = {
    "one_example.svg": draw_one_example,
    "batch.svg": draw_batch,
    "zero_gradient.svg": draw_zero_gradient,
}


def main(folder=FOLDER):
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        for name, draw in PICTURES.items():
            draw().savefig(pathlib.Path(folder) / name, format="svg", metadata=nothing)


if __name__ == "__main__":
    main()
