"""Table 1 as text, and beside the paper."""

import dataclasses

from hr_keras._core.text import (
    ROUTE_NAMES,
    errors,
    mean_and_error,
    plain_text,
    rows_csv,
    rows_markdown,
    setting,
    share,
    signed,
    to_json,
)
from hr_keras.attacks import worst_case
from hr_keras.experiments import paper
from hr_keras.experiments.protocol import PRESETS

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


def table_markdown(tables):
    """Table 1 in the paper's layout, once for each route of the attack, and beside the paper.

    Args:
        tables: of `experiments.table.Table`, one for each data set; several share the cells,
            as in the paper.
    """
    names = [plain_text(table.protocol.dataset) for table in tables]
    lines = [f"# Test accuracy under FGSM: {', '.join(names)}", ""]
    if len(tables) > 1:
        lines += [f"Each cell: {' · '.join(names)}.", ""]
    lines += [f"{_of(name, tables)}{_setting(table)}" for name, table in _named(names, tables)]
    for through, (title, note) in _ROUTES.items():
        lines += ["", f"## {title}", "", *_accuracies(tables, through), "", note]
    for name, table in _named(names, tables):
        lines += _strong(name, table)
    lines += [
        "",
        *(f"{_of(name, tables)}{_errors(table)}" for name, table in _named(names, tables)),
    ]
    for name, table in _named(names, tables):
        lines += ["", *_beside_the_paper(name, table), "", *_claims(name, table)]
    return "\n".join(lines) + "\n"


def unfinished_markdown(unfinished, models):
    """A line for each attack of `experiments.strong.unfinished`, which says how to finish it."""
    return "".join(
        f"\nNot shown: `{plain_text(attack)}` on {examples} examples, which {count} of {models} "
        f"models were put under. `--attack {plain_text(attack)} --examples {examples}` does the "
        "others.\n"
        for (attack, examples), count in unfinished.items()
    )


def versions_markdown(results):
    """A line on each package of which not all models were made with the same version."""
    made = [result.get("versions", {}) for result in results]
    lines = []
    for name in ("hr_keras", "keras", "tensorflow"):
        found = sorted({plain_text(str(one[name])) for one in made if name in one})
        if len(found) > 1:
            lines.append(f"\nNot all models were made with the same {name}: {', '.join(found)}.\n")
    return "".join(lines)


def table_csv(tables):
    """The cells of all tables as CSV, a line each."""
    return rows_csv([cell for table in tables for cell in table.cells])


def claims_csv(tables):
    """The paired differences HR − CE of all tables as CSV, a line each."""
    return rows_csv([claim for table in tables for claim in table.claims])


def strong_csv(tables):
    """The honest columns of all tables as CSV, a line each."""
    return rows_csv([row for table in tables for row in table.strong])


def table_json(tables):
    """Protocols, cells and claims as JSON: an object for each table, in a list if several."""
    content = [dataclasses.asdict(table) for table in tables]
    for one in content:
        if not one["strong"]:  # as files were before there was such a thing
            del one["strong"]
    return to_json(content[0] if len(content) == 1 else content)


def _named(names, tables):
    return zip(names, tables, strict=True)


def _of(name, tables):
    return f"- {name}: " if len(tables) > 1 else ""


def _setting(table):
    return setting(table.protocol)


def _errors(table):
    return errors(table.cells[0].realizations)


def _accuracies(tables, through):
    found = {
        (k, cell.column, cell.epsilon): _cell(cell)
        for k, table in enumerate(tables)
        for cell in table.cells
        if cell.through == through
    }
    rows = [
        [
            f"{epsilon:g}",
            *(
                " · ".join(found.get((k, column, epsilon), "–") for k in range(len(tables)))
                for column in _HEADINGS
            ),
        ]
        for epsilon in sorted({epsilon for _, _, epsilon in found})
    ]
    return rows_markdown(["ε", *_HEADINGS.values()], rows)


def _cell(cell):
    text = mean_and_error(cell.accuracy, cell.standard_error)
    if cell.through == "probabilities" and cell.epsilon > 0:
        text += f" ({cell.zero_gradient_share:.0%})"
    return text


def _beside_the_paper(name, table):
    published = {(c.epsilon, c.column, c.through): c for c in table.cells if c.paper is not None}
    if not published:
        return [f"## {name} beside the paper", "", "The paper has no such column."]
    dataset = table.protocol.dataset
    rows = [
        [
            f"{epsilon:g}",
            _HEADINGS[column],
            share(published[epsilon, column, "logits"].paper),
            *(
                text
                for through in ROUTE_NAMES
                for text in _ours(published[epsilon, column, through])
            ),
        ]
        for epsilon, column, through in published
        if through == "logits"
    ]
    header = ["ε", "cell", "paper"]
    header += [text for route in ROUTE_NAMES.values() for text in (route, "difference")]
    lines = [f"## {name} beside the paper's column {paper.DATASETS[dataset]}", ""]
    if dataset in paper.NOTES:
        lines += [paper.NOTES[dataset], ""]
    if differences := _from_paper(table.protocol):
        lines += [f"Not the paper's protocol: {differences}.", ""]
    return lines + rows_markdown(header, rows)


def _from_paper(protocol):
    """What of the training is not as in the preset that is the paper's for this data set."""
    preset = PRESETS[paper.PRESETS[paper.DATASETS[protocol.dataset]]]
    return ", ".join(
        f"{name.replace('_', ' ')} {getattr(protocol, name)} for {getattr(preset, name)}"
        for name in (
            "model",
            "alpha",
            "epochs",
            "batch_size",
            "optimizer",
            "learning_rate",
            "schedule",
            "mean_image",
            "realizations",
        )
        if getattr(protocol, name) != getattr(preset, name)
    )


def _ours(cell):
    return mean_and_error(cell.accuracy, cell.standard_error), signed(cell.difference)


def _claims(name, table):
    by_route = {(claim.epsilon, claim.attack, claim.through): claim for claim in table.claims}
    rows = [
        [
            f"{epsilon:g}",
            attack.upper() if epsilon > 0 else "none",
            "–" if claim.paper is None else signed(claim.paper),
            *(text for route in ROUTE_NAMES for text in _verdict(by_route[epsilon, attack, route])),
        ]
        for (epsilon, attack, through), claim in by_route.items()
        if through == "logits"
    ]
    header = ["ε", "attack", "paper"]
    header += [text for route in ROUTE_NAMES.values() for text in (route, "HR better?")]
    pairs = table.claims[0].pairs
    note = (
        f"Mean over {pairs} pairs that share their seed, and its 95 % interval (Student's t). "
        '"Undecided": the interval holds 0.'
        if pairs > 1
        else "One pair: no interval, and no telling chance from effect. Ask for more with "
        "`--realizations`."
    )
    title = f"## {name}: accuracy trained on HR − accuracy trained on CE"
    return [title, "", *rows_markdown(header, rows), "", note]


def _strong(name, table):
    lines = []
    groups = dict.fromkeys((row.attack, row.examples) for row in table.strong)
    for attack, examples in groups:
        rows = [
            [
                f"{row.epsilon:g}",
                mean_and_error(row.ce, row.ce_error),
                mean_and_error(row.hr, row.hr_error),
                *_verdict(row),
            ]
            for row in table.strong
            if (row.attack, row.examples) == (attack, examples)
        ]
        header = ["ε", "trained on CE", "trained on HR", "HR − CE", "HR better?"]
        lines += [
            "",
            f"## {name} attacked with `{attack}`: {worst_case.describe_attack(attack)}",
            "",
            *rows_markdown(header, rows),
            "",
            f"Accuracy left on {examples:,} test images; an example counts that withstands every "
            "part of the attack.",
        ]
    return lines


def _verdict(claim):
    better = "yes" if claim.direction_holds else "no"
    if claim.low is None:
        return signed(claim.difference), better
    interval = f"{signed(claim.difference)} [{signed(claim.low)}, {signed(claim.high)}]"
    return interval, better if claim.beyond_chance else "undecided"
