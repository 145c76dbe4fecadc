"""What `hr-keras table` prints: Table 1 in two small tables, and what to believe."""

from typing import Any

import pandas as pd

from hr_keras._core.rendering import ROUTE_LABELS, format_estimate, plain_text
from hr_keras.experiments.results import accuracy_table, verdict
from hr_keras.experiments.results.strong_attacks import FGSM, describe_unfinished
from hr_keras.experiments.results.tables import (
    describe_dataset,
    describe_errors,
    describe_versions,
    join_sections,
    label_method,
)
from hr_keras.experiments.run_folder import RunFolder

_SENTENCES = {
    "probabilities": "**Attacked as published.** In brackets: the share of gradients that are "
    "exactly zero, where the attack changes nothing.",
    "logits": "**Attacked exactly**, with the true sign of the gradient. A stronger attack may "
    "find more adversarial examples.",
}


def markdown(folders: list[RunFolder]) -> str:
    """Returns both tables with a sentence each, and what to believe of each folder.

    Args:
        folders: Run folders of different data sets.
    """
    found = [accuracy_table.rows(folder) for folder in folders]
    names = [describe_dataset(folder) for folder in folders]
    sections: list[str | pd.DataFrame] = [f"**Test accuracy under FGSM: {', '.join(names)}**"]
    for through in ROUTE_LABELS:
        lines = [
            {"data": name} | line if len(folders) > 1 else line
            for name, folder, one in zip(names, folders, found, strict=True)
            for line in _layout(folder, one, through)
        ]
        sections += [_SENTENCES[through], pd.DataFrame(lines).fillna("–")]
    for name, folder, one in zip(names, folders, found, strict=True):
        sections += [
            f"{f'{name}: ' if len(folders) > 1 else ''}{verdict.describe(verdict.rows(folder))}",
            describe_errors(int(one["realizations"].max())),
        ]
        sections += [describe_unfinished(folder), describe_versions(folder)]
    return join_sections(*sections)


def _layout(folder: RunFolder, found: pd.DataFrame, through: str) -> list[dict[str, str]]:
    """A line for each ε and attack, a cell for each method; the exact route has all attacks."""
    chosen = found[found["through"].isin(["none", through])]
    if through != "logits":
        chosen = chosen[chosen["attack"].isin(["none", *FGSM])]
    keys = ["epsilon", "attack", "examples"]
    full = chosen.groupby(["attack", "epsilon"])["examples"].transform("max")
    # Each attack on the most images that it was made on.
    chosen = chosen[chosen["examples"] == full]
    chosen = chosen.sort_values("epsilon", kind="stable")
    lines = []
    for (epsilon, attack, examples), group in chosen.groupby(keys, sort=False):
        line = {"ε": f"{epsilon:g}", "attack": _label_attack(attack, examples)}
        by_method = {row.method: row for row in group.itertuples()}
        lines.append(
            line
            | {
                f"{label_method(method)}-trained": _format_cell(by_method[method], through)
                for method in folder.protocol.methods
            }
        )
    return lines


def _label_attack(attack: str, examples: int) -> str:
    if attack in ("none", *FGSM):
        return attack if attack == "none" else attack.removeprefix("fgsm_").upper()
    return f"{plain_text(attack)}, {examples:,} images"


def _format_cell(row: Any, through: str) -> str:
    text = format_estimate(row.mean, row.standard_error)
    share = row.zero_gradient_share
    return text + (f" ({share:.0%})" if through == "probabilities" and row.epsilon > 0 else "")
