"""Figures as inline SVG that follows the colours of the page, with the values in them."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hr_keras.report.values import find_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEXT = "#010203"  # stands for the colour of the page's text, light or dark
_COLOURS = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color",
    "ytick.color",
)  # fmt: skip
PREFIX = "@figure-"  # begins each id; the page puts its own instead


def draw(make_figure: Callable[[], "Figure"]) -> tuple[str, str]:
    """Draws a figure as SVG without namespaces, metadata or style sheet.

    Text becomes outlines, so nothing that is drawn can be read as HTML.

    Args:
        make_figure: Makes the figure.

    Returns:
        The SVG, and the values of its curves and matrices as JSON, see `find_values`.
    """
    import matplotlib

    settings: dict[Any, Any] = dict.fromkeys(_COLOURS, _TEXT) | {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.fonttype": "path",
        "svg.hashsalt": "hr_keras",
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure = make_figure()
        figure.savefig(buffer, format="svg", dpi=150, metadata=nothing)
        values = find_values(figure)
    return _clean(buffer.getvalue()), values


def _clean(text: str) -> str:
    svg = text[text.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->",
                    r'\sxmlns(:\w+)?="[^"]*"', r'\sversion="[^"]*"'):  # fmt: skip
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    # A hundredth of a point is enough.
    svg = re.sub(r'\sd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda one: one[0] if one[1] in used else "", svg)
    svg = re.sub(r'\bid="', f'id="{PREFIX}', svg)
    svg = re.sub(r"url\(#", f"url(#{PREFIX}", svg)
    svg = re.sub(r'href="#', f'href="#{PREFIX}', svg)
    svg = svg.replace(_TEXT, "currentColor").replace("stroke: #000000", "stroke: currentColor")
    # The size is the page's; the viewBox keeps the proportions.
    width = re.search(r'width="([\d.]+)pt"', svg)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    size = f' style="max-width: {float(width[1]) * 1.25:.0f}px"' if width else ""
    return svg.replace("<svg", f'<svg aria-hidden="true" focusable="false"{size}', 1)
