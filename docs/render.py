"""Writes README.md and docs/reproduction.md: every number in them comes from saved results.

`python docs/render.py` writes the pages, `--check` only compares them.
"""

import functools
import pathlib
import re
import sys

import jinja2

from hr_keras._core.rendering import (
    ROUTE_LABELS,
    format_difference,
    format_estimate,
    format_interval,
    format_share,
)
from hr_keras.experiments.results import accuracy_table, confusion, convergence
from hr_keras.experiments.run_folder import RunFolder

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {"README.md": ROOT / "README.md", "reproduction.md": ROOT / "docs" / "reproduction.md"}
FOLDERS = {"mnist": "results/mnist/paper", "quick": "results/mnist10k/quick"}
# `results/train_on_gpu.py` trained so many epochs of these folders, `hr-keras table` the rest.
GPU_EPOCHS = {"mnist": 934}


@functools.cache
def find_rows(table, folder):
    """`table`, such as `accuracy_table.rows`, of a run folder; pages ask for it cell by cell."""
    return table(RunFolder(ROOT / folder))


def _find(frame, attack, through, epsilon, examples):
    chosen = frame[
        (frame["attack"] == attack) & (frame["through"] == through) & (frame["epsilon"] == epsilon)
    ]
    chosen = chosen[chosen["examples"] == (examples or chosen["examples"].max())]
    return chosen.set_index("method")


def find_accuracies(folder, attack, through, epsilon, examples=None):
    found = find_rows(accuracy_table.rows, folder)
    return _find(found, attack, through, epsilon, examples)


def find_difference(folder, attack, through, epsilon, examples=None):
    found = find_rows(accuracy_table.differences, folder)
    return _find(found, attack, through, epsilon, examples).loc["hr"]


def row(label, folder, attack, through, epsilon, examples=None):
    """A line of a table: accuracies trained with CE and with HR, and their difference."""
    found = find_accuracies(folder, attack, through, epsilon, examples)
    cells = [
        format_estimate(found["mean"][method], found["standard_error"][method])
        for method in ("ce", "hr")
    ]
    return f"| {label} | {' | '.join(cells)} | {difference(folder, attack, through, epsilon)} |"


def difference(folder, attack, through, epsilon, examples=None):
    """HR − CE with its interval."""
    found = find_difference(folder, attack, through, epsilon, examples)
    return format_interval(found["mean"], found["low"], found["high"], format_difference)


def verdict(folder, attack, through, epsilon, examples=None):
    """Whether HR is better, and the difference."""
    found = find_difference(folder, attack, through, epsilon, examples)
    return f"{found['better']}: {difference(folder, attack, through, epsilon, examples)}"


def zero_share(folder, method, epsilon):
    """Share of exactly zero gradients of FGSM with CE as published."""
    found = find_accuracies(folder, "fgsm_ce", "probabilities", epsilon)
    return f"{found['zero_gradient_share'][method]:.0%}".replace("%", " %")


def convergence_accuracy(folder):
    """The highest of the usual accuracies to reach."""
    return format_share(find_rows(convergence.rows, folder)["accuracy"].max())


def epochs_to_reach(folder, method):
    """Mean number of epochs to that accuracy."""
    found = find_rows(convergence.rows, folder)
    found = found[found["accuracy"] == found["accuracy"].max()].set_index("method")
    return f"{found['epochs'][method]:.0f}"


def norm(folder, method, through):
    """‖I − C‖ under FGSM with CE at ε = 0.1."""
    found = find_rows(confusion.rows, folder).set_index(["method", "through"])
    return format_estimate(*found.loc[(method, through), ["mean", "standard_error"]])


def include(folder, name):
    """A page of a run folder, its headings three levels deeper."""
    text = (ROOT / folder / name).read_text().strip()
    return re.sub(r"^#", "####", text, flags=re.MULTILINE)


def render(name):
    """The text of a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "docs" / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown from our own templates and results
    )
    functions = (row, difference, verdict, zero_share, convergence_accuracy, epochs_to_reach,
                 norm, include)  # fmt: skip
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals |= {
        "epochs": lambda folder: RunFolder(ROOT / folder).protocol.epochs,
        "realizations": lambda folder: RunFolder(ROOT / folder).protocol.realizations,
        "gpu_epochs": GPU_EPOCHS,
        "routes": ROUTE_LABELS,
        **FOLDERS,
    }
    return environment.get_template(name).render()


def main():
    for name, path in PAGES.items():
        text = render(name)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            sys.exit(f"{path.relative_to(ROOT)} differs from saved results: run docs/render.py")


if __name__ == "__main__":
    main()
