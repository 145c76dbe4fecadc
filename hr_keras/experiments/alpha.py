"""The search for α on the validation split; the test split is never looked at."""

import dataclasses
import math
import pathlib

from hr_keras._core import files
from hr_keras.experiments import runs
from hr_keras.experiments.estimate import estimate
from hr_keras.experiments.protocol import changed, from_preset

GRID = (1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0)
LOSSES = ("hr",)  # CE has no α

RULE = (
    "Of the α whose clean accuracy is within one standard error of the best, the one with the "
    "highest accuracy under the exact attack; the smallest of several."
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One α of the search: validation accuracies of HR-trained models under the CE attack.

    Attributes:
        dataset: as `datasets.load` names it.
        alpha: order of the divergence trained with.
        epsilon: size of the attack.
        clean, exact, published: mean accuracy without attack, with the attack through the
            logits, and through the clipped softmax.
        clean_error, exact_error, published_error: standard errors of these means; `None` for
            fewer than two realizations.
        zero_gradient_share: mean share of examples that the published attack leaves alone.
        realizations: how many.
        eligible: whether `clean` is within one standard error of the best.
        chosen: whether this is the α of `RULE`.
    """

    dataset: str
    alpha: float
    epsilon: float
    clean: float
    clean_error: float | None
    exact: float
    exact_error: float | None
    published: float
    published_error: float | None
    zero_gradient_share: float
    realizations: int
    eligible: bool = False
    chosen: bool = False


def plan(output=None, preset=None, datasets=(), alphas=(), **changes):
    """The runs of a search, one an α, each in a folder of its own.

    Args:
        output: folder of a search, or what is to become one; `None`: one under `runs`.
        preset: name of a preset, or `None`: that of the folder, `"quick"` for a new one.
        datasets: none (that of the folder or preset), or one.
        alphas: orders to try, besides those of the folder; none: `GRID` for a new one.
        changes: attributes of `Protocol`; `None` leaves a value as it is.

    Returns:
        A `runs.Plan`. Nothing is written.

    Raises:
        ValueError: for an α that is not greater than 1 or given twice, several data sets, and
            a folder that holds something else.
    """
    if len(datasets) > 1:
        raise ValueError(f"One data set a search. Received: {', '.join(datasets)}")
    if len(set(alphas)) < len(alphas):
        raise ValueError(f"The α of a grid must differ. Received: {', '.join(map(str, alphas))}")
    (dataset,) = datasets or (None,)
    changes |= {"evaluated_on": "validation"}
    there = [] if output is None else _there(pathlib.Path(output))
    if there and preset is None:
        base = changed(there[0], dataset=dataset or runs.dataset_of(there[0]), **changes)
        alphas = {*alphas, *(protocol.alpha for protocol in there)}
    else:
        base = from_preset(preset or "quick", dataset=dataset, **changes)
    folder = pathlib.Path(output or pathlib.Path("runs") / f"{base.name}_search")
    protocols = [changed(base, alpha=alpha) for alpha in sorted(alphas or GRID)]
    return runs.Plan(folder, [runs.Run(p, folder / f"alpha-{p.alpha:g}") for p in protocols])


def _there(folder):
    """The protocols of a search that a folder holds."""
    if runs.is_run(folder):
        found = [runs.protocol_of(folder)]
    else:
        found = [runs.protocol_of(one) for one in runs.runs_in(folder)]
        if not found and folder.is_dir() and files.holds_anything(folder):
            raise ValueError(f"{folder} is not empty and holds no search. Choose another one.")
    if any(protocol.evaluated_on != "validation" for protocol in found):
        raise ValueError(
            f"{folder} holds runs that were evaluated on the test split, not a search for α. "
            "Choose another output folder."
        )
    return found


def check_epsilon(protocol, epsilon):
    """A ValueError unless ε is one of the protocol's, greater than 0."""
    known = [value for value in protocol.epsilons if value > 0]
    if epsilon not in known:
        raise ValueError(f"ε must be one of the protocol's, {known}. Received: {epsilon:g}")


def candidates(plan, results, epsilon=0.1):
    """What each α gives, and which is chosen by `RULE`.

    For a single realization the standard error of the best clean accuracy p is taken to be
    that of n independent examples, √(p(1 − p)/n).

    Args:
        plan: from `plan`.
        results: of `experiments.train_all.run` with `LOSSES`, a list for each run.
        epsilon: size of the CE attack, one of the protocol's, greater than 0.

    Returns:
        A list of `Candidate`, by α.

    Raises:
        ValueError: for another ε.
    """
    check_epsilon(plan.runs[0].protocol, epsilon)
    found = [
        _candidate(run.protocol, saved, epsilon)
        for run, saved in zip(plan.runs, results, strict=True)
    ]
    best = max(found, key=lambda one: one.clean)
    error = best.clean_error
    if error is None:
        error = math.sqrt(best.clean * (1 - best.clean) / results[0][0]["validation_size"])
    eligible = [one for one in found if one.clean >= best.clean - error]
    chosen = max(eligible, key=lambda one: (one.exact, -one.alpha))
    return [
        dataclasses.replace(one, eligible=one in eligible, chosen=one is chosen) for one in found
    ]


def _candidate(protocol, results, epsilon):
    clean = estimate(_row(result, "logits", 0.0)["accuracy"] for result in results)
    exact = estimate(_row(result, "logits", epsilon)["accuracy"] for result in results)
    rows = [_row(result, "probabilities", epsilon) for result in results]
    published = estimate(row["accuracy"] for row in rows)
    return Candidate(
        dataset=protocol.dataset,
        alpha=protocol.alpha,
        epsilon=epsilon,
        clean=clean.mean,
        clean_error=clean.standard_error,
        exact=exact.mean,
        exact_error=exact.standard_error,
        published=published.mean,
        published_error=published.standard_error,
        zero_gradient_share=estimate(row["zero_gradient_share"] for row in rows).mean,
        realizations=len(results),
    )


def _row(result, through, epsilon):
    (row,) = (
        row
        for row in result["validation"]
        if (row["through"], row["attack"], row["epsilon"]) == (through, "ce", epsilon)
    )
    return row
