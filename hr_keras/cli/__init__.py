"""The command line `hr-keras`: parse, plan, train and measure, then draw from what is saved."""

import os
import pathlib
import re
import sys
import traceback
from typing import Annotated, Any

import typer

from hr_keras.cli import commands, comparisons
from hr_keras.cli.options import app
from hr_keras.experiments import workers

__all__ = ["app", "commands", "comparisons", "main"]


@app.callback(invoke_without_command=True)
def _app(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error.")
    ] = False,
) -> None:
    if version:
        from hr_keras import __version__

        print(__version__)
        raise typer.Exit


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised an error: then its message is for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame.filename for frame in frames]
    # What a worker process raised carries its own traceback as text.
    files += re.findall(r'File "([^"]+)"', str(error.__cause__ or ""))
    package = pathlib.Path(__file__).parents[1]
    return bool(files) and package in pathlib.Path(files[-1]).parents


def _make_printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _show_traceback(kind: type[BaseException], error: BaseException, tb: Any) -> None:
    text = "".join(traceback.format_exception(kind, error, tb))
    print(_make_printable(text), file=sys.stderr, end="")


def main() -> None:
    """Entry point of `hr-keras`: what the user can mend ends with a line, a bug with a traceback.

    Text from models and files is printed without its control characters. The exit status is 2
    where something must be changed, 1 where the same command resumes.
    """
    sys.excepthook = _show_traceback
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if isinstance(error, workers.ProcessEnded):
            message, code = str(error), 1
        elif isinstance(error, OSError) or (isinstance(error, ValueError) and _is_ours(error)):
            message, code = str(error), 2
        elif isinstance(error, ImportError) and error.name in ("jax", "torch"):
            message, code = (
                f"Keras is set to the backend {error.name}, which is not installed. Install it, or "
                "set KERAS_BACKEND=tensorflow.",
                2,
            )
        elif type(error).__name__ == "UnavailableError":  # TensorFlow's, which may not be imported
            message, code = "another worker ended. Run the same commands again to resume.", 1
        else:
            raise
        print(f"hr-keras: {_make_printable(message)}", file=sys.stderr, flush=True)
        if type(error).__name__ == "UnavailableError":
            sys.stdout.flush()
            os._exit(code)  # a thread may still attack, and TensorFlow would wait for the worker
        sys.exit(code)
