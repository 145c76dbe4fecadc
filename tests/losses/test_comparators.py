"""The losses that HR is compared with: each has the contract of `HRLoss`, and its own formula."""

import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import linear_model, mirrored
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_keras import HRLoss, losses


def mean_of(per_example):
    """The loss of a batch from a reference for each example."""

    def loss(p, logits, weights):
        return reference.normalized(weights, len(p)) @ per_example(p, logits)

    return loss


def regularized(weight):
    def per_example(p, logits):
        log_q = reference.log_softmax(logits)
        return reference.cross_entropy(p, log_q) + weight * reference.entropies(log_q)

    return mean_of(per_example)


# Class, arguments, reference `(p, logits, weights) -> scalar`.
CASES = {
    "renyi": (
        losses.RenyiLoss, {"alpha": 2.5},
        lambda p, z, w: reference.renyi(p, reference.log_softmax(z), 2.5, w),
    ),
    "ce + entropy": (losses.EntropyRegularizedCrossEntropy, {"weight": 0.7}, regularized(0.7)),
    "penalty": (losses.EntropyRegularizedCrossEntropy, {"weight": -0.3}, regularized(-0.3)),
    "smoothed": (
        losses.SmoothedCrossEntropy, {"smoothing": 0.2},
        mean_of(lambda p, z: reference.smoothed(p, z, 0.2)),
    ),
    "focal": (
        losses.FocalCrossEntropy, {"gamma": 2.0}, mean_of(lambda p, z: reference.focal(p, z, 2)),
    ),
    "focal, γ < 1": (
        losses.FocalCrossEntropy, {"gamma": 0.5}, mean_of(lambda p, z: reference.focal(p, z, 0.5)),
    ),
    "generalized": (
        losses.GeneralizedCrossEntropy, {"order": 0.7},
        mean_of(lambda p, z: reference.generalized(p, z, 0.7)),
    ),
    "reverse": (losses.ReverseCrossEntropy, {}, mean_of(reference.reverse)),
}  # fmt: skip

every_loss = pytest.mark.parametrize("name", CASES)
problems = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))


def make(name, **arguments):
    kind, own, _ = CASES[name]
    return kind(**own, **arguments)


def draw(problem):
    seed, n, classes = problem
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(n, classes))
    soft = generator.dirichlet(np.ones(classes), size=n)
    return logits, generator.integers(classes, size=n), soft, generator.exponential(size=n)


def value_and_gradient(loss, y_true, y_pred, sample_weight=None):
    y_pred = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(y_true, y_pred, sample_weight)
    return float(value), tape.gradient(value, y_pred).numpy()


@every_loss
@given(problem=problems)
@settings(max_examples=6)
def test_value_and_gradient_equal_the_reference(name, problem):
    logits, labels, soft, weights = draw(problem)
    loss, expected = make(name, from_logits=True, dtype="float64"), CASES[name][2]
    hard = reference.one_hot(labels, logits.shape[1])
    for y_true, p in ((labels, hard), (hard, hard), (soft, soft)):
        for w in (None, weights):
            value, gradient = value_and_gradient(loss, y_true, logits, w)
            assert value == pytest.approx(expected(p, logits, w), rel=1e-9, abs=1e-9)
            slow = reference.gradient(lambda z, p=p, w=w: expected(p, z, w), logits)
            np.testing.assert_allclose(gradient, slow, rtol=1e-5, atol=1e-8)
    one = loss.call(labels, logits)
    alone = [expected(hard[i : i + 1], logits[i : i + 1], None) for i in range(len(labels))]
    np.testing.assert_allclose(one, alone, rtol=1e-9, atol=1e-9)
    probabilities = make(name, dtype="float64")(soft, reference.softmax(logits), weights)
    assert float(probabilities) == pytest.approx(expected(soft, logits, weights), rel=1e-3)


@every_loss
def test_integer_weights_are_repeated_rows_and_masks_take_rows_out(name):
    logits, labels, _, _ = draw((0, 5, 3))
    counts = np.array([2, 0, 1, 3, 0])
    rows = np.repeat(np.arange(5), counts)
    loss = make(name, from_logits=True, dtype="float64")
    value, gradient = value_and_gradient(loss, labels, logits, counts)
    repeated, rows_gradient = value_and_gradient(loss, labels[rows], logits[rows])
    assert value == pytest.approx(repeated, rel=1e-12)
    summed = np.zeros_like(gradient)
    np.add.at(summed, rows, rows_gradient)
    np.testing.assert_allclose(gradient, summed, rtol=1e-9, atol=1e-12)
    masked = tf.constant(logits)
    masked._keras_mask = tf.constant(counts > 0)
    assert float(loss(labels, masked, counts)) == pytest.approx(value, rel=1e-12)
    value, gradient = value_and_gradient(loss, labels, logits, np.zeros(5))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_label_smoothing_focal_and_generalized_cross_entropy_are_those_of_keras():
    """Which have no sparse labels for the first two, and no logits for the third."""
    logits, labels, soft, _ = draw((1, 5, 4))
    keras_losses, q = keras.losses, reference.softmax(logits)
    for y_true, p in ((labels, reference.one_hot(labels, 4)), (soft, soft)):
        for ours, theirs in (
            ("smoothed", keras_losses.CategoricalCrossentropy(True, 0.2, dtype="float64")),
            ("focal", keras_losses.CategoricalFocalCrossentropy(1.0, 2.0, True, dtype="float64")),
        ):
            found = make(ours, from_logits=True, dtype="float64")(y_true, logits)
            assert float(found) == pytest.approx(float(theirs(p, logits)), rel=1e-6)
    theirs = keras_losses.CategoricalGeneralizedCrossEntropy(0.7, dtype="float64")
    found = make("generalized", from_logits=True, dtype="float64")(labels, logits)
    assert float(found) == pytest.approx(float(theirs(labels, q)), rel=1e-9)


def test_limits():
    logits, labels, soft, weights = draw((2, 6, 3))
    float64 = {"from_logits": True, "dtype": "float64"}

    def value(kind, *arguments, y_true=labels):
        return float(kind(*arguments, **float64)(y_true, logits, weights))

    log_q = reference.log_softmax(logits)
    cross_entropies = -log_q[np.arange(6), labels]
    expected = reference.normalized(weights, 6) @ cross_entropies
    for kind, *arguments in (
        (losses.RenyiLoss, 1 + 1e-9), (losses.EntropyRegularizedCrossEntropy, 0.0),
        (losses.SmoothedCrossEntropy, 0.0), (losses.FocalCrossEntropy, 0.0),
        (losses.GeneralizedCrossEntropy, 1e-9),
    ):  # fmt: skip
        assert value(kind, *arguments) == pytest.approx(expected, rel=1e-6), kind
    assert value(losses.RenyiLoss, 1e6) == pytest.approx(cross_entropies.max(), rel=1e-4)
    entropy = reference.normalized(weights, 6) @ reference.entropies(log_q)
    limit = value(losses.EntropyRegularizedCrossEntropy, 1.0)
    assert value(HRLoss, 1 + 1e-9) == pytest.approx(limit, rel=1e-6)
    for y_true in (labels, soft):
        difference = value(HRLoss, 1.6, y_true=y_true) - value(losses.RenyiLoss, 1.6, y_true=y_true)
        assert difference == pytest.approx(entropy, rel=1e-9)


def test_with_two_classes_reverse_cross_entropy_is_cross_entropy():
    logits, labels, soft, weights = draw((3, 5, 2))
    found = losses.ReverseCrossEntropy(from_logits=True, dtype="float64")
    plain = losses.EntropyRegularizedCrossEntropy(0.0, from_logits=True, dtype="float64")
    for y_true in (labels, soft):
        expected = float(plain(y_true, logits, weights))
        assert float(found(y_true, logits, weights)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@every_loss
def test_extreme_logits_stay_finite_and_float32_keeps_its_digits(name, scale):
    logits = (scale * np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 1]])).astype("float32")
    value, gradient = value_and_gradient(make(name, from_logits=True), [0, 0, 0], logits)
    assert np.isfinite(gradient).all()
    if scale <= 100:  # the slow references underflow beyond
        p = reference.one_hot([0, 0, 0], 3)
        assert value == pytest.approx(CASES[name][2](p, logits, None), rel=1e-5)
    else:
        assert math.isfinite(value)


def test_a_certain_and_right_decision_keeps_the_digits_of_its_reverse_cross_entropy():
    """log 9 where the logits of the wrong classes are equal; the label's own is at 1e6."""
    logits = np.full((1, 10), -1e6, "float32")
    logits[0, 3] = 1e6
    value = losses.ReverseCrossEntropy(from_logits=True)([3], logits)
    assert float(value) == pytest.approx(math.log(9), rel=1e-6)


@every_loss
def test_half_precision_has_a_float32_loss_and_wrong_labels_make_nan(name):
    logits = tf.constant([[60.0, 0.0, 1.0]], tf.float16)
    value = make(name, from_logits=True)([2], logits)
    p = reference.one_hot([2], 3)
    assert value.dtype == "float32"
    expected = CASES[name][2](p, logits.numpy().astype("float64"), None)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    for label in (3, -1, 0.5):
        assert math.isnan(make(name, from_logits=True)(np.array([label]), np.zeros((1, 3))))


@pytest.mark.parametrize("name", ["renyi", "penalty"])  # a functional of the batch, and a mean
def test_replicas_train_the_model_that_one_device_trains(name):
    """An uneven last batch, weights of which some are zero."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(31, 2, 2, 3)).astype("float32")
    labels, weights = generator.integers(3, size=31), generator.integers(0, 3, size=31)
    trained = []
    for strategy in (tf.distribute.get_strategy(), mirrored(2)):
        with strategy.scope():
            model = linear_model(0.5)
            eager = strategy.num_replicas_in_sync == 1
            model.compile(keras.optimizers.SGD(0.3), loss=make(name), run_eagerly=eager)
        history = model.fit(
            images, labels, 12, sample_weight=weights, shuffle=False, verbose=0
        ).history
        trained.append([*model.get_weights(), np.array(history["loss"])])
    for one, many in zip(*trained, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)


def test_a_model_trained_on_reverse_cross_entropy_predicts_by_argmax(digits):
    images, labels = digits.train.images[:500], digits.train.labels[:500]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.SGD(0.3), loss=make("reverse"), metrics=["accuracy"])
    history = model.fit(images, labels, epochs=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > 0.75


def test_configs_hold_every_argument_and_saved_models_load(tmp_path, linear):
    paths = []
    for name, (kind, own, _) in CASES.items():
        loss = kind(**own, from_logits=True, reduction="mean", name="mine", dtype="bfloat16")
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        assert type(again) is kind
        assert again.get_config() == loss.get_config()
        assert {key: getattr(again, key) for key in own} == own
        assert (again.from_logits, again.name, again.dtype) == (True, "mine", "bfloat16")
        linear.compile("sgd", loss=make(name))
        paths.append(str(tmp_path / f"{len(paths)}.keras"))
        linear.save(paths[-1])
    code = (
        "import sys, keras, hr_keras.losses\n"
        "for path in sys.argv[1:]: print(type(keras.models.load_model(path).loss).__name__)"
    )
    command = [sys.executable, "-c", code, *paths]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == [kind.__name__ for kind, _, _ in CASES.values()]


@pytest.mark.parametrize(
    ("kind", "argument", "value", "expected"),
    [
        (losses.RenyiLoss, "alpha", 1.0, "greater than 1"),
        (losses.EntropyRegularizedCrossEntropy, "weight", math.nan, "a finite number"),
        (losses.EntropyRegularizedCrossEntropy, "weight", "1", "a finite number"),
        (losses.SmoothedCrossEntropy, "smoothing", 1.1, "at least 0 and at most 1"),
        (losses.FocalCrossEntropy, "gamma", -0.1, "at least 0"),
        (losses.GeneralizedCrossEntropy, "order", 0.0, "greater than 0 and at most 1"),
        (losses.ReverseCrossEntropy, "reduction", "sum", "sum_over_batch_size"),
    ],
)
def test_bad_arguments_are_refused(kind, argument, value, expected):
    with pytest.raises(ValueError, match=f"`{argument}` must be.*{expected}.*{argument}={value!r}"):
        kind(**{argument: value})
