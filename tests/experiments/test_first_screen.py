"""What `hr-keras table` prints is short, and nothing in it is not in table.md too."""

import io
import pathlib
import re

import pytest
from rich.console import Console
from saved_results import make_accuracies, make_folder, make_result

from hr_keras.cli.markdown import print_markdown
from hr_keras.experiments.result import Accuracy
from hr_keras.experiments.results import first_screen
from hr_keras.experiments.run_folder import RunFolder

RESULTS = pathlib.Path(__file__).parents[2] / "results"
ESTIMATE = re.compile(r"\.\d{3} ± \.\d{3}(?: \(\d+%\))?")


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("name", ["mnist/paper", "mnist10k/quick"])
def test_it_is_short_and_holds_whole_numbers_of_the_table(name, width):
    text = first_screen.markdown([RunFolder(RESULTS / name)])
    console = Console(width=width, file=io.StringIO())
    print_markdown(console, text)
    lines = console.file.getvalue().splitlines()
    found = ESTIMATE.findall(text)
    assert len(found) >= 20
    assert [one for line in lines for one in ESTIMATE.findall(line)] == found
    assert set(found) <= set(ESTIMATE.findall((RESULTS / name / "table.md").read_text()))
    assert max(map(len, lines)) <= width
    assert width < 80 or len(lines) <= 40


def test_stronger_attacks_are_in_the_exact_table_and_data_sets_are_told_apart(tmp_path):
    stronger = [Accuracy("test", "none", "none", 0.0, 20, 0.65),
                Accuracy("test", "standard", "logits", 0.25, 20, 0.05)]  # fmt: skip
    folders = [
        make_folder(
            tmp_path / label,
            [make_result(method, 0, [*make_accuracies(0.5), *more]) for method in ("ce", "hr")],
            data_label=label,
        )
        for label, more in (("one", []), ("two", stronger))
    ]
    published, exact = (
        part.split("\n\n")[1] for part in first_screen.markdown(folders).split("**Attacked ")[1:]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in exact.splitlines()]
    assert ["two", "0.25", "standard, 20 images", ".050", ".050"] in rows
    assert ["two", "0", "none", ".600", ".600"] in rows  # on all images
    assert sum(row[0] == "one" for row in rows) == 5
    assert "standard" not in published
    assert "two: **FGSM as published and exact agree" in first_screen.markdown(folders)
