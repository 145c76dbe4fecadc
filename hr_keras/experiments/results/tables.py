"""What the tables of all results share: the protocol in a line, and writing them to files."""

import pathlib

import pandas as pd

from hr_keras._core import files
from hr_keras._core.rendering import format_latex, format_markdown, plain_text
from hr_keras.experiments.methods import WARMUP_STEPS, check_methods, get_method
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.run_folder import RunFolder

# What a data set that is not the paper's own has to do with it.
NOTES = {
    "mnist10k": "mnist10k is a sample of 10,000 MNIST digits, 8,000 to train and validate and "
    "2,000 to test. The paper uses all 70,000."
}


def choose_baseline(protocol: Protocol, baseline: str | None = None) -> str:
    """Returns the method that differences refer to: by default the first of the protocol.

    Args:
        protocol: The protocol of a run folder.
        baseline: Name of a method, or `None`.

    Raises:
        ValueError: If it is not one of the protocol's methods.
    """
    methods = protocol.methods
    if baseline is None:
        return methods[0]
    check_methods([baseline])
    if baseline not in methods:
        raise ValueError(f"`baseline` must be one of the methods {methods}. Received: {baseline!r}")
    return baseline


def check_epsilon(epsilon: float, known: tuple[float, ...]) -> None:
    """Raises a ValueError unless ε is one of the known sizes of a protocol's attacks."""
    if epsilon not in known:
        raise ValueError(f"`epsilon` must be one of the protocol's {known}. Received: {epsilon:g}")


def label_method(method: str) -> str:
    """Returns the label of a method."""
    return get_method(method).label


def describe_dataset(folder: RunFolder) -> str:
    """Returns the name of the data set as safe text."""
    return plain_text(folder.protocol.data_title)


def describe_protocol(
    protocol: Protocol, with_alpha: bool = True, with_rate: bool = True, with_noise: bool = True
) -> str:
    """Returns the protocol in a line."""
    optimizer = {"sgd": "SGD", "adam": "Adam"}[protocol.optimizer]
    reached = [(epoch, factor) for epoch, factor in protocol.schedule if epoch < protocol.epochs]
    schedule = ", ".join(f"×{factor:g} from {epoch}" for epoch, factor in reached)
    adversarial = ""
    if any(get_method(method).is_adversarial for method in protocol.methods):
        adversarial = (
            f"adversarial training at ε = {protocol.train_epsilon:.4g} with "
            f"{_describe_attacks(protocol)} (ε rises over the first {WARMUP_STEPS} steps), "
        )
    return (
        f"{protocol.model}, {optimizer}{f' {_describe_rates(protocol)}' if with_rate else ''}"
        f"{f' ({schedule})' if schedule else ''}, {protocol.epochs} epochs, "
        f"batch {protocol.batch_size}, {'mean image subtracted, ' if protocol.mean_image else ''}"
        f"{adversarial}{f'α = {protocol.alpha:g}, ' if with_alpha else ''}"
        f"{_describe_noise(protocol) if with_noise else ''}seed {protocol.seed}, "
        f"preset `{protocol.preset}`."
    )


def _describe_attacks(protocol: Protocol) -> str:
    """The attacks of adversarial training: those with a single step, and the others."""
    robust = [method for name in protocol.methods if (method := get_method(name)).is_adversarial]
    kinds = dict.fromkeys(method.makes_one_step for method in robust)
    texts = {True: "FGSM-RS of one step", False: f"PGD of {protocol.train_steps} steps"}
    return " and ".join(texts[kind] for kind in kinds)


def _describe_rates(protocol: Protocol) -> str:
    rates = {name: protocol.find_learning_rate(name) for name in protocol.methods}
    if set(rates.values()) <= {protocol.learning_rate}:
        return f"{protocol.learning_rate:g}"
    return ", ".join(f"{rate:.3g} for {label_method(name)}" for name, rate in rates.items())


def _describe_noise(protocol: Protocol) -> str:
    if protocol.label_noise == 0:
        return ""
    return f"{100 * protocol.label_noise:g} % of the training and validation labels wrong, "


def describe_errors(realizations: int) -> str:
    """Says what ± means."""
    if realizations < 2:
        return "One realization: no standard error. Use `--realizations` for more."
    return f"Mean ± standard error over {realizations} realizations."


def describe_versions(folder: RunFolder) -> str:
    """Names each package of which not all models were made with the same version."""
    made = [result.versions for result in folder.results()]
    lines = []
    for name in ("hr_keras", "keras", "tensorflow"):
        found = sorted({plain_text(one[name]) for one in made if name in one})
        if len(found) > 1:
            lines.append(f"\nNot all models were made with the same {name}: {', '.join(found)}.\n")
    return "".join(lines)


def write_tables(
    path: pathlib.Path, stem: str, text: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> None:
    """Writes a result as Markdown, CSV and LaTeX.

    Args:
        path: Folder to write to.
        stem: Name of the files without the ending.
        text: The Markdown.
        rows: Tidy rows, for the CSV.
        tables: Tables of texts with their captions, which name the data set, for the LaTeX.
    """
    latex = "\n".join(format_latex(table, caption) for caption, table in tables.items())
    files.write_atomically(path / f"{stem}.md", text)
    files.write_atomically(path / f"{stem}.csv", rows.to_csv(index=False, lineterminator="\n"))
    files.write_atomically(path / f"{stem}.tex", latex)


def join_sections(*sections: str | pd.DataFrame) -> str:
    """Joins paragraphs and tables as Markdown, with empty lines between them; skips empty ones."""
    texts = [
        format_markdown(section) if isinstance(section, pd.DataFrame) else section
        for section in sections
    ]
    return "\n\n".join(text.strip("\n") for text in texts if text) + "\n"
