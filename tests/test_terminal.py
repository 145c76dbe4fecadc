"""What reaches a terminal: whole numbers at any width, and no control characters."""

import io
import sys

import pytest
from rich.console import Console

from hr_keras import cli
from hr_keras.cli.markdown import print_markdown

TABLE = """
| attack | what it does | accuracy |
|:--|:--|:--|
| pgd | PGD on the margin, 40 steps from a random start, best of 2 | .123 (.100 to .150) |
| a_name_that_is_rather_long | – | .456 (.400 to .500) |
"""


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_no_cell_with_a_number_is_broken(width):
    console = Console(width=width, file=io.StringIO())
    print_markdown(console, TABLE)
    text = console.file.getvalue()
    for whole in (".123 (.100 to .150)", ".456 (.400 to .500)", "a_name_that_is_rather_long"):
        assert whole in text
    assert all(len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize(("width", "beside"), [(60, True), (31, True), (30, False)])
def test_long_headers_are_broken_between_words_before_a_table_becomes_a_list(width, beside):
    console = Console(width=width, file=io.StringIO())
    print_markdown(console, f"| ε | {' | '.join(['trained with it'] * 2)} |\n|:--|:--|:--|\n"
                   "| 0.1 | .123 ± .001 | .456 ± .002 |")  # fmt: skip
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert ("0.1 .123 ± .001 .456 ± .002" in lines) == beside
    assert ("trained with it: .123 ± .001" in lines) != beside


def run_with(monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["hr-keras"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back after the test
    try:
        cli.main()
    except SystemExit:
        pass
    except Exception as raised:  # what Python does with an error that nobody catches
        sys.excepthook(type(raised), raised, raised.__traceback__)
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_control_characters_are_not_printed(monkeypatch, capsys, kind):
    """In a line for the user, and in a traceback."""
    shown = run_with(monkeypatch, capsys, kind("layer \x1b]0;title\x07\x9b31m"))
    assert "layer  ]0;title" in shown
    assert ("Traceback" in shown) == (kind is RuntimeError)
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_that_is_not_installed(monkeypatch, capsys, backend):
    shown = run_with(monkeypatch, capsys, ModuleNotFoundError("No module", name=backend))
    assert shown.startswith(
        f"hr-keras: Keras is set to the backend {backend}, which is not installed"
    )
    assert "Traceback" not in shown
