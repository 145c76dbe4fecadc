"""FGSM: closed forms against float64, its ball, its batch."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from attack_cases import MODEL, images_and_labels
from conftest import linear_model
from hypothesis import given
from hypothesis import strategies as st

from hr_keras import evaluation
from hr_keras.attacks import FGSM
from hr_keras.models import logits_model

UNBOUNDED = (-1e9, 1e9)


@pytest.mark.parametrize("name", ["ce", "hr"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_sign_equals_float64_differentiation_however_saturated(name, scale):
    """Logits × 1000: float32 automatic differentiation gets signs wrong or loses them."""
    images, labels = images_and_labels()
    model = linear_model(scale)
    direction = FGSM(1.0, name, bounds=UNBOUNDED)(model, images, labels) - images
    kernel, bias = (weight.astype("float64") for weight in model.get_weights())
    for image, label, step in zip(images, labels, direction, strict=True):
        logits = image.reshape(-1).astype("float64") @ kernel + bias
        if scale == 1.0:
            expected = kernel @ reference.logit_gradient(name, logits, label)
        else:  # in the limit only the strongest other class is left
            other = np.where(np.arange(3) == label, -np.inf, logits).argmax()
            expected = kernel[:, other] - kernel[:, label]
        np.testing.assert_array_equal(np.sign(step.reshape(-1)), np.sign(expected))


@pytest.mark.parametrize("name", ["ce", "hr"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sign_equals_float64_differentiation_of_a_deep_model(name, scale):
    """A convolution, tanh and two dense layers, evaluated and differentiated in float64."""
    images, _ = images_and_labels(20, (8, 8, 1))

    def build(dtype):
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((8, 8, 1), dtype=dtype),
                layers.Conv2D(6, 3, activation="tanh", dtype=dtype),
                layers.Flatten(dtype=dtype),
                layers.Dense(16, activation="tanh", dtype=dtype),
                layers.Dense(5, dtype=dtype),
            ]
        )

    keras.utils.set_random_seed(0)
    model, exact = build("float32"), build("float64")
    *first, kernel, bias = model.get_weights()
    model.set_weights([*first, 10 * scale * kernel, bias])
    exact.set_weights(model.get_weights())
    labels = model(images).numpy().argmax(axis=-1)
    x = tf.constant(images, "float64")
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = exact(x)
        output = tf.stop_gradient(
            np.array(
                [
                    reference.logit_gradient(name, z, label)
                    for z, label in zip(logits.numpy(), labels, strict=True)
                ]
            )
        )
        value = tf.reduce_sum(logits * output)
    expected = tape.gradient(value, x).numpy()
    step = FGSM(0.1, name)(model, images, labels) - images
    clear = np.abs(expected) > 1e-5 * np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.sign(step)[clear], np.sign(expected)[clear])


def test_saturated_half_precision_models_are_attacked_through_both_objectives():
    """The factor beside ℓ, as large as the logit gap, would overflow in float16."""
    images, _ = images_and_labels(20, (8, 8, 1))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, "relu", dtype="mixed_float16"),
            keras.layers.Dense(5, dtype="mixed_float16"),
        ]
    )
    *first, kernel, bias = model.get_weights()
    model.set_weights([*first, 3000 * kernel, bias])
    labels = model(images).numpy().argmax(axis=-1)
    result = evaluation.sweep(model, images, labels, epsilons=(0.1,))
    assert result.zero_gradient_share == {"ce": 0.0, "hr": 0.0}
    for objective in ("ce", "hr"):
        assert (FGSM(0.1, objective)(model, images, labels) != images).mean() > 0.5


def test_closed_form_on_a_linear_model():
    """x' = x + ε·sign(w_k − w_y) for two classes; robust iff margin > ε‖w_y − w_k‖₁."""
    generator = np.random.default_rng(2)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")])
    kernel, bias = generator.normal(size=(6, 2)).astype("float32"), np.zeros(2, "float32")
    model.set_weights([kernel, bias])
    images = generator.normal(size=(200, 6)).astype("float32")
    labels = generator.integers(2, size=200)
    w = kernel[:, 1 - labels].T - kernel[:, labels].T
    margin = -(images * w).sum(axis=1)
    for name in ("ce", "hr"):
        for epsilon in (0.05, 0.3):
            adversarial = FGSM(epsilon, name, bounds=UNBOUNDED)(model, images, labels)
            np.testing.assert_array_equal(adversarial, images + np.float32(epsilon) * np.sign(w))
            result = evaluation.sweep(model, images, labels, name, (epsilon,), bounds=UNBOUNDED)
            robust = margin > epsilon * np.abs(w).sum(axis=1)
            np.testing.assert_array_equal(result.correct[0, 0], robust)
            assert 0 < robust.mean() < 1


@given(st.floats(0, 0.5), st.integers(0, 1000))
def test_adversarial_images_stay_in_the_ball_and_the_bounds(epsilon, seed):
    images = np.random.default_rng(seed).random((3, 2, 2, 3)).astype("float32")
    adversarial = FGSM(epsilon)(MODEL, images, [0, 1, 2])
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert np.abs(adversarial - images).max() <= epsilon + 1e-7


def test_batch_mates_never_matter(cnn, digits):
    images, labels = digits.test.images[:50], digits.test.labels[:50]
    together = FGSM(0.1)(cnn, images, labels)
    for size in (1, 7, 50):
        apart = FGSM(0.1, batch_size=size)(cnn, images, labels)
        # a convolution may round differently in another batch shape, a wrong sign is seen at once
        assert (apart != together).mean() < 1e-3
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(FGSM(0.1)(cnn, images[order], labels[order]), together[order])
    labels_changed = labels.copy()
    labels_changed[1:] = (labels[1:] + 1) % 10
    np.testing.assert_array_equal(FGSM(0.1)(cnn, images, labels_changed)[0], together[0])


def test_sweep_is_one_call_an_epsilon(cnn, digits):
    images, labels = digits.test.images[:30], digits.test.labels[:30]
    swept = FGSM(0.1, "hr").sweep(cnn, images, labels, (0.0, 0.1, 0.25))
    assert swept.shape == (3, *images.shape)
    np.testing.assert_array_equal(swept[0], images)
    for epsilon, adversarial in zip((0.1, 0.25), swept[1:], strict=True):
        np.testing.assert_array_equal(FGSM(epsilon, "hr")(cnn, images, labels), adversarial)


def test_targeted_images_move_towards_their_class():
    images, _ = images_and_labels()
    targets = np.full(len(images), 2)
    before = logits_model(MODEL)(images).numpy()
    after = logits_model(MODEL)(FGSM(0.2, targeted=True)(MODEL, images, targets)).numpy()
    gain = reference.log_softmax(after)[:, 2] - reference.log_softmax(before)[:, 2]
    assert (gain > 0).all()
    away = FGSM(0.2)(MODEL, images, targets)
    np.testing.assert_allclose(
        away + FGSM(0.2, targeted=True)(MODEL, images, targets), 2 * images, atol=1e-6
    )


def test_label_kinds_agree_and_soft_labels_are_differentiated(linear):
    images, labels = images_and_labels()
    expected = FGSM(0.1, "hr")(linear, images, labels)
    for kind in (labels[:, None], labels.astype("float64"), np.eye(3)[labels]):
        np.testing.assert_array_equal(FGSM(0.1, "hr")(linear, images, kind), expected)
    soft = np.random.default_rng(0).dirichlet(np.ones(3), size=len(images))
    kernel, bias = (weight.astype("float64") for weight in linear.get_weights())
    q = reference.softmax(images.reshape(len(images), -1) @ kernel + bias)
    sign = np.sign((q - soft) @ kernel.T).reshape(images.shape)
    step = FGSM(0.1)(linear, images, soft) - images
    np.testing.assert_array_equal(np.sign(step), sign)
    # a row that is one class is attacked exactly whatever its batch-mates are
    mixed = soft.copy()
    mixed[0] = [0, 1, 0]
    np.testing.assert_array_equal(
        FGSM(0.1)(linear_model(1000.0), images, mixed)[0],
        FGSM(0.1)(linear_model(1000.0), images[:1], [1])[0],
    )


def test_a_gradient_that_is_no_number_leaves_the_image_alone():
    def nan_gradient(labels, logits):
        return tf.sqrt(logits[:, 0] * 0.0)

    images, labels = images_and_labels()
    np.testing.assert_array_equal(FGSM(0.1, nan_gradient)(MODEL, images, labels), images)


def test_soft_labels_that_sum_to_almost_one_are_normalised():
    images, labels = images_and_labels()
    almost = 0.9995 * np.eye(3)[labels]
    saturated = linear_model(1000.0)
    np.testing.assert_array_equal(
        FGSM(0.1)(saturated, images, almost), FGSM(0.1)(saturated, images, labels)
    )
