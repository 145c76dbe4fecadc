"""What losses and metrics refuse, inside compiled code too, and what must come out as NaN."""

import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from hr_keras import HRLoss, losses, metrics

IMAGES = np.random.default_rng(0).random((8, 4)).astype("float32")
LABELS = np.arange(8) % 3
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def dense(*extra, activation=None):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation=activation), *extra]
    )


def fit(model, loss, labels=LABELS, weights=None, **arguments):
    model.compile("sgd", loss=loss, **arguments)
    history = model.fit(
        IMAGES, labels, sample_weight=weights, batch_size=4, shuffle=False, verbose=0
    )
    return history.history["loss"][0]


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_logits_taken_for_probabilities_are_pointed_out_when_fit_is_traced(activation):
    model = dense(activation=activation)
    with (
        pytest.warns(UserWarning, match="from_logits=True"),
        pytest.raises(tf.errors.InvalidArgumentError, match="sum to 1; pass from_logits=True"),
    ):
        fit(model, HRLoss())


def test_right_models_are_not_warned_about():
    """A softmax, logits that are said to be some, and a mixture and a matrix of probabilities."""
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(3, "softmax")(inputs) for _ in range(2)]
    mixture = keras.Model(inputs, 0.5 * heads[0] + 0.5 * heads[1])
    confusion = np.full((3, 3), 0.1, "float32") + 0.7 * np.eye(3, dtype="float32")
    noisy = keras.Model(inputs, keras.ops.matmul(heads[0], confusion))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for model, loss in (
            (dense(activation="softmax"), HRLoss()),
            (dense(), HRLoss(from_logits=True)),
            (mixture, HRLoss()),
            (noisy, HRLoss()),
        ):
            assert math.isfinite(fit(model, loss))


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (LABELS + 1, None, "from 0 to 2"),
        (LABELS + 0.5, None, "whole numbers"),
        (2 * ONE_HOT, None, "sum to 1 in every row"),
        (np.maximum(ONE_HOT, ONE_HOT[::-1]), None, "sum to 1 in every row"),
        (2 * ONE_HOT - 1 / 3, None, "sum to 1 in every row"),
        (LABELS, np.array([1.0] * 7 + [-1]), "not be negative"),
    ],
    ids=["1…3", "halves", "of sum 2", "multi-hot", "negative", "weights"],
)
def test_compiled_fit_refuses_labels_and_weights_as_eager_code_does(labels, weights, message):
    loss = HRLoss(from_logits=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        fit(dense(), loss, labels, weights)
    outputs = tf.constant(IMAGES[:, :3])
    if labels.ndim == 1 and weights is None:  # class numbers: NaN, as documented
        with pytest.warns(UserWarning, match=message):
            assert math.isnan(loss(labels, outputs))
    else:
        with pytest.raises(ValueError, match=message):
            loss(labels, outputs, weights)
    # XLA drops the check: then the loss is NaN.
    assert math.isnan(tf.function(loss, jit_compile=True)(labels, outputs, weights))


def test_the_checks_read_probabilities_once():
    """The sums are used for more; apart from that each of the two is read for its minimum only."""

    def loss(labels, outputs):
        return HRLoss()(labels, outputs)

    spec = tf.TensorSpec((4096, 1000))
    graph = tf.function(loss).get_concrete_function(spec, spec).graph
    for read, uses in zip(
        graph.inputs, (["Min", "Sum", "Sum"], ["Min", "RealDiv", "Sum"]), strict=True
    ):
        while len(users := read.consumers()) == 1 and users[0].type in ("Reshape", "Identity"):
            (read,) = users[0].outputs
        kinds = sorted(user.type for user in read.consumers())
        assert [kind for kind in kinds if kind in ("Abs", "Min", "Max", "RealDiv", "Sum")] == uses


def test_replicas_refuse_them_too():
    with mirrored(2).scope():
        model = dense()
        model.compile("sgd", loss=HRLoss(from_logits=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2"):
        model.fit(IMAGES, LABELS + 1, batch_size=4, verbose=0)


def test_examples_of_weight_zero_may_have_any_label():
    weights = np.array([1.0] * 6 + [0.0] * 2)
    wrong, empty = LABELS.copy(), ONE_HOT.copy()
    wrong[6:], empty[6:] = 255, 0
    model = dense()
    before = model.get_weights()
    found = []
    for labels in (LABELS, wrong, ONE_HOT, empty):
        model.set_weights(before)
        fit(model, HRLoss(from_logits=True), labels, weights)
        found.append(model.get_weights()[0])
    for kernel in found[1:]:
        np.testing.assert_allclose(kernel, found[0], rtol=1e-6)


@pytest.mark.parametrize("kind", [metrics.HRRisk, metrics.ErrorBound, metrics.RenyiDivergence])
def test_nan_comes_out_as_nan(kind):
    outputs = np.zeros((3, 3), "float32")
    soft, weights = ONE_HOT[:3].copy(), np.array([1.0, math.nan, 1.0])
    soft[1, 2] = math.nan
    for arguments in (
        (soft, outputs),
        (LABELS[:3], outputs, weights),
        (ONE_HOT[:3], outputs, weights),
    ):
        metric = kind(from_logits=True)
        metric.update_state(*arguments)
        metric.update_state(LABELS[:3], outputs)
        assert math.isnan(metric.result())
    for loss in (HRLoss(from_logits=True), losses.RenyiLoss(from_logits=True)):
        assert math.isnan(loss(soft, outputs))
        assert np.isnan(loss.call(soft, outputs)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (np.zeros((2, 3)), np.ones((3, 2)), r"shape \(2, 3\).*\(3, 2\)"),
        (np.zeros((2, 3)), np.ones(2), "each of the 6"),
        (np.zeros((2, 3)), np.full((2, 3), 1e39), "finite in float32"),
        (np.zeros((2, 3)), np.full((2, 3), "1"), "`sample_weight` must hold numbers"),
        (np.zeros((2, 3)), object(), "`sample_weight` must hold numbers"),
        (np.full((2, 3), "1"), None, "`y_true` must hold numbers"),
        (np.ma.masked_equal(np.arange(6).reshape(2, 3) % 3, 2), None, "sample_weight=~mask"),
    ],
)
def test_inputs_of_another_kind_are_refused_with_one_line(labels, weights, message):
    outputs = np.zeros((2, 3, 3), "float32")
    for function in (HRLoss(from_logits=True), metrics.HRRisk(from_logits=True).update_state):
        with pytest.raises(ValueError, match=message):
            function(labels, outputs, weights)


@pytest.mark.parametrize("name", ["my loss", "_hidden", "Verlust α", "a/b", "…"])
def test_any_text_is_a_name(name):
    model = dense()
    fit(model, HRLoss(from_logits=True, name=name))
    model.compile(
        loss=HRLoss(from_logits=True), metrics=[metrics.HRRisk(from_logits=True, name=name)]
    )
    assert name in model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)


@pytest.mark.parametrize("kind", [HRLoss, losses.FocalCrossEntropy, metrics.HRRisk])
def test_names_that_are_no_text_are_refused_at_once(kind):
    for name in (1.5, ["a"], b"a"):
        with pytest.raises(ValueError, match="`name` must be a string"):
            kind(name=name)


VOID = np.where(LABELS == 1, 255, LABELS)


@pytest.mark.parametrize("loss", [HRLoss, losses.RenyiLoss, losses.EntropyRegularizedCrossEntropy])
def test_an_ignored_class_is_weight_zero(loss):
    outputs, weights = IMAGES[:, :3], (VOID != 255).astype("float32")
    ignoring, plain = loss(from_logits=True, ignore_class=255), loss(from_logits=True)
    for labels in (VOID, VOID.astype("uint8")[:, None], VOID.astype("float32")):
        value = ignoring(labels, outputs)
        np.testing.assert_allclose(value, plain(LABELS, outputs, weights), rtol=1e-6)
    assert math.isfinite(fit(dense(), ignoring, VOID))
    alone = ignoring.call(VOID, outputs)
    np.testing.assert_allclose(alone, weights * plain.call(LABELS, outputs), rtol=1e-6)
    assert loss.from_config(ignoring.get_config()).ignore_class == 255


def test_metrics_ignore_a_class_too():
    outputs = IMAGES[:, :3]
    for kind in (metrics.HRRisk, metrics.ConditionalEntropy):
        ignoring, plain = kind(from_logits=True, ignore_class=-1), kind(from_logits=True)
        ignoring.update_state(np.where(LABELS == 1, -1, LABELS), outputs)
        plain.update_state(LABELS, outputs, LABELS != 1)
        np.testing.assert_allclose(ignoring.result(), plain.result(), rtol=1e-6)
        assert kind.from_config(ignoring.get_config()).ignore_class == -1


def test_ignored_classes_are_whole_numbers_and_need_class_numbers():
    for ignored in (1.5, "void", True):
        with pytest.raises(ValueError, match="`ignore_class` must be an integer"):
            HRLoss(ignore_class=ignored)
    with pytest.raises(ValueError, match="for class numbers"):
        HRLoss(from_logits=True, ignore_class=1)(ONE_HOT, IMAGES[:, :3])
