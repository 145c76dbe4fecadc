"""Balls and random numbers."""

import numpy as np
import pytest
import tensorflow as tf

from hr_keras.attacks import _perturbation


def test_random_numbers_are_uniform_normal_and_their_own():
    keys = _perturbation.random_keys(0, range(50), np.zeros(50, int))
    numbers = _perturbation.uniform(keys, 0, (1000,)).numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 2500) ** 2 / 2500).sum() < 43.8  # χ² of 19 degrees, 0.1 %
    rows = np.corrcoef(numbers)[np.triu_indices(50, 1)]
    assert np.abs(rows).max() < 0.16  # 5 standard deviations
    other = _perturbation.uniform(keys, 1, (1000,)).numpy()
    assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]) < 0.02
    draws = np.arange(50, dtype="int32")
    each = _perturbation.uniform(keys, draws, (3,)).numpy()
    np.testing.assert_array_equal(each[7], _perturbation.uniform(keys[7:8], 7, (3,))[0])
    normal = _perturbation.normal(keys, 0, (1000,)).numpy()
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert abs((normal**4).mean() - 3) < 0.2


def test_balls():
    keys = _perturbation.random_keys(0, range(200), np.zeros(200, int))
    images = tf.zeros((200, 3, 4))
    for norm, median in (("linf", 0.5 ** (1 / 12)), ("l2", 0.5 ** (1 / 12))):
        ball = _perturbation.get(norm)
        points = ball.random(keys, 0, images)
        sizes = ball.norm(points).numpy()
        assert sizes.max() <= 1 + 1e-6
        # the radius of a uniform point in 12 dimensions is U^(1/12) in either norm
        assert (sizes < median).mean() == pytest.approx(0.5, abs=0.12)
        np.testing.assert_allclose(ball.norm(ball.project(10 * points, 0.3)), 0.3, rtol=1e-5)
        np.testing.assert_allclose(ball.project(points, 2.0), points)
    tiny = tf.constant(np.random.default_rng(0).normal(size=(5, 7)) * 1e-30, "float32")
    np.testing.assert_allclose(_perturbation.L2().norm(_perturbation.L2().direction(tiny)), 1, 1e-5)
    assert (_perturbation.L2().direction(tf.constant([[np.nan, 0.0]])).numpy() == 0).all()
    endless = tf.constant([[np.inf, 1.0, -np.inf, np.nan], [3.0, 0.0, 4.0, np.nan]])
    half = 0.5**0.5
    np.testing.assert_allclose(
        _perturbation.L2().direction(endless), [[half, 0, -half, 0], [0.6, 0, 0.8, 0]], rtol=1e-6
    )
