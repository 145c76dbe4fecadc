"""Objectives: directions, scores, the published pipeline, losses of Keras."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from attack_cases import MODEL, images_and_labels
from conftest import linear_model
from hypothesis import given
from hypothesis import strategies as st

from hr_keras import HRLoss, evaluation
from hr_keras.attacks import FGSM, objectives
from hr_keras.models import logits_model


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from([0.1, 1.0, 8.0]))
def test_surrogates_have_the_direction_of_their_objectives(seed, classes, scale):
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=classes)
    label = int(generator.integers(classes))
    for name in ("ce", "hr"):
        z = tf.constant(logits[None])
        with tf.GradientTape() as tape:
            tape.watch(z)
            surrogate = objectives.get(name).through("logits", tf.constant([label]), z)
        ours = tape.gradient(surrogate, z).numpy()[0]
        expected = reference.logit_gradient(name, logits, label)
        np.testing.assert_allclose(ours / np.abs(ours).max(), expected, atol=1e-7)


def float64_value(name, logits, label):
    log_q = reference.log_softmax(logits)
    q = np.exp(log_q)
    if name in ("margin", "dlr"):
        value = np.delete(logits, label).max() - logits[label]
        ordered = np.sort(logits)[::-1]
        return value if name == "margin" else value / (ordered[0] - ordered[2])
    # what is missing from 1 without cancellation
    error = np.exp(np.delete(log_q, label)).sum()
    value = -np.log1p(-error) if error < 0.5 else -log_q[label]
    if name == "hr":
        rest = q[q > 0] * -log_q[q > 0]
        rest_of_label = q[label] * value
        value = value + rest.sum() - q[label] * -log_q[label] + rest_of_label
    return value


@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.sampled_from([0.1, 1.0, 8.0, 20.0]))
def test_scores_rise_with_their_objectives(seed, classes, scale):
    """In float32, where the objectives themselves round to 0."""
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(8, classes))
    for name in ("ce", "hr", "margin", "dlr"):
        labels = np.full(8, 1)
        scores = objectives.get(name).score(
            "logits", tf.constant(labels), tf.constant(logits, "float32")
        )
        values = np.array([float64_value(name, row, 1) for row in logits])
        order = np.argsort(values)
        gaps = np.diff(values[order]) > 1e-4 * np.abs(values[order][1:])
        assert (np.diff(scores.numpy()[order])[gaps] > 0).all()


def test_dlr_by_hand_and_where_there_are_too_few_classes():
    logits = tf.constant([[4.0, 1.0, 3.0, 0.0]])
    assert objectives.dlr(tf.constant([0]), logits).numpy() == pytest.approx([-1 / 3])
    assert objectives.dlr(tf.constant([2]), logits).numpy() == pytest.approx([1 / 3])
    towards = objectives.targeted_dlr(tf.constant([0]), tf.constant([3]), logits)
    assert towards.numpy() == pytest.approx([-4 / 3.5])
    two, three = logits[:, :2], logits[:, :3]
    assert objectives.dlr(tf.constant([0]), two).numpy() == pytest.approx([-3])
    towards = objectives.targeted_dlr(tf.constant([0]), tf.constant([1]), three)
    assert towards.numpy() == pytest.approx([-3])


def test_the_published_pipeline_loses_the_gradient_where_the_closed_form_keeps_it():
    images, _ = images_and_labels()
    model = linear_model(1000.0)
    logits = np.sort(logits_model(model)(images).numpy(), axis=-1)
    saturated = logits[:, -1] - logits[:, -2] > 16.2
    labels = model(images).numpy().argmax(axis=-1)
    exact = evaluation.sweep(model, images, labels, through="logits")
    published = evaluation.sweep(model, images, labels, through="probabilities")
    np.testing.assert_array_equal(published.zero_gradient, [saturated, saturated])
    assert saturated.mean() > 0.9
    assert exact.zero_gradient_share == {"ce": 0.0, "hr": 0.0}
    assert published.accuracy["ce", 0.25] >= saturated.mean() > exact.accuracy["ce", 0.25]


@pytest.mark.parametrize("gap", [15.5, 16.7])
def test_the_published_gradient_is_zero_from_a_gap_of_16_on(gap):
    z = tf.constant([[gap, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = objectives.get("ce").through("probabilities", tf.constant([0]), z)
    assert (tape.gradient(value, z).numpy() == 0).all() == (gap > 16)


def test_plain_differentiation_is_had_by_passing_a_loss(cnn, digits):
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    logits = logits_model(cnn)
    x = tf.constant(images)
    for plain in (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(),
        lambda y, z: tf.nn.sparse_softmax_cross_entropy_with_logits(y, z),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(x))
        expected = np.clip(images + np.float32(0.1) * np.sign(tape.gradient(value, x)), 0, 1)
        adversarial = FGSM(0.1, plain)(cnn, images, labels)
        assert (adversarial != expected).mean() < 1e-3  # signs of numbers at rounding's edge
        assert (adversarial == images).mean() < 0.9
    # on a model that is not saturated the closed form is the same attack
    closed = FGSM(0.1)(cnn, images, labels)
    assert (closed != expected).mean() < 2e-3


def test_hr_loss_as_objective_is_the_hr_attack(cnn, digits):
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    by_loss = FGSM(0.1, HRLoss())(cnn, images, labels)
    by_name = FGSM(0.1, "hr")(cnn, images, labels)
    assert (by_loss != by_name).mean() < 2e-3
    assert (by_name != FGSM(0.1, "ce")(cnn, images, labels)).mean() > 2e-3


def test_every_loss_of_keras_can_be_an_objective_and_loss_functions_are_refused():
    """Class numbers or one row a class, whatever the loss wants."""
    images, labels = images_and_labels(4)
    expected = FGSM(0.1)(MODEL, images, labels)
    one_hot = np.eye(3, dtype="float32")[labels]
    for loss in (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(),
        keras.losses.KLDivergence(),
        keras.losses.MeanSquaredError(),
    ):
        adversarial = FGSM(0.1, loss)(MODEL, images, labels)
        np.testing.assert_array_equal(FGSM(0.1, loss)(MODEL, images, one_hot), adversarial)
        if not isinstance(loss, keras.losses.MeanSquaredError):
            assert (adversarial == expected).mean() > 0.9
    with pytest.raises(ValueError, match="pass an instance of the class"):
        FGSM(0.1, keras.losses.sparse_categorical_crossentropy)


def test_objectives_that_return_one_number_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        FGSM(0.1, lambda y, z: tf.reduce_mean(z))(MODEL, *images_and_labels(4))
