import functools
import math

import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import linear_model
from hypothesis import given
from hypothesis import strategies as st

from hr_keras import HRLoss, fused, information

N, CLASSES = 5, 4  # one shape: each new one is compiled


@functools.cache
def compiled(alpha, dtype):
    loss = HRLoss(alpha, from_logits=True, dtype=dtype)

    @tf.function
    def value_and_gradient(labels, logits, weights):
        assert fused.is_possible(labels, are_logits=True)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits, weights)
        return value, tape.gradient(value, logits)

    return value_and_gradient


def run(labels, logits, weights, alpha=1.6, dtype="float64"):
    value, gradient = compiled(alpha, dtype)(
        tf.constant(labels), tf.constant(logits, dtype), tf.constant(weights, dtype)
    )
    return float(value), gradient.numpy()


@given(
    seed=st.integers(0, 2**32 - 1),
    alpha=st.sampled_from([1.05, 1.6, 7.0]),
    scale=st.sampled_from([0.1, 3.0]),
    zeros=st.integers(0, N - 1),
)
def test_the_kernel_gives_the_reference(seed, alpha, scale, zeros):
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(N, CLASSES))
    labels, weights = generator.integers(CLASSES, size=N), generator.exponential(size=N)
    weights[:zeros] = 0
    p = reference.one_hot(labels, CLASSES)[zeros:]
    used, w = logits[zeros:], weights[zeros:]
    value, gradient = run(labels, logits, weights, alpha)
    expected = reference.hr(p, reference.log_softmax(used), alpha, w)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    slope = reference.hr_gradient(used, p, alpha, w)
    np.testing.assert_allclose(gradient[zeros:], slope, rtol=1e-5, atol=1e-8)
    assert not gradient[:zeros].any()
    value, gradient = run(labels, logits, weights, alpha, "float32")
    assert value == pytest.approx(expected, rel=1e-5, abs=3e-6)
    np.testing.assert_allclose(gradient[zeros:], slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1 + 1e-6, 1.6, 50.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kernel_keeps_its_digits_and_stays_finite(alpha, dtype):
    generator = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e2, 1e4):
        logits = scale * generator.normal(size=(N, CLASSES))
        labels = generator.integers(CLASSES, size=N)
        log_q = reference.log_softmax(np.asarray(logits, dtype))
        exponents = (alpha - 1) * -log_q[np.arange(N), labels]
        highest = exponents.max()
        mean = np.expm1(exponents - highest).mean()
        log_mean = np.log1p(mean) if mean > -0.5 else np.log(np.exp(exponents - highest).mean())
        entropy = -(np.exp(log_q) * log_q).sum(axis=1).mean()
        expected = entropy + (highest + log_mean) / (alpha - 1)
        value, gradient = run(labels, logits, np.ones(N), alpha, dtype)
        assert value == pytest.approx(expected, rel=2e-5 if dtype == "float32" else 1e-9)
        assert np.isfinite(gradient).all()
        weights = np.exp(exponents - highest)
        expected = weights[:, None] / weights.sum() * (np.exp(log_q) - np.eye(CLASSES)[labels])
        own = -(np.exp(log_q) * log_q).sum(axis=1, keepdims=True)
        expected -= np.exp(log_q) * (log_q + own) / N
        np.testing.assert_allclose(gradient, expected, atol=2e-6 if dtype == "float32" else 1e-12)


def test_classes_that_are_ruled_out_change_nothing():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(N, CLASSES)), np.array([0, 1, 2, 0, 1])
    logits[:, 3] = -np.inf
    value, gradient = run(labels, logits, np.ones(N))
    p = reference.one_hot(labels, CLASSES - 1)
    expected = reference.hr(p, reference.log_softmax(logits[:, :3]), 1.6)
    assert value == pytest.approx(expected, rel=1e-9)
    slope = reference.hr_gradient(logits[:, :3], p, 1.6)
    np.testing.assert_allclose(gradient[:, :3], slope, rtol=1e-5, atol=1e-8)
    assert not gradient[:, 3].any()


def test_no_weight_gives_nothing_and_no_number_is_hidden():
    logits, labels = np.zeros((N, CLASSES)), np.zeros(N, int)
    value, gradient = run(labels, logits, np.zeros(N))
    assert value == 0
    assert not gradient.any()
    labels[1] = CLASSES
    assert math.isnan(run(labels, logits, np.ones(N))[0])
    logits[0, 0] = math.nan
    value, gradient = run(np.zeros(N, int), logits, np.ones(N))
    assert math.isnan(value)
    assert np.isnan(gradient[0]).all()


def test_second_derivatives_are_those_of_the_composed_loss():
    generator = np.random.default_rng(0)
    logits = tf.constant(generator.normal(size=(N, CLASSES)))
    labels, weights = tf.constant([0, 1, 2, 3, 1]), tf.constant(generator.exponential(size=N))
    loss = HRLoss(1.6, from_logits=True, dtype="float64")

    def composed(labels, logits, weights):
        log_q = information.log_probabilities(logits, from_logits=True)
        return information.hr_risk(labels, log_q, 1.6, weights)

    @tf.function
    def hessian(risk):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                value = 3 * risk(labels, logits, weights)
            gradient = inner.gradient(value, logits)
        return outer.jacobian(gradient, logits, experimental_use_pfor=False)

    expected = hessian(composed).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(hessian(loss).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_without_xla_or_in_eager_code_the_loss_is_composed(monkeypatch):
    labels = tf.constant([0, 1])
    assert not fused.is_possible(labels, are_logits=True)  # eager
    in_a_graph = []
    tf.function(lambda y: in_a_graph.append(fused.is_possible(y, are_logits=True)))(labels)
    monkeypatch.setattr(fused, "_xla_compiles", lambda: False)
    tf.function(lambda y: in_a_graph.append(fused.is_possible(y, are_logits=True)))(labels)
    assert in_a_graph == [True, False]


def test_training_steps_are_those_of_the_composed_loss(monkeypatch):
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(120, 2, 2, 3)).astype("float32")
    labels, weights = generator.integers(3, size=120), np.linspace(0, 2, 120)
    trained = []
    for xla in (True, False):
        monkeypatch.setattr(fused, "_xla_compiles", lambda xla=xla: xla)
        model = linear_model(scale=1.0)
        model.compile("sgd", loss=HRLoss())
        model.fit(images, labels, 50, epochs=2, sample_weight=weights, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
