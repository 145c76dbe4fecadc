"""Every method trains; `ce_scaled` is CE with more confidence and nothing else."""

import itertools
import subprocess
import sys
import typing

import keras
import numpy as np
import pytest
from conftest import linear_model

from hr_keras import datasets, evaluation, losses, models, training
from hr_keras._core.logits import classifier_output
from hr_keras.attacks import FGSM, PGD
from hr_keras.audit.load import load_model
from hr_keras.experiments import fit
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.logit_scale import scale_logits
from hr_keras.experiments.methods import LOGIT_FACTOR, METHODS, get_method
from hr_keras.experiments.protocol import Model, from_preset


@pytest.mark.parametrize("name", typing.get_args(Model))
def test_the_logits_of_every_model_of_an_experiment_are_known(name):
    """So that no number in a table of an experiment needs the mark of those that are not."""
    model = getattr(models, name)(input_shape=(28, 28, 1), num_classes=10)
    assert classifier_output(model).kind == "softmax"
    assert classifier_output(getattr(models, name)(classifier_activation=None)).kind == "logits"


EXPECTED = {
    "ce": (keras.losses.SparseCategoricalCrossentropy, {}),
    "hr": (losses.HRLoss, {"alpha": 2.5}),
    "ce_entropy": (losses.EntropyRegularizedCrossEntropy, {"weight": 1.0}),
    "renyi": (losses.RenyiLoss, {"alpha": 2.5}),
    "confidence_penalty": (losses.EntropyRegularizedCrossEntropy, {"weight": -0.1}),
    "label_smoothing": (losses.SmoothedCrossEntropy, {"smoothing": 0.1}),
    "focal": (losses.FocalCrossEntropy, {"gamma": 2.0}),
    "gce": (losses.GeneralizedCrossEntropy, {"order": 0.7}),
    "rce": (losses.ReverseCrossEntropy, {}),
    "ce_scaled": (keras.losses.SparseCategoricalCrossentropy, {}),
    "ce_step": (keras.losses.SparseCategoricalCrossentropy, {}),
} | {
    f"{name}{inside}": (kind, arguments)
    for name in ("fgsm_rs", "pgd_at", "trades")
    for inside, kind, arguments in (
        ("", keras.losses.SparseCategoricalCrossentropy, {}),
        ("_hr", losses.HRLoss, {"alpha": 2.5}),
    )
}


def test_methods_of_adversarial_training_attack_as_they_say():
    protocol = from_preset("quick", train_epsilon=0.2, train_steps=4)
    kinds = {
        "fgsm_rs": (training.AdversarialTraining, 1),
        "pgd_at": (training.AdversarialTraining, 4),
        "trades": (training.TRADES, 4),
    }
    model = linear_model(1.0)
    for name, (kind, steps) in kinds.items():
        for method in (name, f"{name}_hr"):
            robust = get_method(method).wrap_model(model, protocol)
            assert type(robust) is kind
            assert robust.model is model
            assert (robust.attack.epsilon, robust.attack.n_iter) == (0.2, steps)


def test_methods_make_the_losses_that_their_names_say():
    protocol = from_preset("quick", alpha=2.5)
    assert set(EXPECTED) == set(METHODS)
    for name, (kind, arguments) in EXPECTED.items():
        loss = get_method(name).make_loss(protocol)
        assert type(loss) is kind
        assert {key: getattr(loss, key) for key in arguments} == arguments
    assert len({method.label for method in METHODS.values()}) == len(METHODS)


# Machado, Oliveira & Fernandes 2009, severity 1: linear RGB as seen with red-green blindness.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}
TO_XYZ = np.array([[0.412, 0.358, 0.181], [0.213, 0.715, 0.072], [0.019, 0.119, 0.951]])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_can_be_told_apart(sight):
    """CIE L*a*b* distances of 10 and more."""

    def lab(colour):
        rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        x, y, z = TO_XYZ @ np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
        x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for a, b in itertools.combinations(METHODS.values(), 2):
        assert np.linalg.norm(lab(a.colour) - lab(b.colour)) > 10, (a.name, b.name)


@pytest.fixture(scope="module")
def tiny(digits):
    train, validation, test = (datasets.Split(*(a[:200] for a in split)) for split in digits)
    protocol = from_preset(
        "quick", epochs=2, attack_every=9, learning_rate=0.1, methods=("ce", "ce_scaled")
    )
    return protocol, digits._replace(train=train, validation=validation, test=test)


def train(tiny, name, path):
    protocol, data = tiny
    return fit.train_model(protocol, name, 0, data, Checkpoint(path, protocol, name, 0))


def test_a_training_shorter_than_its_warm_up_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"fgsm_rs must .* the 300 steps .*Received: 4 steps"):
        train(tiny, "fgsm_rs", tmp_path / "robust.npz")


@pytest.mark.slow
def test_the_scaled_model_is_the_ce_model_with_its_logits_multiplied(tiny, tmp_path):
    """Also where training resumes after its last epoch, and in a file without code of ours."""
    images, labels = tiny[1].test
    plain = train(tiny, "ce", tmp_path / "ce.npz")
    scaled = train(tiny, "ce_scaled", tmp_path / "scaled.npz")
    again = train(tiny, "ce_scaled", tmp_path / "scaled.npz")
    for a, b in zip(scaled.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    scaled.save(tmp_path / "scaled.keras")
    loaded = load_model(tmp_path / "scaled.keras")
    log_q, log_scaled = (evaluation.log_probabilities(one, images) for one in (plain, loaded))
    np.testing.assert_array_equal(log_q.argmax(axis=-1), log_scaled.argmax(axis=-1))
    gaps, scaled_gaps = (one - one[:, :1] for one in (log_q, log_scaled))
    np.testing.assert_allclose(scaled_gaps, LOGIT_FACTOR * gaps, rtol=1e-9, atol=1e-6)
    attack = PGD(0.1, "margin", n_iter=5)
    np.testing.assert_array_equal(attack(plain, images, labels), attack(loaded, images, labels))
    code = "import sys, keras; keras.models.load_model(sys.argv[1], compile=False)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "scaled.keras"], check=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_which_attacks_the_scale_of_the_logits_changes(classes):
    """Exact FGSM on the margin never; with CE not for two classes; as published, it vanishes.

    With more classes CE weighs the wrong ones by a softmax, which a scale makes sharper.
    """
    images = np.random.default_rng(0).random((50, 2, 2, 3)).astype("float32")
    model = linear_model(1.0) if classes == 3 else two_class_model()
    labels = evaluation.log_probabilities(model, images).argmax(axis=-1)

    def attack(objective, through):
        return FGSM(0.1, objective, through)(model, images, labels)

    before = {objective: attack(objective, "logits") for objective in ("ce", "margin")}
    published = attack("ce", "probabilities")
    scale_logits(model, 2.0**10)
    np.testing.assert_array_equal(attack("margin", "logits"), before["margin"])
    same = (attack("ce", "logits") == before["ce"]).all()
    assert same == (classes == 2)
    assert (published != images).any(axis=(1, 2, 3)).all()
    assert (attack("ce", "probabilities") == images).all(axis=(1, 2, 3)).mean() > 0.9


def two_class_model():
    layers = [keras.layers.Flatten(), keras.layers.Dense(2), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((2, 2, 3)), *layers])
    model.set_weights([np.random.default_rng(0).normal(size=(12, 2)), np.zeros(2)])
    return model


def test_logits_of_another_layer_are_refused():
    inputs = keras.Input((2, 2, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 1)(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(pooled))
    with pytest.raises(ValueError, match=r"Dense layer.*GlobalAveragePooling2D"):
        scale_logits(model, 2.0)
    relu = keras.Sequential([inputs, keras.layers.Flatten(), keras.layers.Dense(3, "relu")])
    with pytest.raises(ValueError, match="Dense layer"):
        scale_logits(relu, 2.0)
