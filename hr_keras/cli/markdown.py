"""Markdown on a terminal of any width: no number is broken in the middle."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Column, Table
from rich.text import Text

# Cells up to this length, such as numbers with their intervals, stay on one line.
_SHORT = 24
_BESIDE_COLUMN = 2  # characters that a column takes beside its text


def print_markdown(console: Console, text: str) -> None:
    """Prints a Markdown text; tables that are too wide for the terminal become lists."""
    console.print(_Markdown(text))


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in cast("Iterator[Table]", super().__rich_console__(console, options)):
            table.box, table.show_edge = box.SIMPLE, False
            table.pad_edge, table.collapse_padding = False, True
            columns = [_texts(column) for column in table.columns]
            left = options.max_width - _BESIDE_COLUMN * len(columns)
            widths = _find_widths(columns, left)
            for column, width in zip(table.columns, widths, strict=True):
                column.width = width
            yield table if sum(widths) <= left else _list_rows(columns)


def _texts(column: Column) -> list[str]:
    return [str(column.header), *map(str, column.cells)]


def _find_widths(columns: list[list[str]], left: int) -> list[int]:
    """The width of each column: every word and short cell is whole, even if that is too wide.

    What is left over goes to the columns that need least of it.
    """
    widths = [_find_least(*column) for column in columns]
    wanted = [_longest(column) for column in columns]
    spare = left - sum(widths)
    order = sorted(range(len(columns)), key=lambda k: wanted[k] - widths[k])
    for done, k in enumerate(order):
        given = max(0, min(wanted[k] - widths[k], spare // (len(columns) - done)))
        widths[k] += given
        spare -= given
    return widths


def _find_least(header: str, *cells: str) -> int:
    words = header.split() + [word for cell in cells for word in cell.split()]
    whole = _longest(cells) if _longest(cells) <= _SHORT else 0
    return max(_longest(words), whole)


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _list_rows(columns: list[list[str]]) -> Text:
    """Each row as a paragraph, with a line for each cell."""
    headers, *rows = zip(*columns, strict=True)
    paragraphs = (
        "\n".join(f"{header}: {cell}" if header else cell for header, cell in pairs if cell)
        for pairs in (zip(headers, row, strict=True) for row in rows)
    )
    return Text("\n\n".join(paragraphs) + "\n")


class _Markdown(Markdown):
    elements: ClassVar[dict[str, Any]] = {**Markdown.elements, "table_open": _Table}
