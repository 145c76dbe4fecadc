"""How results appear: numbers and tables as text, figures as bytes, progress on a terminal."""

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# What the routes of an attack's gradient are called.
ROUTE_LABELS = {"probabilities": "as published", "logits": "exact"}

_LATEX = str.maketrans(
    {
        "±": r"$\pm$",
        "−": "$-$",
        "ε": r"$\varepsilon$",
        "α": r"$\alpha$",
        "‖": r"$\|$",
        "≤": r"$\le$",
    }
)
# Characters that mean something to LaTeX, which may be in the name of a data set.
_LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "#$%&_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def printable_text(text: Any) -> str:
    """Returns text from outside as one line, with a space for each character that is not shown."""
    return "".join(character if character.isprintable() else " " for character in str(text))


def plain_text(text: Any) -> str:
    """Returns text from outside as one line that Markdown, HTML and a terminal show as it is."""
    printable = printable_text(text)
    for character in "\\`*_{}[]<>#|~&":
        printable = printable.replace(character, f"\\{character}")
    return printable


def format_share(value: float) -> str:
    """Formats a number ≥ 0, such as an accuracy: three decimals, no zero before the point."""
    return f"{value:.3f}".removeprefix("0")


def format_difference(value: float) -> str:
    """Formats a difference of shares, with its sign."""
    return f"{'−' if value < 0 else '+'}{format_share(abs(value))}"


def format_estimate(mean: float, standard_error: float) -> str:
    """Formats `.717 ± .013`, or the mean alone where the standard error is NaN."""
    error = "" if math.isnan(standard_error) else f" ± {format_share(standard_error)}"
    return format_share(mean) + error


def format_interval(
    mean: float, low: float, high: float, form: Callable[[float], str] = format_difference
) -> str:
    """Formats `+.010 [−.002, +.022]`, or the mean alone where there is no interval."""
    return form(mean) + ("" if math.isnan(low) else f" [{form(low)}, {form(high)}]")


def format_markdown(frame: "pd.DataFrame") -> str:
    """Formats a table of texts as Markdown."""
    return str(frame.to_markdown(index=False, disable_numparse=True))


def format_latex(frame: "pd.DataFrame", caption: str) -> str:
    """Formats a table of texts as LaTeX."""
    text = frame.to_latex(index=False, escape=True, caption=caption.translate(_LATEX_ESCAPES))
    return str(text).translate(_LATEX)


def new_figure(**arguments: Any) -> "Figure":
    """Returns a Matplotlib figure that no window ever shows."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **arguments)


def render_figure(figure: "Figure") -> dict[str, bytes]:
    """Returns the figure as `{"png": …, "svg": …}`, without date, version or random names."""
    import matplotlib

    pictures = {}
    with matplotlib.rc_context({"svg.hashsalt": "hr_keras"}):
        for kind, metadata in (
            ("png", {"Software": None}),
            ("svg", {"Date": None, "Creator": None}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            pictures[kind] = buffer.getvalue()
    return pictures


@contextlib.contextmanager
def show_progress(
    console: Any, models: Iterable[tuple[Any, int]]
) -> Iterator[Callable[[Any, int], None]]:
    """Shows a progress bar over all epochs of all models, with the time left.

    Args:
        console: A `rich.console.Console`.
        models: A key for each model, and its number of epochs.

    Yields:
        `on_epoch(key, epochs_done)`.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs,"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    epochs = dict(models)
    done = dict.fromkeys(epochs, 0)
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("starting", total=sum(epochs.values()))

        def on_epoch(key: Any, epochs_done: int) -> None:
            done[key] = epochs_done
            trained = sum(done[model] == total for model, total in epochs.items())
            description = f"{trained} of {len(epochs)} models,"
            shown.update(task, completed=sum(done.values()), description=description)

        yield on_epoch
