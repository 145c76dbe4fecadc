"""Text from saved results: Markdown, CSV and JSON. No model is ever needed here."""

import csv
import dataclasses
import io
import json

_HEADINGS = {
    "CE": "CE-trained, CE attack",
    "HR_CE": "HR-trained, CE attack",
    "HR": "HR-trained, HR attack",
    "CE_HR": "CE-trained, HR attack",
}

_ROUTES = {
    "probabilities": (
        "Attacked as published: gradient through the softmax, clipped at 1e-7",
        "In brackets: the share of test examples whose gradient is exactly zero. The attack "
        "returns them unchanged, so their accuracy is not robustness.",
    ),
    "logits": (
        "Attacked exactly: the same attack, sign of the gradient from its closed form",
        "However certain the softmax is, it takes nothing from the gradient here. This is still "
        "FGSM, a single step: a stronger attack may leave less.",
    ),
}


def table_markdown(protocol, cells):
    """Table 1 in the paper's layout, once for each route of the attack, as Markdown.

    Args:
        protocol: the `Protocol` of the results.
        cells: from `experiments.table.cells`.
    """
    lines = [f"# Test accuracy under FGSM: {plain_text(protocol.dataset)}", "", _setting(protocol)]
    for through, (title, note) in _ROUTES.items():
        chosen = [cell for cell in cells if cell.through == through]
        columns = list(dict.fromkeys(cell.column for cell in chosen))
        lines += ["", f"## {title}", ""]
        lines += ["| ε | " + " | ".join(_HEADINGS[column] for column in columns) + " |"]
        lines += ["|---|" + "---|" * len(columns)]
        for epsilon in dict.fromkeys(cell.epsilon for cell in chosen):
            row = {cell.column: _cell(cell) for cell in chosen if cell.epsilon == epsilon}
            lines += [f"| {epsilon:g} | " + " | ".join(row[column] for column in columns) + " |"]
        lines += ["", note]
    return "\n".join([*lines, "", _errors(cells[0].realizations)]) + "\n"


def table_csv(cells):
    """The cells as CSV, a line each."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in dataclasses.fields(cells[0])])
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, cells))
    return buffer.getvalue()


def table_json(protocol, cells):
    """Protocol and cells as JSON."""
    content = {
        "protocol": dataclasses.asdict(protocol),
        "cells": list(map(dataclasses.asdict, cells)),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def plain_text(text):
    """Text from outside as one line that Markdown, HTML and a terminal show as it stands."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    for character in "\\`*_{}[]<>#|~&":
        printable = printable.replace(character, f"\\{character}")
    return printable


def _setting(protocol):
    return (
        f"{protocol.model}, SGD {protocol.learning_rate:g}, {protocol.epochs} epochs, "
        f"batch {protocol.batch_size}, α = {protocol.alpha:g}, "
        f"seed {protocol.seed}, preset `{protocol.preset}`."
    )


def _cell(cell):
    text = _share(cell.accuracy)
    if cell.standard_error is not None:
        text += f" ± {_share(cell.standard_error)}"
    if cell.through == "probabilities" and cell.epsilon > 0:
        text += f" ({cell.zero_gradient_share:.0%})"
    return text


def _share(value):
    return f"{value:.3f}".removeprefix("0")


def _errors(realizations):
    if realizations < 2:
        return "One realization: no standard error. Ask for more with `--realizations`."
    return f"Mean ± standard error over {realizations} realizations."
