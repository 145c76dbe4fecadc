"""What stronger attacks than FGSM find: the honest column of Table 1."""

import pandas as pd

from hr_keras._core.rendering import (
    format_estimate,
    format_interval,
    format_share,
    plain_text,
)
from hr_keras.experiments.protocol import ATTACK_OBJECTIVES
from hr_keras.experiments.results.tables import describe_dataset, label_method
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import compute_wilson_interval

FGSM = tuple(f"fgsm_{objective}" for objective in ATTACK_OBJECTIVES)


def find_unfinished(folder: RunFolder) -> dict[tuple[str, int, float], int]:
    """Returns (attack, examples, ε) of attacks on some models only, and on how many.

    Without those that all models were put under on more examples.
    """
    frame = folder.accuracies()
    models = len(frame[["method", "realization"]].drop_duplicates())
    stronger = frame[~frame["attack"].isin(["none", *FGSM])]
    counts = stronger.groupby(["attack", "examples", "epsilon"]).size()
    finished = counts[counts == models].index.to_frame(index=False)
    most = finished.groupby(["attack", "epsilon"])["examples"].max().to_dict()
    return {
        (attack, examples, epsilon): int(count)
        for (attack, examples, epsilon), count in counts.items()
        if count < models and examples > most.get((attack, epsilon), 0)
    }


def describe_stronger(
    folder: RunFolder, found: pd.DataFrame, compared: pd.DataFrame, baseline: str
) -> list[str | pd.DataFrame]:
    """Returns a table for each stronger attack and number of examples, with its heading.

    Args:
        folder: A run folder.
        found: `accuracy_table.rows` of it.
        compared: `accuracy_table.differences` of it.
        baseline: Method that the differences refer to.
    """
    sections: list[str | pd.DataFrame] = []
    stronger = found[~found["attack"].isin(["none", *FGSM])]
    for (attack, examples), _ in stronger.groupby(["attack", "examples"], sort=False):
        wanted = (found["examples"] == examples) & found["attack"].isin(["none", attack])
        table = _layout_stronger(
            found[wanted], compared[compared["examples"] == examples], attack, baseline
        )
        name = plain_text(attack)
        sections += [
            f"## {describe_dataset(folder)} attacked with `{name}`",
            table,
            f"Accuracy on {examples:,} test images. An example counts as "
            "correct if it withstands every part of the attack. ± is the standard error over "
            "realizations; the 95 % interval over test images (Wilson) is about other images of "
            "the same kind, for these models.",
        ]
    return sections


def _layout_stronger(
    found: pd.DataFrame, compared: pd.DataFrame, attack: str, baseline: str
) -> pd.DataFrame:
    lines = []
    for epsilon, group in found.sort_values("epsilon", kind="stable").groupby("epsilon"):
        line = {"ε": f"{epsilon:g}"}
        for row in group.itertuples():
            text = format_estimate(row.mean, row.standard_error)
            line[f"trained with {label_method(row.method)}"] = text
            low, high = compute_wilson_interval(row.mean, row.examples)
            line[f"{label_method(row.method)}: over test images"] = (
                f"[{format_share(low)}, {format_share(high)}]"
            )
        changes = compared[
            (compared["epsilon"] == epsilon) & compared["attack"].isin(["none", attack])
        ]
        for row in changes.itertuples():
            label = label_method(row.method)
            line[f"{label} − {label_method(baseline)}"] = format_interval(
                row.mean, row.low, row.high
            )
            line[f"{label} better?"] = row.better
        lines.append(line)
    return pd.DataFrame(lines)


def describe_unfinished(folder: RunFolder) -> str:
    """Says how to finish attacks that only some models were put under."""
    models = len(folder.protocol.methods) * folder.protocol.realizations
    return "\n\n".join(
        f"Not shown: `{plain_text(attack)}` at ε = {epsilon:g} on {examples} examples, done for "
        f"{count} of {models} models. `--attack {plain_text(attack)} --examples {examples} "
        f"--attack-epsilon {epsilon:g}` does the others."
        for (attack, examples, epsilon), count in find_unfinished(folder).items()
    )
