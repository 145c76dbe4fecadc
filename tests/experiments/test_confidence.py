"""What is measured of confidence, and its tables, from the saved results alone."""

import dataclasses
import json

import numpy as np
import pytest
import reference
from saved_results import make_accuracies, make_folder, make_result

from hr_keras import datasets, evaluation
from hr_keras.experiments import confidence as measuring
from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.result import Confidence, Result, ScaledAccuracy
from hr_keras.experiments.results import accuracy_table, confidence, saturation
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_folder


def slow_calibration_error(q, labels, bins):
    """Bin by bin, example by example."""
    error = 0.0
    for k in range(bins):
        inside = [i for i in range(len(q)) if k / bins < q[i].max() <= (k + 1) / bins]
        if inside:
            accuracy = sum(q[i].argmax() == labels[i] for i in inside) / len(inside)
            error += (
                len(inside) / len(q) * abs(accuracy - sum(q[i].max() for i in inside) / len(inside))
            )
    return error


@pytest.mark.parametrize("scale", [0.5, 3.0, 100.0])
@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_equals_the_slow_reference(scale, bins):
    generator = np.random.default_rng(0)
    logits, labels = scale * generator.normal(size=(300, 4)), generator.integers(4, size=300)
    log_q = reference.log_softmax(logits)
    found = measuring.compute_calibration_error(log_q, labels, bins)
    expected = slow_calibration_error(reference.softmax(logits), labels, bins)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_has_no_calibration_error_and_a_certain_wrong_one_has_one():
    q = np.log([[0.75, 0.25]] * 4)
    assert measuring.compute_calibration_error(q, np.array([0, 0, 0, 1])) == pytest.approx(0)
    certain = reference.log_softmax([[0.0, 1e6]] * 4)
    assert measuring.compute_calibration_error(certain, np.zeros(4, int)) == 1.0


def test_the_factor_gives_the_confidence_that_was_asked_for():
    log_q = reference.log_softmax(np.random.default_rng(0).normal(size=(200, 5)))
    for wanted in (0.3, 0.9, 0.999):
        factor = measuring.find_factor(log_q, wanted)
        scaled = reference.softmax(factor * log_q).max(axis=-1).mean()
        assert scaled == pytest.approx(wanted, abs=1e-9)
    assert measuring.find_factor(np.log(np.full((3, 2), 0.5)), 0.9) is None


def test_confidence_is_that_of_the_soft_decisions(cnn, digits):
    split = datasets.Split(*(array[:300] for array in digits.test))
    found = measuring.measure_confidence(from_preset("quick"), cnn, split)
    q = cnn.predict(split.images, verbose=0).astype("float64")
    logs = np.sort(np.log(q), axis=-1)
    gaps = logs[:, -1] - logs[:, -2]
    assert (found.examples, found.pgd_examples) == (300, 100)
    assert found.mean_confidence == pytest.approx(q.max(axis=-1).mean(), abs=1e-5)
    assert found.median_logit_gap == pytest.approx(np.median(gaps), rel=1e-3)
    assert found.high_logit_gap == pytest.approx(np.quantile(gaps, 0.9), rel=1e-3)
    assert found.log_loss == pytest.approx(
        -np.log(q[np.arange(300), split.labels]).mean(), rel=1e-3
    )
    swept = evaluation.sweep(cnn, split.images[:100], split.labels[:100], ("ce",))
    assert [epsilon for epsilon, _ in found.pgd] == [0.1, 0.25]
    for epsilon, accuracy in found.pgd:
        assert 0 <= accuracy <= swept.accuracy["ce", epsilon]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """CE and CE × 16 on 300 digits."""
    path = tmp_path_factory.mktemp("run")
    data = datasets.load("mnist10k", validation=0)
    (x, y), (x_test, y_test) = data.train, data.test
    np.savez(path / "small.npz", x_train=x[:400, ..., 0], y_train=y[:400],
             x_test=x_test[:100, ..., 0], y_test=y_test[:100])  # fmt: skip
    protocol = from_preset(
        "quick", dataset=str(path / "small.npz"), epochs=6, learning_rate=0.1, realizations=1,
        methods=("ce", "ce_scaled"),
    )  # fmt: skip
    folder = RunFolder.create(path / "run", protocol)
    train_folder(folder)
    return folder


@pytest.mark.slow
def test_saturation_is_measured_once_and_drawn_without_models(trained, monkeypatch):
    """A multiplication raises the accuracy as published; nothing else changes."""
    measuring.measure_saturation(trained, 60)
    found = trained.saturation()
    grid = found[found["wanted_confidence"].isna()]
    assert set(grid["factor"]) == set(measuring.FACTORS)
    equal = found[found["wanted_confidence"].notna()]
    assert equal["mean_confidence"].to_numpy() == pytest.approx(
        equal["wanted_confidence"].to_numpy(), abs=1e-6
    )
    keys = ["wanted_confidence", "through", "epsilon"]
    accuracies = equal.pivot_table(index=keys, columns="method", values="accuracy")
    assert (abs(accuracies["ce"] - accuracies["ce_scaled"]) <= 1 / 60).all()  # the same model
    ce = grid.query("method == 'ce' and epsilon == 0.25").set_index(["through", "factor"])
    at = ce["accuracy"]
    assert at["probabilities", 1000.0] > at["probabilities", 1.0] + 0.3
    assert ce["zero_gradient_share"]["probabilities", 1000.0] > 0.9
    assert ce["zero_gradient_share"]["logits", 1000.0] == 0
    assert abs(at["logits", 1000.0] - at["logits", 1.0]) < 0.2
    model = measuring.load_trained_model(trained, "ce", 0)
    images, labels = (a[:60] for a in datasets.load(trained.protocol.dataset).test)
    for through in ("logits", "probabilities"):
        swept = evaluation.sweep(model, images, labels, ("ce",), (0.25,), through)
        assert at[through, 1.0] == swept.accuracy["ce", 0.25]

    def no_model(*_):
        raise AssertionError("measured already")

    monkeypatch.setattr(measuring, "load_trained_model", no_model)
    measuring.measure_saturation(trained)
    measuring.measure_saturation(trained, 60)
    text = saturation.write([trained])
    assert "| CE × 16" in text
    assert "60 test images" in text
    before = (trained.path / "saturation.svg").read_bytes()
    assert saturation.write([trained]) == text
    assert (trained.path / "saturation.svg").read_bytes() == before
    with pytest.raises(AssertionError, match="measured already"):
        measuring.measure_saturation(trained, 50)


@pytest.mark.slow
def test_every_table_of_new_results_has_the_confidence_columns(trained):
    text = accuracy_table.write([trained], trained.path)
    assert "how certain the models are" in text
    found = confidence.rows(trained).set_index(["method", "quantity", "epsilon"])["mean"]
    kept = {result.method: result for result in trained.results()}
    for method in ("ce", "ce_scaled"):
        measured = kept[method].confidence
        assert found[method, "calibration_error", np.nan] == measured.calibration_error
        assert found[method, "pgd", 0.1] == dict(measured.pgd)[0.1]
        cells = {(one.attack, one.through, one.epsilon): one for one in kept[method].accuracies}
        published = cells["fgsm_ce", "probabilities", 0.25]
        assert found[method, "published", 0.25] == published.accuracy
        assert found[method, "exact", 0.1] == cells["fgsm_ce", "logits", 0.1].accuracy
        assert found[method, "zero_gradient_share", np.nan] == published.zero_gradient_share
    gap = "median_logit_gap"
    assert found["ce_scaled", gap, np.nan] == pytest.approx(16 * found["ce", gap, np.nan], rel=1e-6)
    assert dict(kept["ce"].confidence.pgd) == dict(kept["ce_scaled"].confidence.pgd)
    assert (trained.path / "confidence.csv").exists()


CONFIDENCE = Confidence(100, 0.9, 5.0, 9.0, 0.3, 0.02, ((0.1, 0.4), (0.25, 0.1)), 50)


def test_confidence_is_shown_where_every_model_has_it(tmp_path):
    results = [
        dataclasses.replace(make_result("ce", k, make_accuracies(0.5)), confidence=CONFIDENCE)
        for k in (0, 1)
    ]
    folder = make_folder(tmp_path / "new", results)
    (line,) = confidence.layout(folder, confidence.rows(folder)).to_dict("records")
    assert line == {
        "trained with": "CE", "mean confidence": ".900 ± .000", "logit gap, median": "5.0",
        "logit gap, 90 %": "9.0", "zero gradients": "25%", "NLL": ".300 ± .000",
        "ECE": ".020 ± .000",
        "FGSM as published, ε = 0.1": ".500 ± .000", "FGSM, exact, ε = 0.1": ".500 ± .000",
        "PGD, ε = 0.1": ".400 ± .000", "FGSM as published, ε = 0.25": ".500 ± .000",
        "FGSM, exact, ε = 0.25": ".500 ± .000", "PGD, ε = 0.25": ".100 ± .000",
    }  # fmt: skip
    folder.write_result(make_result("ce", 1, make_accuracies(0.5)))
    assert confidence.describe(folder) == []
    assert not (tmp_path / "new" / "confidence.md").exists()


def test_results_saved_before_confidence_was_measured_are_read():
    scaled = ScaledAccuracy(2.0, None, 0.9, "logits", 0.1, 10, 0.5, 0.0)
    result = dataclasses.replace(make_result("ce", 0), confidence=CONFIDENCE, saturation=(scaled,))
    assert Result.from_json(result.to_json()) == result
    values = json.loads(result.to_json())
    del values["confidence"], values["saturation"]
    older = Result.from_json(json.dumps(values))
    assert (older.confidence, older.saturation) == (None, ())
    values["confidence"] = {"examples": 1}
    with pytest.raises(ValueError, match="lacks 'mean_confidence'"):
        Result.from_json(json.dumps(values))
