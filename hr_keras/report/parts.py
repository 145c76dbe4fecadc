"""What a page shows of a folder: Markdown, figures and data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from hr_keras._core.rendering import plain_text
from hr_keras.report.drawing import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Args:
        svg: Inline SVG, drawn by us.
        alt: What it shows, for those who do not see it.
        values: The values of its curves and matrices as JSON, see `find_values`.
        choice: Of the figures of a document that differ in ε: the ε of this one, else empty.
        is_chosen: Whether it is the one of them that is shown first.
    """

    svg: str
    alt: str
    values: str = ""
    choice: str = ""
    is_chosen: bool = False


@dataclasses.dataclass(frozen=True)
class Document:
    """A result as Markdown, whose images are names of its figures.

    Args:
        text: Markdown. Its highest heading is `#`.
        figures: By name.
        data: Content of the files to download, by name.
    """

    text: str
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """What a page shows of a folder.

    Args:
        title: Text from outside.
        verdict: Markdown, on the first screen.
        summary: Numbers side by side and what separates them, on the first screen.
        documents: All results.
    """

    title: str
    verdict: str
    summary: Document
    documents: tuple[Document, ...]


def make_figure(
    drawing: Callable[[], "Drawing"], alt: str, choice: str = "", is_chosen: bool = False
) -> Figure:
    """Returns a figure of the page.

    Args:
        drawing: Makes the Matplotlib figure.
        alt: As in `Figure`.
        choice: As in `Figure`.
        is_chosen: As in `Figure`.
    """
    svg, values = draw(drawing)
    return Figure(svg, alt, values, choice, is_chosen)


def add_figures(text: str, figures: dict[str, Figure], data: dict[str, str]) -> Document:
    """Returns a document with the figures after its first heading."""
    heading, _, rest = text.partition("\n")
    images = "\n\n".join(f"![]({name})" for name in figures)
    return Document(f"{heading}\n\n{images}\n{rest}", figures, data)


def list_values(values: Mapping[str, str]) -> pd.DataFrame:
    """Returns a table of names and values, text from outside, without those that are empty."""
    given = {name: value for name, value in values.items() if value}
    lines = {
        "name": [plain_text(name) for name in given],
        "value": [plain_text(value) for value in given.values()],
    }
    return pd.DataFrame(lines)


def to_csv(rows: pd.DataFrame) -> str:
    """Returns rows as CSV."""
    return str(rows.to_csv(index=False, lineterminator="\n"))
