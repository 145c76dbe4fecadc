"""Table 1: test accuracy under FGSM as published and exact, under stronger attacks, differences."""

import pathlib

import pandas as pd

from hr_keras._core.rendering import (
    ROUTE_LABELS,
    format_difference,
    format_estimate,
    format_interval,
    format_share,
    plain_text,
)
from hr_keras.experiments.results import confidence, convergence, strong_attacks
from hr_keras.experiments.results.paper_numbers import (
    PAPER_COLUMNS,
    describe_changes,
    find_paper_accuracy,
)
from hr_keras.experiments.results.strong_attacks import FGSM
from hr_keras.experiments.results.tables import (
    NOTES,
    choose_baseline,
    describe_dataset,
    describe_errors,
    describe_protocol,
    describe_versions,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import compare_methods, judge_difference, summarize_groups

_KEYS = ["attack", "through", "epsilon", "examples"]

_TITLES = {
    "probabilities": "Attacked as published: gradient through the softmax, clipped at 1e-7",
    "logits": "Attacked exactly: the same attack, with the sign of the gradient in closed form",
}
ZERO_GRADIENTS = (
    "the share of test examples whose gradient is exactly zero. The attack returns them unchanged, "
    "so their accuracy is not robustness."
)
EXPLANATIONS = {
    "probabilities": f"In brackets: {ZERO_GRADIENTS}",
    "logits": "Saturation of the softmax cannot make this gradient vanish. FGSM is a single step: "
    "a stronger attack may find more adversarial examples.",
}


def rows(folder: RunFolder) -> pd.DataFrame:
    """Returns mean accuracies, a row for each method, attack, route, ε and number of examples.

    Columns: dataset, method, attack, through, epsilon, examples, mean, standard_error, low, high,
    realizations, zero_gradient_share, paper. Only attacks that every model was put under.
    """
    frame = _complete_attacks(folder)
    keys = ["dataset", "method", *_KEYS]
    found = summarize_groups(frame, keys, "accuracy")
    shares = frame.groupby(keys, sort=False)["zero_gradient_share"].mean().to_numpy(float)
    paper = [
        find_paper_accuracy(folder.protocol.paper_dataset, row.method, row.attack, row.epsilon)
        for row in found.itertuples()
    ]
    return found.assign(zero_gradient_share=shares, paper=pd.Series(paper, dtype="float64"))


def differences(folder: RunFolder, baseline: str | None = None) -> pd.DataFrame:
    """Returns differences in accuracy to a baseline method, in pairs of the same realization.

    Columns: dataset, method, attack, through, epsilon, examples, mean, standard_error, low, high,
    realizations, paper, better (`"yes"`, `"no"` or `"undecided"`).
    """
    baseline = choose_baseline(folder.protocol, baseline)
    dataset = folder.protocol.paper_dataset
    found = compare_methods(_complete_attacks(folder), _KEYS, "accuracy", baseline)
    paper = []
    for row in found.itertuples():
        ours, base = (
            find_paper_accuracy(dataset, method, row.attack, row.epsilon)
            for method in (row.method, baseline)
        )
        paper.append(None if ours is None or base is None else round(ours - base, 6))
    better = [judge_difference(row.low, row.high) for row in found.itertuples()]
    found = found.assign(paper=pd.Series(paper, dtype="float64"), better=better)
    found.insert(0, "dataset", folder.protocol.data_name)
    return found


def _complete_attacks(folder: RunFolder) -> pd.DataFrame:
    """The accuracies under attacks that every model was put under."""
    frame = folder.accuracies()
    models = len(frame[["method", "realization"]].drop_duplicates())
    counts = frame.groupby(_KEYS)["accuracy"].transform("size")
    return frame[counts == models]


def write(folders: list[RunFolder], path: pathlib.Path, baseline: str | None = None) -> str:
    """Writes the tables and Figure 1 of each folder, and one table of all where there are several.

    Args:
        folders: Run folders of different data sets.
        path: Folder for the table of all; with one folder, that folder.
        baseline: Method that differences refer to; `None` for the first.

    Returns:
        The table of all as Markdown.
    """
    for folder in folders:
        convergence.write_figure(folder)
        confidence.write(folder)
        if folder.path != path:
            _write_tables(folder.path, [folder], baseline)
    return _write_tables(path, folders, baseline)


def _write_tables(path: pathlib.Path, folders: list[RunFolder], baseline: str | None) -> str:
    found = [rows(folder) for folder in folders]
    compared = [differences(folder, baseline) for folder in folders]
    names = " · ".join(folder.protocol.data_title for folder in folders)
    tables = {
        f"{title}: {names}": _layout(folders, found, through) for through, title in _TITLES.items()
    }
    text = markdown(folders, found, compared, baseline)
    write_tables(path, "table", text, pd.concat(found), tables)
    changes = pd.concat(compared)
    captions = {
        f"Difference to the baseline: {folder.protocol.data_title}": _layout_differences(
            folder, one
        )
        for folder, one in zip(folders, compared, strict=True)
        if len(one)
    }
    sections = [part for caption, one in captions.items() for part in (plain_text(caption), one)]
    write_tables(path, "differences", join_sections(*sections), changes, captions)
    return text


def markdown(
    folders: list[RunFolder],
    found: list[pd.DataFrame],
    compared: list[pd.DataFrame],
    baseline: str | None = None,
) -> str:
    """Returns the tables as Markdown: twice for FGSM, stronger attacks, differences, the paper.

    Args:
        folders: Run folders of different data sets; several share the cells of the tables.
        found: `rows` of each.
        compared: `differences` of each.
        baseline: Method that differences refer to; `None` for the first.
    """
    names = [describe_dataset(folder) for folder in folders]
    sections: list[str | pd.DataFrame] = [
        f"# Test accuracy under FGSM: {', '.join(names)}",
        f"Each cell: {' · '.join(names)}." if len(names) > 1 else "",
        "\n".join(
            f"{f'- {name}: ' if len(names) > 1 else ''}{describe_protocol(folder.protocol)}"
            for name, folder in zip(names, folders, strict=True)
        ),
    ]
    for through, title in _TITLES.items():
        sections += [f"## {title}", _layout(folders, found, through), EXPLANATIONS[through]]
    for folder, one, other in zip(folders, found, compared, strict=True):
        base = choose_baseline(folder.protocol, baseline)
        sections += strong_attacks.describe_stronger(folder, one, other, base)
        sections += confidence.describe(folder)
    sections.append(
        "\n".join(
            f"{f'- {name}: ' if len(names) > 1 else ''}"
            f"{describe_errors(int(one['realizations'].max()))}"
            for name, one in zip(names, found, strict=True)
        )
    )
    for folder, one, other in zip(folders, found, compared, strict=True):
        sections += _compare_with_paper(folder, one)
        sections += _describe_differences(folder, other, choose_baseline(folder.protocol, baseline))
        sections += [strong_attacks.describe_unfinished(folder), describe_versions(folder)]
    return join_sections(*sections)


def _list_columns(folder: RunFolder) -> list[tuple[str, str]]:
    """(method, attack) of each column, in the paper's order where the methods are the paper's."""
    if set(folder.protocol.methods) == {"ce", "hr"}:
        return list(PAPER_COLUMNS)
    return [(method, attack) for method in folder.protocol.methods for attack in FGSM]


def _label_attack(attack: str) -> str:
    return f"{attack.removeprefix('fgsm_').upper()} attack"


def _layout(folders: list[RunFolder], found: list[pd.DataFrame], through: str) -> pd.DataFrame:
    """FGSM through one route: a row for each ε, a column for each method and objective."""
    columns = list(dict.fromkeys(column for folder in folders for column in _list_columns(folder)))
    epsilons = sorted({epsilon for folder in folders for epsilon in folder.protocol.epsilons})
    table = {"ε": [f"{epsilon:g}" for epsilon in epsilons]}
    for method, attack in columns:
        table[f"{label_method(method)}-trained, {_label_attack(attack)}"] = [
            " · ".join(_format_cell(one, method, attack, through, epsilon) for one in found)
            for epsilon in epsilons
        ]
    return pd.DataFrame(table)


def _format_cell(
    found: pd.DataFrame, method: str, attack: str, through: str, epsilon: float
) -> str:
    cell = _find_cell(found, method, attack, through, epsilon)
    if cell is None:
        return "–"
    text = format_estimate(cell["mean"], cell["standard_error"])
    share = cell["zero_gradient_share"]
    return text + (f" ({share:.0%})" if through == "probabilities" and epsilon > 0 else "")


def _find_cell(
    found: pd.DataFrame, method: str, attack: str, through: str, epsilon: float
) -> pd.Series | None:
    if epsilon == 0:
        attack, through = "none", "none"
    chosen = found[
        (found["method"] == method)
        & (found["attack"] == attack)
        & (found["through"] == through)
        & (found["epsilon"] == epsilon)
    ]
    return None if chosen.empty else chosen.sort_values("examples").iloc[-1]


def _compare_with_paper(folder: RunFolder, found: pd.DataFrame) -> list[str | pd.DataFrame]:
    name = describe_dataset(folder)
    if not found["paper"].notna().any():
        return [f"## {name} beside the paper", "The paper has no such column."]
    lines = []
    for epsilon in folder.protocol.epsilons:
        for method, attack in _list_columns(folder):
            cells = {
                through: cell
                for through in ROUTE_LABELS
                if (cell := _find_cell(found, method, attack, through, epsilon)) is not None
                and not pd.isna(cell["paper"])
            }
            if not cells:
                continue
            line = {
                "ε": f"{epsilon:g}",
                "cell": f"{label_method(method)}-trained, {_label_attack(attack)}",
                "paper": format_share(cells["logits"]["paper"]),
            }
            for through, label in ROUTE_LABELS.items():
                one = cells[through]
                line[label] = format_estimate(one["mean"], one["standard_error"])
                line[f"{label} − paper"] = format_difference(one["mean"] - one["paper"])
            lines.append(line)
    changes = describe_changes(folder.protocol)
    return [
        f"## {name} beside the paper's column {folder.protocol.paper_dataset}",
        NOTES.get(folder.protocol.dataset, ""),
        f"Not the paper's protocol: {changes}." if changes else "",
        pd.DataFrame(lines),
    ]


def _layout_differences(folder: RunFolder, compared: pd.DataFrame) -> pd.DataFrame:
    """FGSM and clean: a row for each method, ε and attack, two columns for each route."""
    clean = compared[compared["attack"] == "none"]
    fgsm = compared[compared["attack"].isin(FGSM)]
    chosen = pd.concat([clean.sort_values("examples").groupby("method", sort=False).tail(1), fgsm])
    several = chosen["method"].nunique() > 1
    lines = []
    for (method, epsilon, attack), group in chosen.groupby(
        ["method", "epsilon", "attack"], sort=False
    ):
        by_route = {row.through: row for row in group.itertuples()}
        first = next(iter(by_route.values()))
        line = {"trained with": label_method(method)} if several else {}
        line |= {
            "ε": f"{epsilon:g}",
            "attack": "none" if attack == "none" else attack.removeprefix("fgsm_").upper(),
            "paper": "–" if pd.isna(first.paper) else format_difference(first.paper),
        }
        for through, label in ROUTE_LABELS.items():
            row = by_route.get(through, first)
            line[label] = format_interval(row.mean, row.low, row.high)
            line[f"{label}: better?"] = row.better
        lines.append(line)
    labels = [label_method(method) for method in folder.protocol.methods]
    order = {label: k for k, label in enumerate(labels)}
    lines.sort(key=lambda line: (order.get(line.get("trained with", ""), 0), float(line["ε"])))
    return pd.DataFrame(lines)


def _describe_differences(
    folder: RunFolder, compared: pd.DataFrame, baseline: str
) -> list[str | pd.DataFrame]:
    if compared.empty:
        return []
    methods = [label_method(name) for name in folder.protocol.methods if name != baseline]
    who = methods[0] if len(methods) == 1 else "each method"
    pairs = int(compared["realizations"].max())
    note = (
        f"Mean over {pairs} pairs of the same seed, and its 95 % interval (Student's t): it is "
        'about training again, not about other test images. "Undecided": it contains 0, or has '
        "no width because all pairs differ by the same."
        if pairs > 1
        else "One pair: no interval, so effect and chance cannot be separated. Use "
        "`--realizations` for more."
    )
    title = (
        f"## {describe_dataset(folder)}: accuracy of {who} − accuracy of {label_method(baseline)}"
    )
    return [title, _layout_differences(folder, compared), note]
