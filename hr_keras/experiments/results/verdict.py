"""What to believe: FGSM as published beside what the exact and stronger attacks leave of it."""

import pandas as pd

from hr_keras._core.rendering import format_estimate, format_share, plain_text
from hr_keras.experiments.results import accuracy_table, confidence
from hr_keras.experiments.results.strong_attacks import FGSM
from hr_keras.experiments.results.tables import join_sections, label_method
from hr_keras.experiments.run_folder import RunFolder

# A smaller difference of accuracies is not worth a sentence.
_TOLERANCE = 0.02


def rows(folder: RunFolder) -> pd.DataFrame:
    """Returns published and honest accuracies under FGSM with CE, a row for each ε > 0 and method.

    Columns: dataset, method, epsilon, published and exact (means), published_error, exact_error,
    zero_gradient_share, and strongest, strongest_attack, strongest_examples: the lowest mean
    accuracy under a stronger attack at this ε, PGD of `confidence` included; NaN if there is none.

    Args:
        folder: A run folder.
    """
    found = accuracy_table.rows(folder)
    keys = ["dataset", "method", "epsilon"]
    columns = [*keys, "mean", "standard_error"]
    fgsm = found[found["attack"] == "fgsm_ce"].sort_values("examples").drop_duplicates(
        [*keys, "through"], keep="last"
    )  # fmt: skip
    published, exact = (fgsm[fgsm["through"] == route] for route in ("probabilities", "logits"))
    table = published[[*columns, "zero_gradient_share"]].merge(
        exact[columns], on=keys, suffixes=("_published", "_exact")
    )
    table = table.rename(
        columns={
            "mean_published": "published",
            "standard_error_published": "published_error",
            "mean_exact": "exact",
            "standard_error_exact": "exact_error",
        }
    )
    stronger = pd.concat([found[~found["attack"].isin(["none", *FGSM])], _find_pgd(folder)])
    stronger = stronger.astype({"epsilon": "float64"}).sort_values("mean").drop_duplicates(keys)
    stronger = stronger.rename(
        columns={
            "mean": "strongest",
            "attack": "strongest_attack",
            "examples": "strongest_examples",
        }
    )
    table = table.merge(
        stronger[[*keys, "strongest", "strongest_attack", "strongest_examples"]], "left", on=keys
    )
    order = {method: number for number, method in enumerate(folder.protocol.methods)}
    return table.sort_values(
        ["epsilon", "method"],
        key=lambda column: column.map(order) if column.name == "method" else column,
        ignore_index=True,
    )


def _find_pgd(folder: RunFolder) -> pd.DataFrame:
    """PGD of the table of confidences, if it was measured."""
    found = confidence.rows(folder)
    found = found[found["quantity"] == "pgd"]
    if found.empty:
        return found
    examples = int(folder.confidences()["pgd_examples"].iloc[0])
    return found.assign(attack="pgd", examples=examples)


def markdown(found: pd.DataFrame) -> str:
    """Returns the published and the honest accuracies side by side, and what separates them.

    Args:
        found: From `rows`.
    """
    return join_sections(
        "## Published and honest, side by side",
        _layout(found),
        f"Zero gradients: {accuracy_table.ZERO_GRADIENTS}",
        f"FGSM, exact: {accuracy_table.EXPLANATIONS['logits']}",
    )


def _layout(found: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {
            "trained with": label_method(row.method),
            "ε": f"{row.epsilon:g}",
            "FGSM as published": format_estimate(row.published, row.published_error),
            "FGSM, exact": format_estimate(row.exact, row.exact_error),
            "strongest attack": _format_strongest(row),
            "zero gradients": f"{row.zero_gradient_share:.0%}",
        }
        for row in found.itertuples()
    ]
    return pd.DataFrame(lines)


def _format_strongest(row: pd.Series) -> str:
    if pd.isna(row.strongest):
        return "not measured"
    attack = plain_text(row.strongest_attack)
    return f"{format_share(row.strongest)} (`{attack}`, {row.strongest_examples:,.0f} images)"


def describe(found: pd.DataFrame) -> str:
    """Says in a few sentences which of the numbers at the largest ε measure robustness.

    Args:
        found: From `rows`.

    Returns:
        Markdown; empty where there is no attack.
    """
    if found.empty:
        return ""
    largest = found[found["epsilon"] == found["epsilon"].max()]
    at = f"at ε = {largest['epsilon'].iloc[0]:g}"
    masked = largest["published"] - largest["exact"] > _TOLERANCE
    sentences = [
        f"**Trained with {label_method(row.method)}, the published accuracy of "
        f"{format_share(row.published)} {at} is not robustness:** the same attack with the exact "
        f"sign of the gradient leaves {format_share(row.exact)}. As published, "
        f"{row.zero_gradient_share:.0%} of the gradients are exactly zero."
        for row in largest[masked].itertuples()
    ]
    if not masked.all():
        sentences.append(
            f"**FGSM as published and exact agree {at}**: {_list(largest[~masked], 'exact')}."
        )
    weak = largest[largest["exact"] - largest["strongest"] > _TOLERANCE]
    if len(weak):
        sentences.append(
            f"A stronger attack finds more adversarial examples: it leaves "
            f"{_list(weak, 'strongest')}."
        )
    return " ".join(sentences)


def _list(found: pd.DataFrame, column: str) -> str:
    return ", ".join(
        f"{label_method(method)} {format_share(value)}"
        for method, value in zip(found["method"], found[column], strict=True)
    )
