import numpy as np
import pytest
import tensorflow as tf
from saved_results import make_folder, make_result
from test_evaluation import counted, counting_model
from test_evaluation import data as counted_data

from hr_keras import datasets, error_bounds, evaluation, metrics
from hr_keras._core import examples as examples_module
from hr_keras.attacks import FGSM, Noise
from hr_keras.experiments import measure
from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.result import Accuracy


def measure_terms(model, images, labels):
    return measure.measure_error_terms(model, "test", images, labels, measure.UPPER_ALPHAS)


def test_terms_are_made_of_stored_images_part_by_part(cnn, digits, monkeypatch):
    """As uint8 they are a quarter of what they are as float32: never all of them at once."""
    images, labels = datasets.load("mnist10k", dtype=None).test
    images, labels = images[:100], labels[:100]
    whole = measure_terms(cnn, digits.test.images[:100], labels)
    sizes, log_probabilities = [], evaluation.log_probabilities

    def seen(model, part):
        sizes.append((len(part), part.dtype.name))
        return log_probabilities(model, part)

    monkeypatch.setattr(measure, "_PART", 40)
    monkeypatch.setattr(evaluation, "log_probabilities", seen)
    parts = measure_terms(cnn, images, labels)
    assert sizes == [(40, "float32"), (40, "float32"), (20, "float32")]
    assert parts.error == whole.error
    for (alpha, one), (_, other) in zip(parts.divergence, whole.divergence, strict=True):
        assert one == pytest.approx(other, rel=1e-4), alpha


def test_the_terms_of_a_real_model_obey_the_bounds_and_agree_with_the_metrics(cnn, digits):
    images, labels = digits.test.images[:500], digits.test.labels[:500]
    terms = measure_terms(cnn, images, labels)
    predicted = cnn.predict(images, verbose=0)
    assert terms.error == np.mean(predicted.argmax(axis=-1) != labels)
    assert terms.uncertainty == pytest.approx(1 - predicted.max(axis=-1).mean(), abs=1e-5)
    for alpha, divergence in terms.divergence:
        bound = float(error_bounds.upper_bound(np.float64(terms.entropy), divergence, alpha))
        assert terms.error <= bound
        if alpha <= 2:  # beyond, the metric's clipped probabilities show
            metric = metrics.ErrorBound(alpha)
            metric.update_state(labels, predicted)
            assert float(metric.result()) == pytest.approx(bound, rel=1e-3)
    divergences = [divergence for _, divergence in terms.divergence]
    assert divergences == sorted(divergences)
    share = terms.label_smoothing
    assert terms.smoothed_error == pytest.approx((1 - share) * terms.error + share * 0.9)
    for alpha, divergence in terms.reversed_divergence:
        low = float(error_bounds.lower_bound(np.float64(terms.entropy), divergence, alpha, 10))
        assert 0 < low <= terms.smoothed_error


def test_confusion_matrices_cost_their_attacks_and_one_clean_pass():
    model, split = counting_model(), datasets.Split(*counted_data())
    protocol = from_preset("quick")
    rows, cost = counted(lambda: measure.measure_confusions(protocol, model, split))
    assert (cost["forward"], cost["backward"]) == (1 + 4 * 2, 4)
    assert [(row.through, row.epsilon) for row in rows] == [
        ("none", 0.0),
        *((route, epsilon) for route in ("logits", "probabilities") for epsilon in (0.1, 0.25)),
    ]
    for row in rows:
        route = "logits" if row.through == "none" else row.through
        adversarial = FGSM(row.epsilon, "ce", route)(model, *split)
        expected = evaluation.confusion_matrix(model, adversarial, split.labels)
        np.testing.assert_allclose(row.matrix, expected, atol=1e-9)


def test_a_stronger_attack_is_made_once_at_each_size(cnn, digits, tmp_path, monkeypatch):
    clean = Accuracy("test", "none", "none", 0.0, len(digits.test.images), 0.9)
    folder = make_folder(tmp_path, [make_result("ce", 0, [clean])], dataset="mnist10k")
    cnn.save(folder.model_path("ce", 0))
    made, make_attack = [], measure.make_attack

    def seen(name, epsilon):
        made.append(epsilon)
        return make_attack(name, epsilon)

    monkeypatch.setattr(measure, "make_attack", seen)
    measure.measure_attack(folder, "noise", 20)
    measure.measure_attack(folder, "noise", 20, epsilons=(0.3, 0.1))
    assert made == [0.1, 0.25, 0.3]
    accuracies = folder.read_result("ce", 0).accuracies
    assert [(one.attack, one.epsilon, one.examples) for one in accuracies[1:]] == [
        ("none", 0.0, 20),
        ("noise", 0.1, 20),
        ("noise", 0.25, 20),
        ("noise", 0.3, 20),
    ]
    with pytest.raises(ValueError, match="greater than 0"):
        measure.measure_attack(folder, "noise", 20, epsilons=(0.0,))


def test_the_devices_of_the_strategy_share_a_stronger_attack(cnn, tmp_path, monkeypatch):
    clean, used, attempt = Accuracy("test", "none", "none", 0.0, 1000, 0.9), set(), Noise.attempt
    protocol = {"dataset": "mnist10k", "strategy": "mirrored"}
    folder = make_folder(tmp_path, [make_result("ce", 0, [clean])], **protocol)
    cnn.save(folder.model_path("ce", 0))

    def recording(*arguments):
        used.add(tf.identity(0.0).device)
        return attempt(*arguments)

    monkeypatch.setattr(Noise, "attempt", recording)
    monkeypatch.setattr(examples_module, "CHUNK", 1)  # 256 examples
    measure.measure_attack(folder, "noise", 300, epsilons=(0.1,))
    assert len(used) == 2
