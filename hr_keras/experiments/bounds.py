"""Proposition 1 and Corollary 1 on trained models: what the bounds say of the error they bound."""

import dataclasses
import statistics

import numpy as np

from hr_keras import error_bounds
from hr_keras.experiments.measurements import completed
from hr_keras.experiments.protocol import LOSSES

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class UpperBound:
    """The upper bound of one order, on one split: means over the realizations.

    Attributes:
        dataset: as `datasets.load` names it.
        trained_on: `"ce"` or `"hr"`.
        split: `"train"`, `"validation"` or `"test"`.
        alpha: order of the divergence.
        error: P_e, the share of wrong decisions.
        uncertainty: P_u, one minus the mean largest probability.
        entropy: H in nats.
        divergence: R in nats.
        bound: of Proposition 1, at most 1.
        surrogate: of Corollary 1, at most 1.
        tightest: whether no other order has a smaller bound on this split.
        holds: whether both bounds hold in every realization.
        realizations: how many.
    """

    dataset: str
    trained_on: str
    split: str
    alpha: float
    error: float
    uncertainty: float
    entropy: float
    divergence: float
    bound: float
    surrogate: float
    tightest: bool
    holds: bool
    realizations: int


@dataclasses.dataclass(frozen=True)
class LowerBound:
    """The lower bound on one split with smoothed labels, at the α where it is largest.

    Attributes:
        dataset, trained_on, split: as in `UpperBound`.
        label_smoothing: s of the labels (1 − s)·label + s/M.
        beta: β(M).
        alpha: where the bound is largest.
        error: P_e for these labels.
        bound: mean over the realizations.
        holds: whether it holds in every realization.
        realizations: how many.
    """

    dataset: str
    trained_on: str
    split: str
    label_smoothing: float
    beta: float
    alpha: float
    error: float
    bound: float
    holds: bool
    realizations: int


def upper_bounds(run, results, data_dir=None):
    """The upper bounds for each loss, split and order.

    Args:
        run: a `runs.Run`.
        results: of `experiments.train_all.run`.
        data_dir: where tensorflow-datasets has its data, for results of an earlier version.

    Returns:
        A list of `UpperBound`.
    """
    return [
        row
        for loss, split, terms in _terms(run, results, data_dir)
        for row in _with_tightest(
            [
                _upper(run.protocol.dataset, loss, split, terms, k)
                for k in range(len(terms[0]["divergence"]))
            ]
        )
    ]


def lower_bounds(run, results, data_dir=None):
    """The largest lower bound for each loss and split, with smoothed labels.

    With the labels as they are it is 0: the divergence is infinite.

    Args:
        run, results, data_dir: as in `upper_bounds`.

    Returns:
        A list of `LowerBound`.
    """
    return [
        max(
            (
                _lower(run.protocol.dataset, loss, split, terms, k)
                for k in range(len(terms[0]["smoothed"]["reversed_divergence"]))
            ),
            key=lambda row: row.bound,
        )
        for loss, split, terms in _terms(run, results, data_dir)
    ]


def _terms(run, results, data_dir):
    """(loss, split, terms of each realization)."""
    results = [completed(run.protocol, r, "terms", run.folder, data_dir) for r in results]
    for loss in LOSSES:
        for split in SPLITS:
            yield loss, split, [r["terms"][split] for r in results if r["loss"] == loss]


def _upper(dataset, loss, split, terms, k):
    alpha = terms[0]["divergence"][k][0]
    divergence = [term["divergence"][k][1] for term in terms]
    both = [
        (
            float(error_bounds.upper_bound(np.float64(term["entropy"]), r, alpha)),
            float(error_bounds.surrogate_bound(np.float64(term["entropy"] + r), alpha)),
        )
        for term, r in zip(terms, divergence, strict=True)
    ]
    return UpperBound(
        dataset=dataset,
        trained_on=loss,
        split=split,
        alpha=alpha,
        error=_mean(terms, "error"),
        uncertainty=_mean(terms, "uncertainty"),
        entropy=_mean(terms, "entropy"),
        divergence=statistics.fmean(divergence),
        bound=statistics.fmean(bound for bound, _ in both),
        surrogate=statistics.fmean(surrogate for _, surrogate in both),
        tightest=False,
        holds=all(term["error"] <= min(pair) for term, pair in zip(terms, both, strict=True)),
        realizations=len(terms),
    )


def _with_tightest(rows):
    tightest = min(rows, key=lambda row: row.bound)
    return [dataclasses.replace(row, tightest=row is tightest) for row in rows]


def _lower(dataset, loss, split, terms, k):
    smoothed = [term["smoothed"] for term in terms]
    alpha, classes = smoothed[0]["reversed_divergence"][k][0], terms[0]["classes"]
    found = [
        float(
            error_bounds.lower_bound(
                np.float64(term["entropy"]),
                np.float64(soft["reversed_divergence"][k][1]),
                alpha,
                classes,
            )
        )
        for term, soft in zip(terms, smoothed, strict=True)
    ]
    return LowerBound(
        dataset=dataset,
        trained_on=loss,
        split=split,
        label_smoothing=smoothed[0]["label_smoothing"],
        beta=error_bounds.beta(classes),
        alpha=alpha,
        error=_mean(smoothed, "error"),
        bound=statistics.fmean(found),
        holds=all(soft["error"] >= low for soft, low in zip(smoothed, found, strict=True)),
        realizations=len(terms),
    )


def _mean(terms, name):
    return statistics.fmean(term[name] for term in terms)
