"""An audit as text and figures, from its result alone."""

import collections
import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hr_keras._core.finding import Finding
from hr_keras._core.pixel_bounds import format_bounds, scale_to_unit, widest
from hr_keras._core.rendering import (
    format_markdown,
    format_share,
    new_figure,
    plain_text,
    printable_text,
)
from hr_keras._core.unknown_logits import MARK, NOTE
from hr_keras.audit.result import WORST_CASE, AuditResult, AuditRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERDICTS = {"fault": "FAULT", "warning": "warning", "ok": "ok", "not applicable": "–"}
_NORMS = {"linf": "L∞", "l2": "L2"}
# Colour-blind safe (Okabe & Ito), without its yellow, and three more.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#5E4FA2", "0.45"
)  # fmt: skip
_MARKERS = "os^vDPX*h"


def format_audit(result: AuditResult) -> str:
    """Returns accuracy, findings, protocol and versions as Markdown."""
    title = f"# Audit of {plain_text(find_name(result))}"
    sections = [title, summarize(result), *format_accuracies(result), *format_details(result)]
    return "\n\n".join(sections) + "\n"


def format_brief(result: AuditResult) -> str:
    """Returns what a terminal shows, Markdown: accuracy, and the findings that are not ok."""
    found = tuple(one for one in result.findings if one.verdict in ("fault", "warning"))
    counts: collections.Counter[str] = collections.Counter(one.verdict for one in result.findings)
    sections = [
        f"# Audit of {plain_text(find_name(result))}",
        summarize(result),
        *format_accuracies(result),
        "Checks: " + ", ".join(f"{counts[v]} {v}" for v in _VERDICTS if counts[v]) + ".",
    ]
    if found:
        sections += ["## Findings", _format_findings(found)]
    return "\n\n".join(sections) + "\n"


def format_accuracies(result: AuditResult) -> list[str]:
    """Returns the accuracy under each attack at ε of the protocol, Markdown sections."""
    protocol = result.protocol
    notes = (
        f"{protocol.examples} examples; in brackets the 95 % interval (Wilson). The worst case "
        "counts an example as robust if it withstands every attack."
    )
    if "standard" not in protocol.attacks:
        notes += (
            " A stronger attack may fool more examples: `--attack standard` runs those of "
            "AutoAttack."
        )
    if _mark(result):
        notes += f" {MARK} {NOTE}"
    return [f"## Accuracy at {_format_size(result)}", _format_attacks(result), notes]


def format_details(result: AuditResult) -> list[str]:
    """Returns security curve, examples, findings and protocol, Markdown sections."""
    sections = [
        "## Security curve",
        _format_curve(result),
        "![Accuracy against ε, a curve for each attack](curve.png)",
    ]
    if result.pictures:
        sections += [
            "## Adversarial examples",
            "Above each image the decision and its probability; below each perturbation the "
            "attack. Grey is no change.",
            "![Clean images, adversarial images and perturbations](pictures.png)",
        ]
    return [
        *sections,
        "## Findings",
        _format_findings(result.findings),
        "Sources:",
        _format_sources(result.findings),
        "## Protocol",
        _format_protocol(result),
    ]


def _mark(result: AuditResult) -> str:
    """What follows an accuracy under attack that may be too high."""
    return MARK if result.model.output == "probabilities" else ""


def find_name(result: AuditResult) -> str:
    """Returns the model's file, or its name, and the data; text from outside, in one line."""
    data = "" if result.protocol.data is None else f" on {result.protocol.data}"
    return printable_text((result.model.file or result.model.name) + data)


def _format_size(result: AuditResult) -> str:
    return f"ε = {result.protocol.epsilon:g} in {_NORMS[result.protocol.norm]}"


def summarize(result: AuditResult) -> str:
    """Says what is left of the accuracy, and whether to believe it, in Markdown."""
    size = _format_size(result)
    rows = (result.clean, result.find_row(WORST_CASE))
    clean, worst = (format_share(row.accuracy) for row in rows)
    text = (
        f"Accuracy {clean} without an attack, **{worst}**{_mark(result)} under the worst of the "
        f"attacks on each example at {size}."
    )
    faults, warnings = (
        ", ".join(_code(one.name) for one in result.findings if one.verdict == verdict)
        for verdict in ("fault", "warning")
    )
    if faults:
        text += f" **These numbers do not measure robustness**: {faults}."
    if warnings:
        text += f" Read them with care: {warnings}."
    if not faults and not warnings:
        text += " No check found a masked gradient or a weak attack."
    return text


def _code(name: str) -> str:
    """A name as Markdown code, even if a file holds something else."""
    plain = re.sub(r"[^\w.-]", " ", name)
    return f"`{plain}`"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return format_markdown(pd.DataFrame(rows, columns=header))


def _format_attacks(result: AuditResult) -> str:
    def interval(row: AuditRow) -> str:
        accuracy, low, high = map(format_share, (row.accuracy, row.low, row.high))
        return f"{accuracy} ({low} to {high})"

    described = {one.name: plain_text(one.description) for one in result.attacks}
    rows = [["none", "", interval(result.clean)]]
    for name in result.protocol.attacks:
        row = interval(result.find_row(name)) + _mark(result)
        rows.append([plain_text(name), described.get(name, ""), row])
    worst = interval(result.find_row(WORST_CASE)) + _mark(result)
    rows.append(["**worst case**", "the worst of them for each example", worst])
    return _table(["attack", "what it does", "accuracy"], rows)


def _format_curve(result: AuditResult) -> str:
    names = (*result.protocol.attacks, WORST_CASE)
    rows = [
        [
            f"{e:g}",
            *(
                format_share(result.find_row(name, e).accuracy) + (_mark(result) if e else "")
                for name in names
            ),
        ]
        for e in (0.0, *result.protocol.epsilons)
    ]
    return _table(["ε", *(plain_text(name.replace("_", " ")) for name in names)], rows)


def _format_findings(findings: tuple[Finding, ...]) -> str:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    order = list(_VERDICTS)
    rows = [
        [
            _VERDICTS[one.verdict],
            _code(one.name),
            plain_text(one.meaning),
            number(one.measured),
            number(one.threshold),
        ]
        for one in sorted(findings, key=lambda one: order.index(one.verdict))
    ]
    return _table(["verdict", "check", "meaning", "measured", "threshold"], rows)


def _format_sources(findings: tuple[Finding, ...]) -> str:
    by_source: dict[str, list[str]] = {}
    for one in findings:
        by_source.setdefault(one.source, []).append(_code(one.name))
    return "\n".join(f"- {plain_text(s)}: {', '.join(names)}" for s, names in by_source.items())


def _format_protocol(result: AuditResult) -> str:
    model, protocol = result.model, result.protocol
    first = f"{protocol.data}, the first {protocol.examples} of the {protocol.split} split"
    values: dict[str, Any] = {
        "model": f"{model.name}, {model.parameters:,} parameters, {model.classes} classes, "
        f"returns {model.output}",
        "SHA-256 of the file": model.sha256,
        "data": protocol.data and first,
        "SHA-256 of the data": protocol.data_sha256,
        "adversarial examples also from": ", ".join(protocol.others) or None,
        "images": protocol.stored_shape
        and f"of shape {protocol.stored_shape}, reshaped to what the model takes",
        "pixels": f"from {format_bounds(protocol.bounds)}",
        "seed": protocol.seed,
        "batch size": protocol.batch_size,
        "versions": ", ".join(f"{name} {value}" for name, value in result.versions.items()),
        "seconds": f"{result.seconds:g}",
    }
    return "\n".join(f"- {k}: {plain_text(v)}" for k, v in values.items() if v is not None)


def draw_curve(result: AuditResult, title: str = "") -> "Figure":
    """Draws accuracy against ε for every attack, and for the worst of them on each example."""
    figure = new_figure(figsize=(7.5, 4.6))
    axes = figure.subplots()
    x = (0.0, *result.protocol.epsilons)
    for k, name in enumerate((*result.protocol.attacks, WORST_CASE)):
        rows = [result.find_row(name, epsilon) for epsilon in x]
        y = [row.accuracy for row in rows]
        if name == WORST_CASE:  # below the others, so that it hides none of them
            low, high = [row.low for row in rows], [row.high for row in rows]
            axes.fill_between(
                x, low, high, color="0.5", alpha=0.25, linewidth=0, label="95 % interval"
            )
            axes.plot(x, y, color="black", linewidth=2.2, label="worst case", zorder=2)
        else:
            (line,) = axes.plot(x, y, "--", markersize=5, linewidth=1.2, label=name, zorder=3)
            line.set(color=_COLOURS[k % len(_COLOURS)], marker=_MARKERS[k % len(_MARKERS)])
    chance = 1 / result.model.classes
    axes.axhline(chance, color="0.5", linestyle=":", linewidth=1, label="chance")
    axes.axvline(result.protocol.epsilon, color="0.8", linewidth=1, zorder=1)
    norm = _NORMS[result.protocol.norm]
    axes.set(xlabel=f"ε ({norm})", ylabel="accuracy", ylim=(-0.02, 1.02))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    if _mark(result):
        title += " † logits not known: accuracy under attack may be far lower"
    axes.set_title(textwrap.fill(title, 64), fontsize=10, parse_math=False)
    return figure


def draw_pictures(result: AuditResult, title: str = "") -> "Figure":
    """Draws clean image, adversarial image and difference: a column for each example."""
    columns = len(result.pictures)
    width = max(1.35 * columns + 0.9, 4)
    figure = new_figure(figsize=(width, 5.4))
    rows = figure.subplots(3, columns, squeeze=False)
    bounds = result.protocol.bounds
    for column, picture in zip(rows.T, result.pictures, strict=True):
        clean, adversarial = (
            _find_pixels(scale_to_unit(image.decode().astype("float64"), bounds))
            for image in (picture.image, picture.adversarial_image)
        )
        # Grey is no change; the largest change of this image is black or white.
        change = adversarial - clean
        largest = np.abs(change).max() or 1.0
        for axes, image in zip(
            column, (clean, adversarial, 0.5 + change / (2 * largest)), strict=True
        ):
            axes.imshow(image.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        captions = (
            _caption(picture.predicted, picture.predicted_probability),
            _caption(picture.adversarial, picture.adversarial_probability),
            f"±{largest * widest(bounds):.2g}",
        )
        for axes, caption in zip(column, captions, strict=True):
            axes.set_title(caption, fontsize=8)
        column[2].set_xlabel(picture.attack, fontsize=8)
    for axes, name in zip(rows[:, 0], ("clean", "adversarial", "perturbation"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    figure.suptitle(textwrap.fill(title, int(11 * width)), fontsize=10, parse_math=False)
    return figure


def _caption(decision: int, probability: float | None) -> str:
    return f"{decision}" + ("" if probability is None else f" ({probability:.2f})")


def _find_pixels(pixels: np.ndarray) -> np.ndarray:
    """`(height, width)` or `(height, width, 3)` of an image of any rank: the middle frame."""
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1:
        pixels = pixels.reshape(side if side**2 == pixels.size else 1, -1)
    while pixels.ndim > 3:
        pixels = pixels[len(pixels) // 2]
    return pixels.mean(axis=2) if pixels.ndim == 3 and pixels.shape[2] != 3 else pixels
