"""The values of a drawn figure and where they are on it, for those who point at it."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def find_values(figure: "Figure") -> str:
    """Returns the curves and matrices of a figure as JSON; empty where it has none.

    `charts`: the panels that share an axis x, with its values; each panel has its title, its box
    in the units of the SVG, the place of each value as a share of its width, and its curves, with
    `null` where a curve has no value. `maps`: the matrices, by rows from the top.

    Args:
        figure: A figure that was drawn: only then do its panels have their place.
    """
    charts: dict[str, list[Axes]] = {}
    maps = []
    for axes in figure.axes:
        if axes.images and axes.get_xlabel() and len(axes.get_xticks()):
            maps.append(_read_map(axes, figure))
        elif _find_curves(axes):
            charts.setdefault(_find_label(axes), []).append(axes)
    found = {
        "charts": [_read_chart(label, panels, figure) for label, panels in charts.items()],
        "maps": maps,
    }
    return json.dumps(found, separators=(",", ":")) if charts or maps else ""


def _find_label(axes: "Axes") -> str:
    """The label of x; of panels above each other only the lowest shows it."""
    shared = axes.get_shared_x_axes().get_siblings(axes)
    return next((label for one in [axes, *shared] if (label := one.get_xlabel())), "")


def _find_curves(axes: "Axes") -> list[tuple[str, Any, Any]]:
    """(label, x, y) of each curve of the legend; lines across the whole panel are none."""
    curves = []
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle[0] if isinstance(handle, tuple) else handle  # with error bars: a tuple
        if hasattr(line, "get_xydata") and line.get_transform() == axes.transData:
            x, y = np.asarray(line.get_xydata(), "float64").T
            curves.append((label, x, y))
    return curves


def _read_chart(label: str, panels: list["Axes"], figure: "Figure") -> dict[str, Any]:
    curves = [_find_curves(axes) for axes in panels]
    values = np.unique(np.concatenate([x for panel in curves for _, x, _ in panel]))
    return {
        "label": label,
        "values": [_shorten(value) for value in values],
        "panels": [
            {
                "title": axes.get_title(),
                "box": _find_box(axes, figure),
                "at": [round(float(share), 4) for share in _find_shares(axes, values)],
                "curves": [{"label": name, "y": _align(values, x, y)} for name, x, y in panel],
            }
            for axes, panel in zip(panels, curves, strict=True)
        ],
    }


def _align(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[float | None]:
    by_x = dict(zip(x, y, strict=True))
    found = (by_x.get(value) for value in values)
    return [None if one is None or not np.isfinite(one) else _shorten(one) for one in found]


def _read_map(axes: "Axes", figure: "Figure") -> dict[str, Any]:
    pixels: Any = axes.images[0].get_array()
    matrix: np.ndarray = np.ma.filled(np.ma.asarray(pixels, "float64"), np.nan)
    return {
        "box": _find_box(axes, figure),
        "x": axes.get_xlabel(),
        "y": axes.get_ylabel(),
        "rows": [
            [_shorten(value) if np.isfinite(value) else None for value in row] for row in matrix
        ],
    }


def _find_shares(axes: "Axes", values: np.ndarray) -> np.ndarray:
    points = np.column_stack([values, np.full(len(values), axes.get_ylim()[0])])
    shares: np.ndarray = (axes.transData + axes.transAxes.inverted()).transform(points)[:, 0]
    return shares


def _find_box(axes: "Axes", figure: "Figure") -> list[float]:
    """Left, top, width and height in points."""
    width, height = 72 * figure.get_size_inches()
    box = axes.get_position()
    numbers = (box.x0 * width, (1 - box.y1) * height, box.width * width, box.height * height)
    return [round(float(number), 1) for number in numbers]


def _shorten(value: float) -> float | int:
    number = float(f"{value:.4g}")
    return int(number) if number.is_integer() else number
