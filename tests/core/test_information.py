import itertools
import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from hr_keras._core import information

batches = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 7), st.sampled_from([0.1, 1, 8])
)


def draw(batch):
    seed, n, classes, scale = batch
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(n, classes))
    labels = generator.integers(classes, size=n)
    soft = generator.dirichlet(np.full(classes, 0.3), size=n)
    weights = generator.exponential(size=n) * (generator.random(n) > 0.2)
    weights[0] += 0.1
    return logits, labels, soft, weights


def log_q(logits):
    return information.log_probabilities(ops.convert_to_tensor(logits), from_logits=True)


@given(batches)
def test_entropy_lies_between_zero_and_log_classes(batch):
    logits, *_ = draw(batch)
    entropy = ops.convert_to_numpy(information.conditional_entropy(log_q(logits)))
    assert (entropy >= 0).all()
    assert (entropy <= math.log(logits.shape[1]) + 1e-12).all()


def test_entropy_at_its_ends():
    log_uniform = ops.log(ops.full((1, 4), 0.25, dtype="float64"))
    assert float(information.conditional_entropy(log_uniform)[0]) == pytest.approx(math.log(4))
    certain = ops.log(ops.convert_to_tensor([[0.0, 1.0, 0.0]]))
    assert float(information.conditional_entropy(certain)[0]) == 0.0


@given(batches, st.floats(1.01, 20))
def test_risk_equals_the_reference(batch, alpha):
    logits, labels, soft, weights = draw(batch)
    hard = reference.one_hot(labels, logits.shape[1])
    for given_labels, p in ((labels, hard), (soft, soft)):
        for w in (None, weights):
            ours = information.hr_risk(ops.convert_to_tensor(given_labels), log_q(logits), alpha, w)
            expected = reference.hr(p, reference.log_softmax(logits), alpha, w)
            assert float(ours) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(batches, st.floats(1.05, 10), st.floats(0.01, 5))
def test_renyi_is_at_least_the_cross_entropy_and_grows_with_alpha(batch, alpha, more):
    logits, labels, _, weights = draw(batch)
    q = log_q(logits)
    mean = np.average(ops.convert_to_numpy(information.cross_entropy(labels, q)), weights=weights)
    entropy = np.average(ops.convert_to_numpy(information.conditional_entropy(q)), weights=weights)
    smaller = float(information.hr_risk(labels, q, alpha, weights)) - entropy
    larger = float(information.hr_risk(labels, q, alpha + more, weights)) - entropy
    assert mean - 1e-9 <= smaller <= larger + 1e-9


@given(batches)
def test_alpha_to_one_is_entropy_plus_cross_entropy_or_divergence(batch):
    logits, labels, soft, _ = draw(batch)
    q = reference.log_softmax(logits)
    entropy = -(np.exp(q) * q).sum(axis=1).mean()
    ours = float(information.hr_risk(labels, log_q(logits), 1 + 1e-9))
    assert ours == pytest.approx(entropy - q[np.arange(len(q)), labels].mean(), rel=1e-6)
    p_log_p = np.where(soft > 0, soft * np.log(np.where(soft > 0, soft, 1)), 0)
    divergence = (p_log_p - soft * q).sum(axis=1).mean()
    ours = float(information.hr_risk(ops.convert_to_tensor(soft), log_q(logits), 1 + 1e-9))
    assert ours == pytest.approx(entropy + divergence, rel=1e-6)


def test_alpha_close_to_one_keeps_its_digits_in_float32():
    logits = np.random.default_rng(0).normal(size=(1000, 10)).astype("float32")
    labels = np.arange(1000) % 10
    p = reference.one_hot(labels, 10)
    for alpha in (1 + 1e-6, 1 + 1e-4, 1.01):
        ours = float(information.hr_risk(labels, log_q(logits), alpha))
        # alpha itself is rounded to float64 here and there; the logits are the same float32
        assert ours == pytest.approx(
            reference.hr(p, reference.log_softmax(logits), alpha), rel=2e-6
        )


def test_a_few_dominating_examples_keep_their_digits_in_float32():
    logits = np.zeros((65536, 2), "float32")
    logits[0] = [40.0, 0.0]  # a cross-entropy of 40 among 65,535 of log 2
    labels = np.ones(65536, int)
    expected = (40 + np.log(1 / 65536) / 49) + 65535 / 65536 * math.log(2)
    assert float(information.hr_risk(labels, log_q(logits), 50.0)) == pytest.approx(
        expected, rel=2e-6
    )


@given(batches, st.floats(1.05, 10))
def test_shards_combine_to_the_whole(batch, alpha):
    logits, labels, _, weights = draw(batch)
    q = log_q(logits)
    cuts = sorted({0, len(labels) // 3, len(labels)})
    weights = ops.convert_to_tensor(weights)
    shards = [
        information.hr_statistics(labels[a:b], q[a:b], alpha, weights[a:b])
        for a, b in itertools.pairwise(cuts)
    ]
    empty = ops.zeros((5,), dtype="float64")
    together = information.hr_risk_from(ops.stack([empty, *shards]), alpha)
    assert float(together) == pytest.approx(
        float(information.hr_risk(labels, q, alpha, weights)), rel=1e-12
    )


def test_a_hard_example_alone_is_entropy_plus_cross_entropy_whatever_alpha():
    q = log_q(np.array([[1.0, -2.0, 0.5]]))
    expected = information.conditional_entropy(q) + information.cross_entropy(np.array([1]), q)
    for alpha in (1.1, 1.6, 30.0):
        ours = information.hr_per_example(np.array([1]), q, alpha)
        assert float(ours[0]) == pytest.approx(float(expected[0]), rel=1e-12)
        assert float(information.hr_risk(np.array([1]), q, alpha)) == pytest.approx(float(ours[0]))


def test_a_class_number_out_of_range_is_nan_and_never_another_class():
    q = log_q(np.zeros((3, 2)))
    values = ops.convert_to_numpy(information.cross_entropy(np.array([-1, 1, 2]), q))
    assert np.isnan(values[[0, 2]]).all()
    assert values[1] == pytest.approx(math.log(2))
