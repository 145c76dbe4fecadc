"""Checks that attack the model: would a stronger attack have given another number?"""

import numpy as np

from hr_keras.attacks import PGD, MomentumPGD, Noise, Square, Transfer
from hr_keras.attacks._attack import is_correct
from hr_keras.diagnostics.finding import (
    ATHALYE,
    CARLINI,
    PINTOR,
    WARNING,
    difference,
    judged,
    not_applicable,
    percent,
)
from hr_keras.diagnostics.model_checks import chance_level

STEPS = 40
# Half a point of accuracy, that of the published comparison of attacks (Croce & Hein 2020).
DIFFERENCE = 0.005
# Points of accuracy that attacks without gradients may add: on models without masking they
# find an example now and then that PGD does not.
GRADIENT_FREE_DIFFERENCE = 0.02
# Half the pixel range in every pixel makes any image grey (Carlini et al. 2019, section 5.2).
LARGE = 0.5
LAST_STEPS = 10
# Of the rise of the objective over all steps. Pintor et al. allow 0.01 for a step size that
# falls; here it is constant, and the best point goes on moving by its size.
STILL_RISING = 0.05
QUERIES = 500
DRAWS = 100


def strength_findings(task, epsilon, bounds, seed, norm, pixel, others):
    """The findings that attack, for a `Task` with logits; see `diagnostics.check`.

    Args:
        pixel: size of a pixel of the perturbation of size 1 whose pixels are all the same.
    """
    return _Strength(task, epsilon, bounds, seed, norm, pixel, others).findings()


class _Strength:
    """One PGD at ε, and what other attacks make of the examples that it leaves."""

    def __init__(self, task, epsilon, bounds, seed, norm, pixel, others):
        self.task, self.epsilon, self.others = task, epsilon, others
        self.shared = {
            "norm": norm, "bounds": bounds, "batch_size": task.batch_size, "seed": seed
        }  # fmt: skip
        self.large = LARGE * (bounds[1] - bounds[0]) / pixel
        self.n = len(task.images)
        self.tolerance = difference(DIFFERENCE, self.n)
        self.correct = is_correct(task.logits, task.labels)

    def findings(self):
        """All of them, or `"not applicable"` where there is nothing to attack."""
        if not self.correct.any():
            meaning = "No example is classified correctly: there is nothing to attack."
            return [
                not_applicable(name, meaning, CARLINI)
                for name in (
                    "single_step_stronger",
                    "not_monotone",
                    "chance_not_reached",
                    "silent_success",
                    "loss_still_rising",
                    "not_converged",
                    "gradient_free_stronger",
                )
            ]
        pgd = self._pgd(self.epsilon)
        attacked = self.task.select(self.correct)
        outcome = pgd.attempt(attacked)
        standing = self.correct.copy()
        standing[self.correct] = ~outcome.fooled
        scores, fooled = pgd.trace(attacked)
        converged, standing_longer = self._not_converged(standing)
        return [
            self._single_step_stronger(standing),
            *self._by_epsilon(standing),
            self._silent_success(pgd, attacked, outcome, fooled),
            self._loss_still_rising(scores[~fooled.any(axis=1)]),
            converged,
            self._gradient_free_stronger(standing_longer),
        ]

    def _pgd(self, epsilon, objective="ce", n_iter=STEPS, **changes):
        return PGD(epsilon, objective, n_iter=n_iter, **{**self.shared, **changes})

    def _left(self, attack, standing):
        """bool `(n,)`: which of the examples `standing` the attack leaves so."""
        left = standing.copy()
        if standing.any():
            left[standing] = ~attack.attempt(self.task.select(standing)).fooled
        return left

    def _single_step_stronger(self, standing):
        step = self._pgd(self.epsilon, n_iter=1, step_size=1.0, random_start=False)
        single = self._left(step, self.correct).mean()
        meaning = (
            f"A single step leaves {percent(single)}, PGD with {STEPS} steps "
            f"{percent(standing.mean())}: "
            + _either(
                standing.mean() - single > self.tolerance,
                "the weaker attack is the stronger one, so that PGD is led astray.",
                "the stronger attack is the one that should be.",
            )
        )
        measured = standing.mean() - single
        return judged("single_step_stronger", measured, self.tolerance, meaning, ATHALYE)

    def _by_epsilon(self, standing):
        """`not_monotone` and `chance_not_reached`, from PGD at several ε."""
        large = self.large
        wanted = {self.epsilon / 2, 2 * self.epsilon, large} - {self.epsilon}
        accuracy = {0.0: self.correct.mean(), self.epsilon: standing.mean()}
        for epsilon in sorted(one for one in wanted if one <= max(large, self.epsilon)):
            accuracy[epsilon] = self._left(self._pgd(epsilon), self.correct).mean()
        return [self._not_monotone(accuracy), self._chance_not_reached(large, accuracy[large])]

    def _not_monotone(self, accuracy):
        epsilons = sorted(accuracy)
        values = np.array([accuracy[epsilon] for epsilon in epsilons])
        rise = (values - np.minimum.accumulate(values)).max()
        curve = ", ".join(f"{percent(accuracy[epsilon])} at {epsilon:g}" for epsilon in epsilons)
        meaning = f"Accuracy against ε: {curve}. " + _either(
            rise > self.tolerance,
            f"It rises by {percent(rise)}: a larger ε cannot make a model more robust.",
            "It falls, as it must.",
        )
        return judged("not_monotone", rise, self.tolerance, meaning, CARLINI)

    def _chance_not_reached(self, large, accuracy):
        chance = chance_level(self.task.logits.shape[1], self.n)
        meaning = f"At ε = {large:g}, where any image can be made grey, {percent(accuracy)} " + (
            _either(accuracy > chance, "still withstand PGD: the attack fails.", "withstand PGD.")
        )
        return judged("chance_not_reached", accuracy, chance, meaning, CARLINI)

    def _silent_success(self, pgd, attacked, outcome, fooled):
        again = attacked.replace(images=outcome.images, logits=None).predict().logits
        seen = outcome.fooled | fooled.any(axis=1)
        lost = (seen & ~pgd.is_fooled(again, attacked.labels)).sum() / self.n
        last = (seen & ~fooled[:, -1]).sum() / self.n
        meaning = (
            f"{percent(lost)} of the examples were fooled on the way, but not by the image that "
            f"PGD returned. (An attack that returns its last point would lose {percent(last)}.)"
        )
        return judged("silent_success", lost, self.tolerance, meaning, PINTOR)

    def _loss_still_rising(self, scores):
        scores = scores[np.isfinite(scores).all(axis=1)]
        if len(scores) == 0:
            meaning = "PGD leaves no example whose objective could still rise."
            return not_applicable("loss_still_rising", meaning, PINTOR)
        best = np.maximum.accumulate(scores, axis=1)
        rise = (best[:, -1] - best[:, -1 - LAST_STEPS]).mean()
        measured = rise / max((best[:, -1] - best[:, 0]).mean(), 1e-12)
        meaning = (
            f"On the {len(scores)} examples that withstand PGD the last {LAST_STEPS} of {STEPS} "
            f"steps make {percent(measured)} of the rise of its objective"
        )
        meaning += _either(measured > STILL_RISING, ": more steps would go on.", ".")
        return judged("loss_still_rising", measured, STILL_RISING, meaning, PINTOR, WARNING)

    def _not_converged(self, standing):
        """The finding, and what is still standing after twice the steps and restarts."""
        longer = self._left(self._pgd(self.epsilon, n_iter=2 * STEPS), standing)
        again = self._left(self._pgd(self.epsilon, seed=self.shared["seed"] + 1), standing)
        steps, restarts = ((standing & ~left).mean() for left in (longer, again))
        measured = max(steps, restarts)
        meaning = (
            f"Twice the steps fool another {percent(steps)} of the examples, twice the restarts "
            f"{percent(restarts)}" + _either(measured > self.tolerance, ": PGD has not ended.", ".")
        )
        found = judged("not_converged", measured, self.tolerance, meaning, CARLINI, WARNING)
        return found, longer & again

    def _gradient_free_stronger(self, standing):
        # CE alone leaves examples that no masking protects: the margin finds them.
        standing = self._left(self._pgd(self.epsilon, "margin"), standing)
        attacks = {
            "noise": Noise(self.epsilon, n_draws=DRAWS, **self.shared),
            "Square": Square(self.epsilon, n_queries=QUERIES, **self.shared),
        }
        if self.others:
            made = MomentumPGD(self.epsilon, stop_early=False, **self.shared)
            attacks["transfer"] = Transfer(made, self.others, batch_size=self.task.batch_size)
        shares = {
            name: (standing & ~self._left(attack, standing)).mean()
            for name, attack in attacks.items()
        }
        measured = max(shares.values())
        threshold = difference(GRADIENT_FREE_DIFFERENCE, self.n)
        counts = ", ".join(f"{name} another {percent(share)}" for name, share in shares.items())
        meaning = (
            f"PGD leaves {percent(standing.mean())} of the examples; attacks that need no gradient "
            f"of this model fool {counts}"
        )
        meaning += _either(measured > threshold, ": its gradients are masked.", ".")
        return judged("gradient_free_stronger", measured, threshold, meaning, ATHALYE)


def _either(condition, first, second):
    return first if condition else second
