import math

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import linear_model
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_keras import HRLoss

problems = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(2, 5),
    st.sampled_from([1.05, 1.6, 2.0, 7.0]),
)


def draw(problem):
    seed, n, classes, alpha = problem
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(n, classes))
    labels = generator.integers(classes, size=n)
    soft = generator.dirichlet(np.ones(classes), size=n)
    weights = generator.exponential(size=n)
    return logits, labels, soft, weights, alpha


def value_and_gradient(loss, y_true, y_pred, sample_weight=None):
    y_pred = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(y_true, y_pred, sample_weight)
    return float(value), tape.gradient(value, y_pred).numpy()


few = settings(max_examples=12)  # of the gradient, in eager code; `information` has more


@few
@given(problems)
def test_value_and_gradient_equal_the_reference(problem):
    logits, labels, soft, weights, alpha = draw(problem)
    loss = HRLoss(alpha=alpha, from_logits=True, dtype="float64")
    hard = reference.one_hot(labels, logits.shape[1])
    for y_true, p, w in ((labels, hard, None), (labels, hard, weights), (soft, soft, weights)):
        value, gradient = value_and_gradient(loss, y_true, logits, w)
        expected = reference.hr(p, reference.log_softmax(logits), alpha, w)
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(
            gradient, reference.hr_gradient(logits, p, alpha, w), rtol=1e-5, atol=1e-8
        )


@few
@given(problems)
def test_probabilities_give_what_their_logits_give(problem):
    logits, labels, _, weights, alpha = draw(problem)
    from_logits = HRLoss(alpha, from_logits=True, dtype="float64")(labels, logits, weights)
    probabilities = reference.softmax(logits)
    from_probabilities = HRLoss(alpha, dtype="float64")(labels, probabilities, weights)
    assert float(from_probabilities) == pytest.approx(float(from_logits), rel=1e-4, abs=1e-5)


@few
@given(problems, st.integers(0, 2**32 - 1))
def test_integer_weights_are_repeated_rows(problem, seed):
    logits, labels, _, _, alpha = draw(problem)
    counts = np.random.default_rng(seed).integers(0, 4, size=len(labels))
    counts[0] += 1
    loss = HRLoss(alpha, from_logits=True, dtype="float64")
    value, gradient = value_and_gradient(loss, labels, logits, counts)
    rows = np.repeat(np.arange(len(labels)), counts)
    repeated, rows_gradient = value_and_gradient(loss, labels[rows], logits[rows])
    assert value == pytest.approx(repeated, rel=1e-12)
    summed = np.zeros_like(gradient)
    np.add.at(summed, rows, rows_gradient)
    np.testing.assert_allclose(gradient, summed, rtol=1e-9, atol=1e-12)


def test_the_expectation_is_inside_the_logarithm():
    logits = np.array([[0.0, 5.0], [3.0, 0.0]])
    labels = np.array([0, 0])
    cross_entropy = -reference.log_softmax(logits)[:, 0]
    entropy = -(reference.softmax(logits) * reference.log_softmax(logits)).sum(axis=1)
    for alpha in (1.6, 4.0):
        inside = math.log(np.mean(np.exp((alpha - 1) * cross_entropy))) / (alpha - 1)
        value = float(HRLoss(alpha, from_logits=True, dtype="float64")(labels, logits))
        assert value == pytest.approx(inside + entropy.mean(), rel=1e-12)
        assert abs(value - (cross_entropy + entropy).mean()) > 0.1  # not plain CE + H


def test_call_gives_each_example_as_a_batch_of_one():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    labels = np.array([0, 1, 2, 0, 1])
    loss = HRLoss(2.5, from_logits=True)
    alone = [float(loss(labels[i : i + 1], logits[i : i + 1])) for i in range(5)]
    np.testing.assert_allclose(loss.call(labels, logits), alone, rtol=1e-6)


def test_label_kinds_and_shapes_agree():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    labels = np.array([2, 0, 1, 1])
    loss = HRLoss(from_logits=True)
    expected = float(loss(labels, logits))
    kinds = [labels[:, None], labels.astype("uint8"), labels.astype("float64"), np.eye(3)[labels]]
    for kind in kinds:
        assert float(loss(kind, logits)) == pytest.approx(expected, rel=1e-6)


def test_weights_of_zero_and_masks_take_examples_out():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    labels = np.array([2, 0, 1, 1])
    loss = HRLoss(from_logits=True)
    expected = float(loss(labels[:2], logits[:2]))
    assert float(loss(labels, logits, [1, 1, 0, 0])) == pytest.approx(expected, rel=1e-6)
    masked = tf.constant(logits)
    masked._keras_mask = tf.constant([True, True, False, False])
    assert float(loss(labels, masked)) == pytest.approx(expected, rel=1e-6)
    assert float(loss(labels, masked, [1, 0, 1, 1])) == pytest.approx(
        float(loss(labels[:1], logits[:1])), rel=1e-6
    )


def test_positions_of_a_sequence_count_as_examples():
    logits = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    labels = np.random.default_rng(1).integers(3, size=(2, 5))
    loss = HRLoss(from_logits=True)
    flat = float(loss(labels.reshape(-1), logits.reshape(-1, 3)))
    assert float(loss(labels, logits)) == pytest.approx(flat, rel=1e-6)
    assert float(loss(np.eye(3)[labels], logits)) == pytest.approx(flat, rel=1e-6)


def test_all_weights_zero_give_zero_loss_and_zero_gradient():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    value, gradient = value_and_gradient(HRLoss(from_logits=True), [0, 1, 2, 0], logits, [0.0] * 4)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("alpha", [1 + 1e-6, 1.6, 50.0])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_extreme_logits_stay_finite(alpha, scale):
    logits = (scale * np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 1]])).astype("float32")
    value, gradient = value_and_gradient(HRLoss(alpha, from_logits=True), [0, 0, 0], logits)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()


def test_probabilities_of_exactly_zero_and_one_stay_finite():
    for label in (0, 1):
        value, gradient = value_and_gradient(HRLoss(), [label], np.array([[1.0, 0.0]], "float32"))
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()


def test_nan_is_never_hidden():
    assert math.isnan(HRLoss(from_logits=True)([0], np.array([[math.nan, 0.0]], "float32")))
    for label in (2, -1, 0.5, 2**32):
        assert math.isnan(HRLoss(from_logits=True)(np.array([label]), np.zeros((1, 2), "float32")))


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_softmax_models_train_on_their_logits(run_eagerly):
    """A label far away: through clipped probabilities its loss would be 16.1."""
    images = np.ones((1, 2, 2, 3), "float32")
    model = linear_model(200.0)
    logits = linear_model(200.0, None)(images).numpy()
    label = logits.argmin(axis=-1)
    expected = float(HRLoss(from_logits=True)(label, logits))
    assert expected > 30
    model.compile("sgd", loss=HRLoss(), run_eagerly=run_eagerly)
    assert model.evaluate(images, label, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert model.train_on_batch(images, label) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_models_have_a_float32_loss(policy):
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, activation="softmax", dtype=policy)(inputs)
    model = keras.Model(inputs, outputs)
    model.set_weights([np.eye(4, 3) * 60, np.zeros(3)])
    model.compile("sgd", loss=HRLoss())
    # logits 60, 0, 0 and label 2: CE = 60 and no entropy; exp would overflow in float16
    loss = model.evaluate(np.eye(4)[:1], np.array([2]), verbose=0)
    assert loss == pytest.approx(60.0, rel=1e-5)
    assert HRLoss(dtype="bfloat16")([1], tf.constant([[0.5, 0.5]], tf.bfloat16)).dtype == "float32"


def test_class_numbers_keep_their_digits():
    logits = np.zeros((1, 300), "float32")
    logits[0, 257] = 10.0
    low = float(HRLoss(from_logits=True, dtype="float16")([257], logits))
    assert low == pytest.approx(float(HRLoss(from_logits=True)([257], logits)))


def test_from_logits_on_a_softmax_is_pointed_out():
    outputs = keras.activations.softmax(tf.constant([[1.0, 2.0]]))
    with pytest.warns(UserWarning, match="from_logits"):
        value = HRLoss(from_logits=True)([0], outputs)
    assert float(value) == pytest.approx(float(HRLoss(from_logits=True)([0], [[1.0, 2.0]])))


def test_config_holds_every_argument():
    loss = HRLoss(2.5, True, "mean", "renyi", "bfloat16")
    again = HRLoss.from_config(loss.get_config())
    assert again.get_config() == loss.get_config()
    assert (again.alpha, again.from_logits, again.name, again.dtype) == (
        2.5,
        True,
        "renyi",
        "bfloat16",
    )
    assert HRLoss.from_config(HRLoss().get_config()).get_config() == HRLoss().get_config()


def test_training_lowers_the_loss_and_jit_compile_changes_nothing(digits):
    images, labels = digits.train.images[:64], digits.train.labels[:64]
    histories = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
        model.compile(keras.optimizers.SGD(0.1), loss=HRLoss(), jit_compile=jit_compile)
        history = model.fit(images, labels, epochs=8, shuffle=False, verbose=0).history
        histories.append(history["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    assert histories[0][-1] < 0.6 * histories[0][0]


@pytest.mark.parametrize("alpha", [1.0, 0.5, -2, math.nan, math.inf])
def test_bad_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match=f"greater than 1.*{alpha}"):
        HRLoss(alpha=alpha)


def test_alpha_must_be_a_number_and_weights_as_many_as_examples():
    with pytest.raises(ValueError, match=r"'1\.6'"):
        HRLoss(alpha="1.6")
    with pytest.raises(ValueError, match="4 examples"):
        HRLoss(from_logits=True)(np.zeros(4), np.zeros((4, 3)), sample_weight=[1.0, 2.0])


def test_values_that_are_no_probabilities_or_weights_are_refused_outside_compiled_code():
    logits = np.array([[2.0, -1.0], [0.0, 0.5]], "float32")
    with pytest.raises(ValueError, match="from_logits=True"):
        HRLoss()([0, 1], logits)
    with pytest.raises(ValueError, match="sum to 1"):
        HRLoss()([0, 1], np.full((2, 2), 0.51, "float32"))
    with pytest.raises(ValueError, match="must not be negative"):
        HRLoss(from_logits=True)([0, 1], logits, [1.0, -1.0])
    HRLoss()([0, 1], np.full((2, 2), 0.5004, "float32"))
    HRLoss()(np.arange(900) % 100, tf.nn.softmax(tf.zeros((900, 100), tf.bfloat16)))


def test_a_million_classes_are_told_apart():
    logits = np.zeros((2, 10**6), "float32")
    logits[0, 999_999], logits[1, 999_998] = 20.0, 20.0
    for dtype in ("int32", "int64", "float64"):
        right = float(HRLoss(from_logits=True)(np.array([999_999, 999_998], dtype), logits))
        wrong = float(HRLoss(from_logits=True)(np.array([999_998, 999_999], dtype), logits))
        assert wrong - right == pytest.approx(20.0, rel=1e-5)


@pytest.mark.parametrize("n", [1, 65_536])
@pytest.mark.parametrize("alpha", [1 + 1e-6, 1.6, 50.0])
def test_batches_of_one_and_of_many_keep_their_digits(n, alpha):
    logits = np.random.default_rng(0).normal(scale=4, size=(n, 3)).astype("float32")
    labels = np.arange(n) % 3
    log_q = reference.log_softmax(logits)
    cross_entropy = -log_q[np.arange(n), labels]
    exponents = (alpha - 1) * cross_entropy
    # log1p of the mean of expm1 for small exponents, so that the reference keeps its digits too
    highest = exponents.max()
    divergence = (highest + np.log1p(np.expm1(exponents - highest).mean())) / (alpha - 1)
    expected = -(np.exp(log_q) * log_q).sum(axis=1).mean() + divergence
    value, gradient = value_and_gradient(HRLoss(alpha, from_logits=True), labels, logits)
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6)


def test_loss_scaling_trains_as_float32_does():
    """mixed_float16 with Keras' LossScaleOptimizer: the same step within half precision."""
    images = np.random.default_rng(0).random((32, 2, 2, 3)).astype("float32")
    labels = np.arange(32) % 3
    trained = {}
    for policy in ("float32", "mixed_float16"):
        inputs = keras.Input((2, 2, 3))
        x = keras.layers.Flatten()(inputs)
        model = keras.Model(inputs, keras.layers.Dense(3, "softmax", dtype=policy)(x))
        model.set_weights(linear_model(1.0).get_weights())
        optimizer = keras.optimizers.SGD(0.1)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, loss=HRLoss())
        model.fit(images, labels, batch_size=16, shuffle=False, epochs=3, verbose=0)
        trained[policy] = model.get_weights()[0]
    assert np.abs(trained["float32"] - linear_model(1.0).get_weights()[0]).max() > 0.01
    np.testing.assert_allclose(trained["mixed_float16"], trained["float32"], atol=2e-3)


def test_a_model_compiled_with_it_can_be_exported(tmp_path, linear):
    images = np.random.default_rng(0).random((4, 2, 2, 3)).astype("float32")
    linear.compile("sgd", loss=HRLoss())
    linear.export(tmp_path / "saved", verbose=False)
    restored = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(restored.serve(images), linear(images), rtol=1e-5)


def test_class_weight_is_the_sample_weight_of_its_class(linear):
    images = np.random.default_rng(0).random((30, 2, 2, 3)).astype("float32")
    labels, class_weight = np.arange(30) % 3, {0: 1.0, 1: 5.0, 2: 0.5}
    before = linear.get_weights()
    linear.compile(keras.optimizers.SGD(0.5), loss=HRLoss())
    trained = []
    for arguments in (
        {"class_weight": class_weight},
        {"sample_weight": np.array([class_weight[label] for label in labels])},
    ):
        linear.set_weights(before)
        linear.fit(images, labels, batch_size=10, shuffle=False, verbose=0, **arguments)
        trained.append(linear.get_weights())
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum", "none", None, "median"])
def test_reductions_that_a_batch_loss_has_not_are_refused(reduction):
    with pytest.raises(ValueError, match="sum_over_batch_size"):
        HRLoss(reduction=reduction)


@pytest.mark.parametrize(
    ("true", "predicted"),
    [
        ((4,), (4, 1)),
        ((4,), (4,)),
        ((3,), (4, 3)),
        ((4, 2), (4, 3)),
        ((4, 3, 1), (4, 3)),
        ((), (4, 3)),
        ((1,), (1, 5, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(true, predicted):
    with pytest.raises(ValueError, match="Received: y_"):
        HRLoss(from_logits=True)(np.zeros(true, int), np.zeros(predicted, "float32"))
