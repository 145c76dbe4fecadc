"""APGD against the published algorithm."""

import types

import numpy as np
import pytest
import tensorflow as tf
from attack_cases import NORMS, Wavy, into_ball, steepest

from hr_keras.attacks import APGD, _perturbation, apgd


def test_checkpoints_by_hand():
    assert apgd.checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.checkpoints(1000) == [0, 220, 410, 570, 700, 800, 870, 930, 990]
    assert apgd.checkpoints(10) == [0, 3, 5, 6, 7, 8, 9]
    assert apgd.checkpoints(1) == [0]
    windows = apgd.windows(100)
    assert len(windows) == 101
    assert {k: steps for k, steps in enumerate(windows) if steps} == {
        22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6,
    }  # fmt: skip


def published_apgd(problem, image, label, start, epsilon, norm, n_iter):
    """Algorithm 1 of Croce & Hein for one example, with whole histories; (best point, halvings)."""

    def project(x):
        return into_ball(x, image, epsilon, norm)

    def ascend(x, gradient, step):
        return project(x + step * steepest(gradient, norm))

    points, step, halvings = [start], 2 * epsilon, 0
    values, gradient = [], None
    value, gradient = problem.log_odds(start, label)
    values.append(value)
    best, best_value, best_gradient = start, value, gradient
    marks = apgd.checkpoints(n_iter)
    halved_at, best_at = {0: True}, {0: value}
    x, before = start, start
    for k in range(1, n_iter + 1):
        momentum = 0.75 if k > 1 else 1.0
        ahead = ascend(x, gradient, step)
        moved = project(x + momentum * (ahead - x) + (1 - momentum) * (x - before))
        before, x = x, moved
        value, gradient = problem.log_odds(x, label)
        values.append(value)
        points.append(x)
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        if k in marks:
            last = marks[marks.index(k) - 1]
            rises = sum(values[i + 1] > values[i] for i in range(last, k))
            first = rises <= 0.75 * (k - last)
            second = not halved_at[last] and best_at[last] == best_value
            halved_at[k], best_at[k] = first or second, best_value
            if halved_at[k]:
                step, x, gradient = step / 2, best, best_gradient
                halvings += 1
    return best, halvings, len(halved_at) - 1


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_equals_the_published_algorithm_step_by_step(norm):
    problem, n_iter, epsilon = Wavy(), 60, 0.4
    images = np.random.default_rng(0).uniform(0.1, 0.9, (12, 3))
    labels = np.arange(12) % 4
    attacker = APGD(epsilon, "ce", n_iter=n_iter, norm=norm, stop_early=False)
    found = attacker(problem.keras_model(), images, labels)
    keys = _perturbation.random_keys(0, range(12), np.zeros(12, int))
    ball = _perturbation.get(norm)
    starts = np.clip(images + epsilon * ball.random(keys, 0, tf.constant(images)).numpy(), 0, 1)
    halvings = set()
    for image, label, start, ours in zip(images, labels, starts, found, strict=True):
        best, halved, checks = published_apgd(problem, image, label, start, epsilon, norm, n_iter)
        np.testing.assert_allclose(ours, best, atol=1e-6)
        halvings.add(halved)
    assert len(halvings) > 1  # every example has its own step size
    assert max(halvings) > checks / 2


@pytest.mark.parametrize(
    ("rises", "halved", "improved", "expected"),
    [
        (16, True, True, True),  # "at most" 3/4 of 22 steps, 16.5, raised the objective
        (17, True, True, False),
        (17, False, True, False),
        (17, False, False, True),  # neither the step size nor the best has changed
        (17, True, False, False),  # the step was halved at the last checkpoint: wait
    ],
)
def test_both_conditions_of_halving(rises, halved, improved, expected):
    attack = APGD(0.1, n_iter=100)
    state = types.SimpleNamespace(steps=np.array([22, 21]), score=np.array([1.0, 1.0]))
    memory = apgd._Memory(
        last_point=None,
        last_score=None,
        best_gradient=None,
        step_size=np.array([2.0, 2.0]),
        rises=np.array([rises, rises]),
        checked_score=np.array([0.5, 0.5] if improved else [1.0, 1.0]),
        halved=np.array([halved, halved]),
    )
    halve, after = attack._check(state, memory)
    assert np.asarray(halve).tolist() == [expected, False]  # 21 steps are no checkpoint
    assert np.asarray(after.step_size).tolist() == [1.0 if expected else 2.0, 2.0]
    assert np.asarray(after.halved).tolist() == [expected, halved]
    assert np.asarray(after.rises).tolist() == [0, rises]
    assert np.asarray(after.checked_score).tolist() == [1.0, memory.checked_score[1]]
