"""Markdown on a terminal of any width: no number is broken in the middle."""

from collections.abc import Iterator
from typing import Any, ClassVar, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Column, Table
from rich.text import Text

# Cells up to this length, such as numbers with their intervals, stay on one line.
_SHORT = 24
_BETWEEN_COLUMNS = 3


def print_markdown(console: Console, text: str) -> None:
    """Prints a Markdown text; tables that are too wide for the terminal become lists."""
    console.print(_Markdown(text))


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in cast("Iterator[Table]", super().__rich_console__(console, options)):
            columns = [_texts(column) for column in table.columns]
            for column, cells in zip(table.columns, columns, strict=True):
                column.no_wrap = max(map(len, cells)) <= _SHORT
            yield table if _fits(columns, options.max_width) else _list_rows(columns)


def _texts(column: Column) -> list[str]:
    return [str(column.header), *map(str, column.cells)]


def _fits(columns: list[list[str]], width: int) -> bool:
    """Whether short cells fit in a line each, and every word of the others."""
    needed = _BETWEEN_COLUMNS * len(columns)
    long = [cells for cells in columns if max(map(len, cells)) > _SHORT]
    needed += sum(max(map(len, cells)) for cells in columns if cells not in long)
    words = [len(word) for cells in long for cell in cells for word in cell.split()]
    return needed + len(long) * max(words, default=0) <= width


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
