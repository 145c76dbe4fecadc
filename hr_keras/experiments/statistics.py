"""Means over realizations, and how well they are known: pandas and SciPy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over independent realizations.

    Args:
        mean: Of the values.
        standard_error: Of the mean, s/√n; NaN for a single value.
        low: Lower end of the 95 % interval of Student's t; NaN for a single value.
        high: Upper end of it.
        realizations: n, how many values.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    realizations: int


def estimate_mean(values: Iterable[float]) -> Estimate:
    """Computes mean, standard error and 95 % interval of independent values.

    mean ± t·s/√n, with t the 97.5 % quantile of Student's t with n − 1 degrees of freedom. For
    differences of pairs it is a paired t-test: the mean differs from 0 at the 5 % level where
    the interval does not contain 0.

    Args:
        values: At least one number.

    Returns:
        An `Estimate`.

    Example:

    ```python
    from hr_keras.experiments.statistics import estimate_mean

    found = estimate_mean([0.03, 0.05, 0.04])
    assert 0.015 < found.low < found.mean < found.high < 0.065
    ```
    """
    series = pd.Series(list(values), dtype="float64")
    n, mean = len(series), float(series.mean())
    if n < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, n)
    error = float(stats.sem(series))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return Estimate(mean, error, mean - half, mean + half, n)


def summarize_groups(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Computes `estimate_mean` of a column for each group.

    Args:
        frame: One row for each realization.
        by: Columns that make a group, in the order of their first row.
        value: Column to summarize.

    Returns:
        One row for each group: `by`, and the attributes of `Estimate`.
    """
    rows = [
        dict(zip(by, key, strict=True)) | vars(estimate_mean(group[value]))
        for key, group in frame.groupby(by, sort=False, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*by, *Estimate.__dataclass_fields__])


def compare_methods(frame: pd.DataFrame, by: list[str], value: str, baseline: str) -> pd.DataFrame:
    """Computes differences to a baseline method, in pairs of the same realization.

    Args:
        frame: With columns method, realization, `by` and `value`.
        by: Columns that must be equal in a pair.
        value: Column to compare.
        baseline: Name of the method that is subtracted.

    Returns:
        One row for each other method and group: method, `by`, and the attributes of `Estimate`.
    """
    keys = [*by, "realization"]
    base = frame[frame["method"] == baseline][[*keys, value]]
    others = frame[frame["method"] != baseline]
    pairs = others.merge(base, on=keys, suffixes=("", "_of_baseline"))
    pairs["difference"] = pairs[value] - pairs[f"{value}_of_baseline"]
    return summarize_groups(pairs, ["method", *by], "difference")


def judge_difference(low: float, high: float) -> str:
    """Returns whether a difference is above 0: `"yes"`, `"no"`, or `"undecided"`.

    It is undecided where the interval contains 0, and where there is no interval: for a single
    pair, and for pairs that happen to differ by the same, whose interval has no width.

    Args:
        low: Lower end of its interval; NaN without one.
        high: Upper end of its interval.
    """
    if not high - low > 1e-9 or low <= 0 <= high:
        return "undecided"
    return "yes" if low > 0 else "no"


def compute_wilson_interval(accuracy: float, examples: int) -> tuple[float, float]:
    """Computes the 95 % interval of an accuracy over test images (Wilson).

    Args:
        accuracy: Share of the examples that is classified correctly.
        examples: How many.
    """
    correct = round(accuracy * examples)
    interval = stats.binomtest(correct, examples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
