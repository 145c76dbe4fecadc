"""Checks that attack the model: would a stronger attack have given another number?"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from hr_keras._core.checks import Bounds
from hr_keras._core.finding import Finding
from hr_keras._core.pixel_bounds import widest
from hr_keras.attacks import APGD, PGD, Attack, MomentumPGD, Noise, Outcome, Square, Task, Transfer
from hr_keras.attacks._task import is_correct
from hr_keras.diagnostics.finding import (
    ATHALYE,
    AUTOATTACK,
    CARLINI,
    PINTOR,
    find_chance_level,
    find_tolerance,
    format_percent,
    judge,
    not_applicable,
    predict_logits,
)
from hr_keras.diagnostics.overfitting import catastrophic_overfitting
from hr_keras.diagnostics.planted import attack_finds_planted

STEPS = 40
# Half a point of accuracy, as in the published comparison of attacks (Croce & Hein 2020).
DIFFERENCE = 0.005
# Other attacks sometimes fool a model without masking where PGD does not.
STRONGER_DIFFERENCE = 0.02
# Half the pixel range in every pixel makes any image grey (Carlini et al. 2019, section 5.2).
LARGE = 0.5
LAST_STEPS = 10
# Share of the rise of the objective over all steps. Pintor et al. allow 0.01 for a step size
# that falls; here it is constant, so that the best point keeps moving.
STILL_RISING = 0.05
# Of APGD: half those of `attacks.standard`, and the likeliest classes only.
STRONG_STEPS = 50
STRONG_TARGETS = 3
QUERIES = 500
DRAWS = 100

NAMES = (
    "single_step_stronger",
    "catastrophic_overfitting",
    "not_monotone",
    "chance_not_reached",
    "silent_success",
    "loss_still_rising",
    "not_converged",
    "pgd_too_weak",
    "gradient_free_stronger",
    "attack_finds_planted",
)


@dataclass(frozen=True, eq=False)
class AttackChecks:
    """Compares PGD at ε with other attacks on the same examples.

    Attributes:
        task: A `Task` with logits.
        epsilon: Size of the perturbation.
        norm: Norm of the perturbation, `"linf"` or `"l2"`.
        bounds: Lowest and highest pixel value.
        seed: Seed of the attacks.
        others: Keras classifiers to transfer adversarial examples from.
    """

    task: Task
    epsilon: float
    norm: str
    bounds: Bounds
    seed: int
    others: tuple[keras.Model, ...]

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.task.images)

    @property
    def pixel_size(self) -> float:
        """Size of each pixel of the perturbation of size 1 whose pixels are all the same."""
        return 1.0 if self.norm == "linf" else float(self.task.images[0].size ** -0.5)

    @property
    def tolerance(self) -> float:
        """Difference of accuracies that does not count."""
        return find_tolerance(DIFFERENCE, self.n)

    @cached_property
    def correct(self) -> np.ndarray:
        """bool `(n,)`: whether the clean example is classified correctly."""
        return np.asarray(is_correct(self.task.logits, self.task.labels))

    def find(self) -> list[Finding]:
        """Runs the attacks and returns a finding for each of `NAMES`."""
        if not self.correct.any():
            meaning = "No example is classified correctly, so there is nothing to attack."
            return [not_applicable(name, meaning, CARLINI) for name in NAMES]
        pgd = self._pgd(self.epsilon)
        attacked = self.task.select(self.correct)
        outcome = pgd.attempt(attacked)
        robust = self.correct.copy()
        robust[self.correct] = ~np.asarray(outcome.fooled)
        scores, fooled = pgd.trace(attacked)
        accuracy = self._security_curve(robust)
        longer, again = self._longer_and_again(robust)
        # The margin finds examples that CE misses although no gradient is masked.
        weak = self._attack(self._pgd(self.epsilon, "margin"), longer & again)
        strong = self._withstand_apgd(weak)
        return [
            self._single_step_stronger(robust),
            catastrophic_overfitting(self.correct.mean(), self._single_step, robust.mean()),
            self._not_monotone(accuracy),
            self._chance_not_reached(accuracy[self._large_epsilon]),
            self._silent_success(pgd, attacked, outcome, fooled),
            self._loss_still_rising(scores[~fooled.any(axis=1)]),
            self._not_converged(robust, longer, again),
            self._pgd_too_weak(weak, strong),
            self._gradient_free_stronger(strong),
            attack_finds_planted(pgd, self.task),
        ]

    @property
    def _shared(self) -> dict[str, Any]:
        return {
            "norm": self.norm,
            "bounds": self.bounds,
            "batch_size": self.task.batch_size,
            "seed": self.seed,
        }

    def _pgd(self, epsilon: float, objective: str = "ce", **changes: Any) -> PGD:
        return PGD(epsilon, objective, **{"n_iter": STEPS, **self._shared, **changes})

    def _attack(self, attack: Attack, robust: np.ndarray) -> np.ndarray:
        """bool `(n,)`: which of the examples `robust` are robust to this attack too."""
        still = robust.copy()
        if robust.any():
            still[robust] = ~np.asarray(attack.attempt(self.task.select(robust)).fooled)
        return still

    @cached_property
    def _single_step(self) -> float:
        """Accuracy under a single step."""
        step = self._pgd(self.epsilon, n_iter=1, step_size=1.0, random_start=False)
        return float(self._attack(step, self.correct).mean())

    def _single_step_stronger(self, robust: np.ndarray) -> Finding:
        single, pgd = self._single_step, robust.mean()
        meaning = (
            f"Accuracy is {format_percent(single)} under a single step and {format_percent(pgd)} "
            f"under PGD with {STEPS} steps"
        )
        if pgd - single > self.tolerance:
            meaning += ": the weaker attack fools more examples, so PGD fails on this model"
        return judge("single_step_stronger", pgd - single, self.tolerance, f"{meaning}.", ATHALYE)

    @property
    def _large_epsilon(self) -> float:
        return LARGE * widest(self.bounds) / self.pixel_size

    def _security_curve(self, robust: np.ndarray) -> dict[float, float]:
        """Accuracy under PGD for each ε: 0, ε/2, ε, 2ε and the large one."""
        accuracy = {0.0: self.correct.mean(), self.epsilon: robust.mean()}
        large = self._large_epsilon
        wanted = {self.epsilon / 2, 2 * self.epsilon, large} - {self.epsilon}
        for epsilon in sorted(value for value in wanted if value <= max(large, self.epsilon)):
            accuracy[epsilon] = self._attack(self._pgd(epsilon), self.correct).mean()
        return accuracy

    def _not_monotone(self, accuracy: dict[float, float]) -> Finding:
        values = np.array([accuracy[epsilon] for epsilon in sorted(accuracy)])
        rise = (values - np.minimum.accumulate(values)).max()
        curve = ", ".join(f"{format_percent(accuracy[e])} at ε = {e:g}" for e in sorted(accuracy))
        if rise > self.tolerance:
            trend = f"It rises by {format_percent(rise)}, although a larger ε only helps the attack"
        else:
            trend = "It falls as ε grows, as it should"
        meaning = f"Accuracy is {curve}. {trend}."
        return judge("not_monotone", rise, self.tolerance, meaning, CARLINI)

    def _chance_not_reached(self, accuracy: float) -> Finding:
        chance = find_chance_level(np.asarray(self.task.logits).shape[1], self.n)
        meaning = (
            f"At ε = {self._large_epsilon:g}, where any image can be made grey, "
            f"{format_percent(accuracy)} of the examples withstand PGD"
        )
        meaning += ": the attack fails." if accuracy > chance else "."
        return judge("chance_not_reached", accuracy, chance, meaning, CARLINI)

    def _silent_success(
        self, pgd: PGD, attacked: Task, outcome: Outcome, fooled: np.ndarray
    ) -> Finding:
        logits = predict_logits(attacked, outcome.images)
        seen = np.asarray(outcome.fooled) | fooled.any(axis=1)
        lost = (seen & ~pgd.is_fooled(logits, attacked.labels)).sum() / self.n
        last = (seen & ~fooled[:, -1]).sum() / self.n
        meaning = (
            f"For {format_percent(lost)} of the examples PGD saw an image that fools the model and "
            "returned one that does not. (An attack that returns its last point would lose "
            f"{format_percent(last)}.)"
        )
        return judge("silent_success", lost, self.tolerance, meaning, PINTOR)

    def _loss_still_rising(self, scores: np.ndarray) -> Finding:
        scores = scores[np.isfinite(scores).all(axis=1)]
        if len(scores) == 0:
            meaning = "PGD fools every example, so there is no objective that could still rise."
            return not_applicable("loss_still_rising", meaning, PINTOR)
        best = np.maximum.accumulate(scores, axis=1)
        rise = (best[:, -1] - best[:, -1 - LAST_STEPS]).mean()
        measured = rise / max((best[:, -1] - best[:, 0]).mean(), 1e-12)
        meaning = (
            f"On the {len(scores)} examples that withstand PGD, {format_percent(measured)} of the "
            f"rise of its objective comes from the last {LAST_STEPS} of {STEPS} steps"
        )
        meaning += ": use more steps." if measured > STILL_RISING else "."
        return judge("loss_still_rising", measured, STILL_RISING, meaning, PINTOR, "warning")

    def _longer_and_again(self, robust: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which examples are robust to twice the steps, and which to a second restart."""
        longer = self._attack(self._pgd(self.epsilon, n_iter=2 * STEPS), robust)
        again = self._attack(self._pgd(self.epsilon, seed=self.seed + 1), robust)
        return longer, again

    def _not_converged(self, robust: np.ndarray, longer: np.ndarray, again: np.ndarray) -> Finding:
        steps, restarts = ((robust & ~still).mean() for still in (longer, again))
        measured = max(steps, restarts)
        meaning = (
            f"Twice the steps fool the model on another {format_percent(steps)} of the examples, "
            f"twice the restarts on {format_percent(restarts)}"
        )
        meaning += ": PGD has not converged." if measured > self.tolerance else "."
        return judge("not_converged", measured, self.tolerance, meaning, CARLINI, "warning")

    def _withstand_apgd(self, robust: np.ndarray) -> np.ndarray:
        shared = {"n_iter": STRONG_STEPS, **self._shared}
        robust = self._attack(APGD(self.epsilon, "ce", **shared), robust)
        targeted = APGD(self.epsilon, "targeted_dlr", n_targets=STRONG_TARGETS, **shared)
        return self._attack(targeted, robust)

    def _pgd_too_weak(self, weak: np.ndarray, strong: np.ndarray) -> Finding:
        measured = (weak & ~strong).mean()
        threshold = find_tolerance(STRONGER_DIFFERENCE, self.n)
        meaning = (
            f"{format_percent(weak.mean())} of the examples withstand PGD. APGD on CE and on the "
            f"targeted DLR fools another {format_percent(measured)}"
        )
        if measured > threshold:
            meaning += ": PGD is too weak here, use `attacks.APGD` or `attacks.standard`"
        return judge("pgd_too_weak", measured, threshold, f"{meaning}.", AUTOATTACK, "warning")

    def _gradient_free_stronger(self, robust: np.ndarray) -> Finding:
        shares = {
            name: (robust & ~self._attack(attack, robust)).mean()
            for name, attack in self._gradient_free_attacks().items()
        }
        measured = max(shares.values())
        threshold = find_tolerance(STRONGER_DIFFERENCE, self.n)
        found = ", ".join(f"{name} on {format_percent(share)}" for name, share in shares.items())
        meaning = (
            f"{format_percent(robust.mean())} of the examples withstand PGD and APGD. Attacks that "
            f"do not use this model's gradient fool it on additional examples: {found}"
        )
        meaning += ". Its gradients are masked." if measured > threshold else "."
        return judge("gradient_free_stronger", measured, threshold, meaning, ATHALYE)

    def _gradient_free_attacks(self) -> dict[str, Attack]:
        attacks: dict[str, Attack] = {
            "noise": Noise(self.epsilon, n_draws=DRAWS, **self._shared),
            "Square": Square(self.epsilon, n_queries=QUERIES, **self._shared),
        }
        if self.others:
            source = MomentumPGD(self.epsilon, stop_early=False, **self._shared)
            attacks["transfer"] = Transfer(source, self.others, batch_size=self.task.batch_size)
        return attacks
