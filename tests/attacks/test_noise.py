"""Noise: its passes, and what restarts give."""

import numpy as np
from attack_cases import MODEL, distances, fooled, right
from test_evaluation import counted, counting_model

from hr_keras.attacks import Noise


def test_restarts_are_counted_for_each_example_and_help():
    model = counting_model()
    images, labels = right(12)
    epsilon = 0.6 * float(np.median(distances(MODEL, images, labels, "linf")))
    once, often = (Noise(epsilon, n_draws=3, n_restarts=r, batch_size=1) for r in (1, 6))
    left = []
    for attacker in (once, often):
        attacker(model, images, labels)
        adversarial, cost = counted(lambda: attacker(model, images, labels))  # noqa: B023
        left.append(~fooled(MODEL, adversarial, labels))
        # 3 draws a restart for whom none fools; fewer for the others
        assert 12 + left[-1].sum() * 3 * attacker.n_restarts <= cost["forward"]
        assert cost["forward"] <= 12 + 12 * 3 * attacker.n_restarts
    assert (left[1] <= left[0]).all()
    assert left[1].sum() < left[0].sum()  # not the same points again
