"""What is made of saved results, on results that are written out here."""

import math

import numpy as np
import pytest

from hr_keras import plots, report
from hr_keras.experiments import bounds, confusion, convergence, measurements, runs
from hr_keras.experiments.protocol import from_preset

RUN = runs.Run(from_preset("paper-mnist"), None)


def curves(ce, hr):
    """Results with these validation accuracies, a list an epoch for each realization."""
    return [
        {"loss": loss, "index": index, "history": {"val_accuracy": values}}
        for loss, series in (("ce", ce), ("hr", hr))
        for index, values in enumerate(series)
    ]


def test_epochs_to_reach_an_accuracy():
    results = curves([[0.2, 0.5, 0.9], [0.6, 0.7, 0.8]], [[0.5, 0.9, 0.7], [0.5, 0.6, 0.9]])
    half, high = convergence.convergence(results, "mnist", (0.5, 0.9))
    assert (half.ce, half.hr, half.difference) == (1.5, 1.0, -0.5)
    assert half.low == pytest.approx(-0.5 - 12.7062 * 0.5, abs=1e-3)
    assert (high.ce, high.ce_reached, high.hr, high.hr_reached) == (3.0, 1, 2.5, 2)
    assert (high.difference, high.low, high.pairs) == (-1.0, None, 1)
    (never,) = convergence.convergence(results, "mnist", (0.95,))
    assert (never.ce, never.difference, never.pairs) == (None, None, 0)
    text = report.convergence_markdown(RUN, [half, high, never])
    assert "3.0 (1 of 2)" in text
    assert "| .950 | – | – | – |" in text
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        convergence.convergence(results, "mnist", (90,))


def test_usual_accuracies_are_reached_by_every_run():
    results = curves([[0.2, 0.8]], [[0.5, 0.9]])
    rows = convergence.convergence(results, "mnist")
    assert [row.accuracy for row in rows] == [0.72, 0.76, 0.792]
    assert {(row.ce_reached, row.hr_reached) for row in rows} == {(1, 1)}
    assert "no interval" in report.convergence_markdown(RUN, rows)


def confused(loss, index, wrong):
    """A classifier of two classes that gives `wrong` to the other one."""
    rows = [
        {"through": through, "attack": "ce", "epsilon": 0.1,
         "matrix": [[1 - wrong, wrong], [wrong, 1 - wrong]]}
        for through in ("logits", "probabilities")
    ]  # fmt: skip
    return {"loss": loss, "index": index, "confusion": rows}


def test_norms_of_confusion_matrices():
    """‖I − C‖_F of a 2×2 matrix with w off the diagonal is 2w."""
    wrong = {("ce", 0): 0.2, ("ce", 1): 0.3, ("hr", 0): 0.1, ("hr", 1): 0.1}
    results = [confused(loss, index, w) for (loss, index), w in wrong.items()]
    found = confusion.confusions(RUN, results)
    ce, hr = (one for one in found if one.through == "logits")
    assert (ce.norm, hr.norm) == (pytest.approx(0.5), pytest.approx(0.2))
    assert ce.standard_error == pytest.approx(0.1)
    assert (ce.paper, hr.paper) == (0.40, 0.23)
    np.testing.assert_allclose(np.sum(ce.matrix, axis=0), 1.0)
    assert ce.matrix[0] == [0.75, 0.25]
    assert ".500 ± .100" in report.confusion_markdown(RUN, found)
    assert plots.confusion_matrices(found, "$") == plots.confusion_matrices(found, "$")
    with pytest.raises(ValueError, match="ε must be one of"):
        confusion.confusions(RUN, results, epsilon=0.2)


def test_a_class_without_images_does_not_count():
    results = [confused(loss, 0, 0.3) for loss in ("ce", "hr")]
    for result in results:
        for row in result["confusion"]:
            row["matrix"] = [[0.7, None], [0.3, None]]
    one = confusion.confusions(RUN, results)[0]
    assert one.norm == pytest.approx(math.hypot(0.3, 0.3))
    assert one.matrix[0] == [0.7, None]
    assert plots.confusion_matrices(confusion.confusions(RUN, results))["png"]


def terms(entropy, divergence, error):
    return {
        "examples": 100, "classes": 10, "error": error, "uncertainty": 0.1, "entropy": entropy,
        "divergence": [[1.6, divergence], [3.0, 2 * divergence]],
        "smoothed": {"label_smoothing": 0.1, "error": 0.2, "reversed_divergence": [[3.0, 1.0]]},
    }  # fmt: skip


def test_bounds_of_saved_terms():
    results = [
        {"loss": loss, "index": index, "terms": {s: terms(0.1, 0.2, 0.05) for s in bounds.SPLITS},
         "history": {"val_accuracy": [0.5, 0.9], "val_error_bound": [1.0, 0.8]}}
        for loss in ("ce", "hr")
        for index in (0, 1)
    ]  # fmt: skip
    results[3]["terms"]["test"] = terms(0.1, 0.2, 0.99)  # no distribution has these
    upper = bounds.upper_bounds(RUN, results)
    first = upper[0]
    expected = ((1 - math.exp(-0.1)) * math.exp(0.2)) ** 0.375
    assert (first.alpha, first.bound) == (1.6, pytest.approx(expected))
    assert first.surrogate == pytest.approx(math.exp(0.375 * (0.3 - 1)))
    assert [row.tightest for row in upper[:2]] == [False, True]
    assert [row.holds for row in upper] == 10 * [True] + 2 * [False]
    lower = bounds.lower_bounds(RUN, results)
    assert all(row.holds and 0 < row.bound < 0.2 for row in lower)
    text = report.bounds_markdown(RUN, upper, lower)
    assert "trivial" in text
    assert text.count("| NO |") == 1
    assert plots.error_bounds(results, upper) == plots.error_bounds(results, upper)
    for result in results:
        del result["history"]["val_error_bound"]  # as an earlier version wrote it
    assert plots.error_bounds(results, upper)["png"]


def test_what_an_earlier_version_did_not_keep_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"realization-0-hr\.keras, is not there.*Put the model"):
        measurements.completed(RUN.protocol, {"index": 0, "loss": "hr"}, "terms", tmp_path)
