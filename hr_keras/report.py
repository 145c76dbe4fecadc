"""Text from saved results: Markdown, CSV and JSON. No model is ever needed here."""

import csv
import dataclasses
import io
import json

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

_BESIDE = {"probabilities": "as published", "logits": "exact"}


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
    lines += [
        "",
        *(f"{_of(name, tables)}{_errors(table)}" for name, table in _named(names, tables)),
    ]
    for name, table in _named(names, tables):
        lines += ["", *_beside_the_paper(name, table), "", *_claims(name, table)]
    return "\n".join(lines) + "\n"


def table_csv(tables):
    """The cells of all tables as CSV, a line each."""
    return rows_csv([cell for table in tables for cell in table.cells])


def claims_csv(tables):
    """The paired differences HR − CE of all tables as CSV, a line each."""
    return rows_csv([claim for table in tables for claim in table.claims])


def table_json(tables):
    """Protocols, cells and claims as JSON: an object for each table, in a list if several."""
    content = [dataclasses.asdict(table) for table in tables]
    return to_json(content[0] if len(content) == 1 else content)


def rows_csv(rows):
    """Values of one dataclass as CSV: the names of its fields, then a line each.

    What is no single value, a list, is left out.
    """
    content = [
        {name: value for name, value in dataclasses.asdict(row).items() if type(value) is not list}
        for row in rows
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(content[0]))
    writer.writeheader()
    writer.writerows(content)
    return buffer.getvalue()


def to_json(content):
    """JSON as all result files have it."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def plain_text(text):
    """Text from outside as one line that Markdown, HTML and a terminal show as it stands."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    for character in "\\`*_{}[]<>#|~&":
        printable = printable.replace(character, f"\\{character}")
    return printable


def rows_markdown(header, rows):
    """The lines of a Markdown table."""
    first, *others = (f"| {' | '.join(row)} |" for row in (header, *rows))
    return [first, "|" + "---|" * len(header), *others]


def share(value):
    """A number such as an accuracy with three decimals, without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def signed(value):
    """A difference of shares, with its sign."""
    return f"{'−' if value < 0 else '+'}{share(abs(value))}"


def mean_and_error(mean, standard_error):
    """`.717 ± .013`, or the mean alone where there is no standard error."""
    return share(mean) + ("" if standard_error is None else f" ± {share(standard_error)}")


def setting(protocol):
    """The protocol in a line."""
    optimizer = {"sgd": "SGD", "adam": "Adam"}[protocol.optimizer]
    schedule = ", ".join(f"×{factor:g} from {epoch}" for epoch, factor in protocol.schedule)
    return (
        f"{protocol.model}, {optimizer} {protocol.learning_rate:g}"
        f"{f' ({schedule})' if schedule else ''}, {protocol.epochs} epochs, "
        f"batch {protocol.batch_size}, {'mean image subtracted, ' if protocol.mean_image else ''}"
        f"α = {protocol.alpha:g}, seed {protocol.seed}, preset `{protocol.preset}`."
    )


def errors(realizations):
    """What stands behind a ±."""
    if realizations < 2:
        return "One realization: no standard error. Ask for more with `--realizations`."
    return f"Mean ± standard error over {realizations} realizations."


def _named(names, tables):
    return zip(names, tables, strict=True)


def _of(name, tables):
    return f"- {name}: " if len(tables) > 1 else ""


def _setting(table):
    return setting(table.protocol)


def _errors(table):
    return errors(table.cells[0].realizations)


def _accuracies(tables, through):
    epsilons = [
        dict.fromkeys(cell.epsilon for cell in table.cells if cell.through == through)
        for table in tables
    ]
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
        for epsilon in sorted({epsilon for one in epsilons for epsilon in one})
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
            *(text for through in _BESIDE for text in _ours(published[epsilon, column, through])),
        ]
        for epsilon, column, through in published
        if through == "logits"
    ]
    header = ["ε", "cell", "paper"]
    header += [text for route in _BESIDE.values() for text in (route, "difference")]
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
            *(text for route in _BESIDE for text in _verdict(by_route[epsilon, attack, route])),
        ]
        for (epsilon, attack, through), claim in by_route.items()
        if through == "logits"
    ]
    header = ["ε", "attack", "paper"]
    header += [text for route in _BESIDE.values() for text in (route, "HR better?")]
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


def _verdict(claim):
    better = "yes" if claim.direction_holds else "no"
    if claim.low is None:
        return signed(claim.difference), better
    interval = f"{signed(claim.difference)} [{signed(claim.low)}, {signed(claim.high)}]"
    return interval, better if claim.beyond_chance else "undecided"


def convergence_markdown(run, rows):
    """Epochs to reach a validation accuracy, CE against HR, as Markdown.

    Args:
        run: a `runs.Run`.
        rows: of `experiments.convergence.Convergence`.
    """
    name = plain_text(run.protocol.dataset)
    lines = [f"# Epochs to reach a validation accuracy: {name}", "", setting(run.protocol), ""]
    header = ["validation accuracy", "trained on CE", "trained on HR", "HR − CE, epochs"]
    lines += rows_markdown(header, [_convergence(row) for row in rows])
    reached = "In brackets: how many of the realizations reach it, where not all do."
    pairs = max(row.pairs for row in rows)
    interval = (
        f"The difference is a mean over at most {pairs} pairs that share their seed, with its "
        "95 % interval (Student's t)."
        if pairs > 1
        else "Fewer than two pairs: no interval. Ask for more with `--realizations`."
    )
    return "\n".join([*lines, "", f"{reached} {interval}"]) + "\n"


def _convergence(row):
    ours = [
        "–"
        if mean is None
        else f"{mean:.1f}" + (f" ({n} of {row.realizations})" * (n < row.realizations))
        for mean, n in ((row.ce, row.ce_reached), (row.hr, row.hr_reached))
    ]
    if row.difference is None:
        return [share(row.accuracy), *ours, "–"]
    difference = f"{row.difference:+.1f}"
    if row.low is not None:
        difference += f" [{row.low:+.1f}, {row.high:+.1f}]"
    return [share(row.accuracy), *ours, difference.replace("-", "−")]


def confusion_markdown(run, confusions):
    """‖I − C‖_F of the semi-empirical confusion matrices beside the paper's, as Markdown.

    Args:
        run: a `runs.Run`.
        confusions: of `experiments.confusion.Confusion`.
    """
    epsilon = confusions[0].epsilon
    name = plain_text(run.protocol.dataset)
    rows = [
        [
            one.trained_on.upper(),
            _BESIDE[one.through],
            mean_and_error(one.norm, one.standard_error),
            "–" if one.paper is None else f"{one.paper:.2f}",
        ]
        for one in sorted(confusions, key=lambda one: list(_BESIDE).index(one.through))
    ]
    lines = [
        f"# Confusion matrices under the CE attack at ε = {epsilon:g}: {name}",
        "",
        setting(run.protocol),
        "",
        *rows_markdown(["trained on", "attacked", "‖I − C‖_F", "paper"], rows),
        "",
        "C[ŷ, y] = p(ŷ|y): the mean softmax on the test images of class y, attacked. 0 would be "
        "a classifier that is always right and certain of it.",
        errors(confusions[0].realizations),
    ]
    if run.protocol.dataset in paper.NOTES:
        lines.append(paper.NOTES[run.protocol.dataset])
    return "\n".join(lines) + "\n"


def bounds_markdown(run, upper, lower):
    """Proposition 1 and Corollary 1 on the trained models, as Markdown.

    Args:
        run: a `runs.Run`.
        upper: of `experiments.bounds.UpperBound`.
        lower: of `experiments.bounds.LowerBound`.
    """
    name, alpha = plain_text(run.protocol.dataset), run.protocol.alpha
    lines = [f"# Bounds on the probability of error: {name}", "", setting(run.protocol)]
    lines += ["", "## P_e ≤ [(1 − e^(−H))·e^R]^((α−1)/α) (Proposition 1)", ""]
    lines += rows_markdown(
        ["trained on", "split", "P_e", "P_u", "H, nats", f"R at α = {alpha:g}, nats",
         f"bound at α = {alpha:g}", "tightest α", "bound there", "Corollary 1 there", "hold?"],
        [_upper(alpha, rows) for rows in _by_split(upper)],
    )  # fmt: skip
    lines += ["", "## The bound for a range of α", ""]
    groups = _by_split(upper)
    heads = [f"{rows[0].trained_on.upper()}, {rows[0].split}" for rows in groups]
    lines += rows_markdown(
        ["α", *heads],
        [
            [f"{of[0].alpha:g}", *(_number(row.bound) for row in of)]
            for of in zip(*groups, strict=True)
        ],
    )
    smoothing = lower[0].label_smoothing
    lines += [
        "",
        "## Lower bound (Proposition 1)",
        "",
        "With the labels as they are, each certain, it is trivial: P_e ≥ 0. The classifier gives "
        "every class some probability, so that the divergence is infinite. With "
        f"{smoothing:.0%} of each label spread evenly over the classes, and β = "
        f"{lower[0].beta:.3f}:",
        "",
        *rows_markdown(
            ["trained on", "split", "P_e", "bound", "at α", "holds?"],
            [
                [row.trained_on.upper(), row.split, _number(row.error), _number(row.bound),
                 f"{row.alpha:g}", _yes(row.holds)]
                for row in lower
            ],
        ),
        "",
        f"Realizations: {upper[0].realizations}, whose means these are; \"hold?\" is about each. "
        "1 is what is known without a bound.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _by_split(upper):
    """The rows of each (loss, split), by α."""
    keys = dict.fromkeys((row.trained_on, row.split) for row in upper)
    return [[row for row in upper if (row.trained_on, row.split) == key] for key in keys]


def _upper(alpha, rows):
    (ours,) = (row for row in rows if row.alpha == alpha)
    (tightest,) = (row for row in rows if row.tightest)
    return [
        ours.trained_on.upper(),
        ours.split,
        *map(_number, (ours.error, ours.uncertainty, ours.entropy, ours.divergence, ours.bound)),
        f"{tightest.alpha:g}",
        _number(tightest.bound),
        _number(tightest.surrogate),
        _yes(all(row.holds for row in rows)),
    ]


def _number(value):
    """Three digits, whatever the size."""
    return f"{value:.3g}"


def _yes(value):
    return "yes" if value else "NO"
