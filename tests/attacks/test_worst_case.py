"""WorstCase and its presets."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import fooled

from hr_keras import evaluation
from hr_keras.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    MomentumPGD,
    Noise,
    Square,
    WorstCase,
    _perturbation,
    fast,
    standard,
)
from hr_keras.attacks._task import is_correct
from hr_keras.attacks.worst_case import ATTACK_NAMES, make_attack


def test_worst_case_is_all_its_attacks_and_their_order_does_not_matter(cnn, digits):
    images, labels = digits.test.images[:60], digits.test.labels[:60]
    attacks = [FGSM(0.08), PGD(0.08, n_iter=5), Square(0.08, n_queries=40)]
    one_by_one = evaluation.robust_accuracy(cnn, images, labels, attacks)
    forth, back = WorstCase(attacks, name="forth"), WorstCase(attacks[::-1], name="back")
    both = evaluation.robust_accuracy(cnn, images, labels, [forth, back])
    # the last bits of a convolution depend on the number of examples
    for robust in both.withstood.values():
        assert (robust != one_by_one.robust).sum() <= 1
    assert one_by_one.worst_case <= min(one_by_one.per_attack.values())
    assert max(one_by_one.per_attack.values()) <= one_by_one.clean
    adversarial = forth(cnn, images, labels)
    assert np.abs(adversarial - images).max() <= 0.08 + 1e-6
    still = ~fooled(cnn, adversarial, labels)
    assert (still != both.withstood["forth"]).sum() <= 1
    np.testing.assert_array_equal(adversarial[still], images[still])


def test_presets_are_at_least_as_strong_as_their_parts(cnn, digits):
    images, labels = digits.test.images[:12], digits.test.labels[:12]
    preset = fast(0.1)
    result = evaluation.robust_accuracy(cnn, images, labels, [preset, *preset.attacks])
    assert result.per_attack["fast_0.1"] == result.worst_case
    names = [attacker.name for attacker in standard(0.5, norm="l2").attacks]
    assert names == [
        "apgd_ce_l2_0.5",
        "apgd_targeted_dlr_l2_0.5",
        "fab_targeted_l2_0.5",
        "square_margin_l2_0.5",
    ]
    assert standard(0.5, norm="l2").name == "standard_l2_0.5"


def test_the_standard_attack_has_the_published_numbers_of_steps():
    ce, targeted, boundary, square = standard(0.1).attacks
    assert [each.n_iter for each in (ce, targeted, boundary, square)] == [100, 100, 100, 5000]
    assert [each.n_restarts for each in (ce, targeted, boundary, square)] == [1, 1, 1, 1]
    assert (targeted.n_targets, boundary.n_targets, square.p_init) == (9, 9, 0.8)
    assert not square.rescale_schedule
    assert {each.seed for each in standard(0.1, seed=3).attacks} == {3}


def test_the_named_attacks_are_what_they_are_described_to_be():
    expected = {
        "noise": Noise(0.2, n_draws=100, norm="l2", seed=3),
        "fgsm": PGD(0.2, n_iter=1, step_size=1.0, random_start=False, norm="l2", seed=3),
        "mifgsm": MomentumPGD(0.2, n_iter=10, norm="l2", seed=3),
        "pgd": PGD(0.2, "margin", n_iter=40, n_restarts=2, norm="l2", seed=3),
        "apgd": APGD(0.2, n_iter=100, norm="l2", seed=3),
        "fab": FAB(0.2, n_iter=100, n_targets=9, norm="l2", seed=3),
        "square": Square(0.2, n_queries=5000, norm="l2", seed=3),
        "fast": fast(0.2, "l2", 3),
        "standard": standard(0.2, "l2", 3),
    }
    assert {name: make_attack(name, 0.2, "l2", 3) for name in ATTACK_NAMES} == expected


def unusual_classifier(shape, classes, dtype, bounds, images):
    """A linear one whose logits are about 0 in the middle of the bounds."""
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / bounds[1], dtype=dtype)(inputs)
    x = keras.layers.Flatten(dtype=dtype)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, dtype=dtype)(x))
    kernel = np.random.default_rng(1).normal(size=(int(np.prod(shape)), classes))
    model.set_weights([kernel, -kernel.sum(axis=0) / 2])
    return model, (bounds[1] * np.random.default_rng(0).random((9, *shape))).astype(images)


def classifier_of_light():
    """Its logits are NaN where an image is dark."""
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    dark = keras.ops.sqrt(keras.ops.mean(flat, axis=-1, keepdims=True) - 0.5)
    model = keras.Model(inputs, keras.layers.Dense(3)(flat) + dark)
    return model, np.random.default_rng(0).uniform(0.4, 0.7, (9, 4, 4, 1)).astype("float32")


@pytest.mark.parametrize(
    ("make", "bounds", "norm", "soft"),
    [
        (lambda b: unusual_classifier((13,), 2, "float32", b, "float32"), (0, 1), "l2", False),
        (
            lambda b: unusual_classifier((3, 4, 5, 2), 3, "float32", b, "float32"),
            (0, 1),
            "l2",
            True,
        ),
        (
            lambda b: unusual_classifier((7, 5, 3), 100, "float32", b, "float32"),
            (0, 255),
            "linf",
            True,
        ),
        (
            lambda b: unusual_classifier((6, 6, 3), 4, "mixed_float16", b, "float16"),
            (0, 1),
            "l2",
            False,
        ),
        (lambda b: classifier_of_light(), (0, 1), "linf", False),
    ],
    ids=["two classes of vectors", "frames", "100 classes to 255", "half precision", "NaN"],
)
def test_the_standard_attack_takes_any_classifier(make, bounds, norm, soft):
    """Its images are in the ball, and fool exactly where it says so, whatever the batch."""
    model, images = make(bounds)
    logits = model.predict(images, verbose=0).astype("float32")
    labels = np.where(np.isnan(logits), -np.inf, logits).argmax(axis=-1)
    if soft:
        labels = 0.1 / logits.shape[-1] + 0.9 * np.eye(logits.shape[-1])[labels]
    epsilon = bounds[1] * (0.05 if norm == "linf" else 0.3)
    attacker = WorstCase(
        [
            dataclasses.replace(part, **{"n_queries" if isinstance(part, Square) else "n_iter": 4})
            for part in standard(epsilon, norm, bounds=bounds).attacks
        ]
    )
    robust = [
        evaluation.robust_accuracy(model, images, labels, attacker, batch_size=size).robust
        for size in (2, 100)
    ]
    np.testing.assert_array_equal(robust[1], robust[0])
    adversarial = attacker(model, images, labels)
    withstood = is_correct(model.predict(adversarial, verbose=0), labels)
    np.testing.assert_array_equal(withstood, robust[0])
    assert not robust[0].all()
    moved = adversarial.astype("float32") - images
    size = _perturbation.get(norm).norm(tf.constant(moved)).numpy()
    assert size.max() <= epsilon * (1 + 2e-3)
