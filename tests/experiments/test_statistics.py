import math

import pandas as pd
import pytest

from hr_keras.experiments.statistics import (
    compare_methods,
    compute_wilson_interval,
    estimate_mean,
    judge_difference,
    summarize_groups,
)


def test_an_estimate_is_a_mean_with_its_interval():
    """t = 4.3027 for 2 degrees of freedom, as tables have it."""
    found = estimate_mean([0.03, 0.05, 0.04])
    assert (found.mean, found.realizations) == (pytest.approx(0.04), 3)
    assert found.standard_error == pytest.approx(0.01 / 3**0.5)
    half = 4.30265 * 0.01 / 3**0.5
    assert (found.low, found.high) == pytest.approx((0.04 - half, 0.04 + half), abs=1e-6)
    single = estimate_mean([0.5])
    assert single.mean == 0.5
    assert all(math.isnan(value) for value in (single.standard_error, single.low, single.high))


def frame(**by_method):
    rows = [
        {"method": method, "realization": k, "attack": "a", "accuracy": value}
        for method, values in by_method.items()
        for k, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_differences_are_paired():
    """A common effect of the seed, ten times the effect of the method, does not blur it."""
    accuracies = frame(ce=[0.5, 0.7, 0.9], hr=[0.52, 0.73, 0.92], other=[0.4, 0.6, 0.8])
    found = compare_methods(accuracies, ["attack"], "accuracy", "ce").set_index("method")
    assert list(found.index) == ["hr", "other"]
    assert found["mean"]["hr"] == pytest.approx(0.07 / 3)
    assert 0.005 < found["low"]["hr"] < found["high"]["hr"] < 0.05
    assert found["mean"]["other"] == pytest.approx(-0.1)
    to_other = compare_methods(accuracies, ["attack"], "accuracy", "other").set_index("method")
    assert to_other["mean"]["ce"] == pytest.approx(0.1)
    assert list(summarize_groups(accuracies, ["method"], "accuracy")["mean"]) == pytest.approx(
        [0.7, 2.17 / 3, 0.6]
    )


def test_verdicts():
    assert judge_difference(-0.1, 0.3) == "undecided"
    assert judge_difference(0.05, 0.15) == "yes"
    assert judge_difference(-0.15, -0.05) == "no"
    one_pair, equal_pairs = estimate_mean([0.1]), estimate_mean([0.08, 0.08])
    for found in (one_pair, equal_pairs):
        assert judge_difference(found.low, found.high) == "undecided"


def test_wilsons_interval():
    """Of 20 in 100: the roots of (p − 0.2)² = 1.96² p(1 − p)/100."""
    low, high = compute_wilson_interval(0.2, 100)
    for p in (low, high):
        assert (p - 0.2) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / 100, rel=1e-5)
    assert compute_wilson_interval(0.0, 10)[0] == 0
