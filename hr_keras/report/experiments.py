"""Convergence, confusion matrices, bounds and the search for α as text."""

from hr_keras._core.text import (
    ROUTE_NAMES,
    errors,
    mean_and_error,
    plain_text,
    rows_markdown,
    setting,
    share,
)
from hr_keras.experiments import paper


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
            ROUTE_NAMES[one.through],
            mean_and_error(one.norm, one.standard_error),
            "–" if one.paper is None else f"{one.paper:.2f}",
        ]
        for one in sorted(confusions, key=lambda one: list(ROUTE_NAMES).index(one.through))
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


def alpha_markdown(protocol, rule, candidates):
    """The search for α as Markdown.

    Args:
        protocol: of one of its runs.
        rule: what chooses.
        candidates: of `experiments.alpha.Candidate`.
    """
    (chosen,) = (one for one in candidates if one.chosen)
    epsilon = f"ε = {chosen.epsilon:g}"
    rows = [
        [
            f"{one.alpha:g}",
            mean_and_error(one.clean, one.clean_error) + (" *" if one.eligible else ""),
            mean_and_error(one.exact, one.exact_error),
            f"{mean_and_error(one.published, one.published_error)} ({one.zero_gradient_share:.0%})",
            "**chosen**" if one.chosen else "",
        ]
        for one in candidates
    ]
    header = ["α", "clean", f"{epsilon}, exact", f"{epsilon}, as published", ""]
    lines = [
        f"# Validation accuracy for each α: {plain_text(protocol.dataset)}",
        "",
        setting(protocol, with_alpha=False),
        "",
        *rows_markdown(header, rows),
        "",
        f"α = {chosen.alpha:g} is chosen. {rule} (*: within one standard error of the best.) The "
        "test split was not looked at.",
        "",
        errors(chosen.realizations)
        if chosen.realizations > 1
        else f"{errors(1)} That of the best clean accuracy p is taken to be √(p(1 − p)/n), for n "
        "validation images.",
    ]
    return "\n".join(lines) + "\n"


def _number(value):
    """Three digits, whatever the size."""
    return f"{value:.3g}"


def _yes(value):
    return "yes" if value else "NO"
