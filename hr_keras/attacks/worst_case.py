"""Several attacks one after another, each on the examples that the ones before left standing."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hr_keras._core.checks import check_choice
from hr_keras.attacks._attack import Attack, Outcome, Task
from hr_keras.attacks.apgd import APGD
from hr_keras.attacks.fab import FAB
from hr_keras.attacks.noise import Noise
from hr_keras.attacks.pgd import PGD, MomentumPGD
from hr_keras.attacks.square import Square


@dataclass(frozen=True)
class WorstCase(Attack):
    """Attacks one after another, each on the examples still standing.

    An example is robust when none of them fools the model. Returns the first image that
    does, and where there is none the image unchanged.

    Costs one forward pass of the images, and for each attack what it costs for the examples
    that the ones before it left. It is cheapest to put the quickest attacks first; the
    result does not depend on the order, but for which of several fooling images is returned.

    Args:
        attacks: `Attack`s with the same `bounds`, none of them targeted.
        batch_size: examples in one compiled step.
        name: what it is called in logs and tables.

    Raises:
        ValueError: for an argument that is not as described.

    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
        ensemble of diverse parameter-free attacks".

    Example:
        >>> attack = WorstCase([PGD(0.1, "margin"), Square(0.1, n_queries=1000)])
        >>> adversarial = attack(model, images, labels)
    """

    attacks: Any  # a tuple after `__post_init__`
    bounds: tuple[float, float] = field(init=False, repr=False, default=(0.0, 1.0))
    targeted: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        attacks = check_attacks(self.attacks)
        self._normalise(attacks=attacks, bounds=attacks[0].bounds)
        super().__post_init__()

    def default_name(self) -> str:
        return "worst_case"

    def perturb(self, task: Task) -> Outcome:
        task = task.predict()
        fooled = self.is_fooled(task.logits, task.labels)
        images = task.images.copy()
        for attack in self.attacks:
            rows = np.flatnonzero(~fooled)
            if len(rows) == 0:
                break
            outcome = attack.attempt(task.select(rows))
            fooled[rows] = outcome.fooled
            images[rows[outcome.fooled]] = outcome.images[outcome.fooled]
        return Outcome(images, fooled)


def check_attacks(attacks):
    """Attacks as a tuple; a ValueError unless they are untargeted and of the same bounds.

    Args:
        attacks: an `Attack`, or several; at least one.
    """
    attacks = (attacks,) if isinstance(attacks, Attack) else tuple(attacks)
    if not attacks or not all(isinstance(attack, Attack) for attack in attacks):
        raise ValueError(
            "`attacks` must hold at least one attack, for example PGD(epsilon=0.1). "
            f"Received: {attacks!r}"
        )
    targeted = [attack.name for attack in attacks if attack.targeted]
    if targeted:
        raise ValueError(
            "`attacks` must not be targeted: an example is robust to an attack that does not "
            f"make the model wrong. Received: targeted {', '.join(targeted)}"
        )
    if len({attack.bounds for attack in attacks}) > 1:
        found = {attack.name: attack.bounds for attack in attacks}
        raise ValueError(f"`attacks` must have the same bounds. Received: {found}")
    return attacks


def standard(epsilon, norm="linf", seed=0, bounds=(0.0, 1.0), batch_size=256):
    """The strongest attack here: APGD-CE, APGD-T, FAB-T and Square, as AutoAttack's "standard".

    APGD on cross-entropy (100 steps), APGD on the targeted DLR and FAB (100 steps for each of
    the 9 likeliest other classes, or all of them), Square (5,000 queries, to which the schedule
    of its windows is stretched; AutoAttack takes it as for 10,000).

    Costs, of the examples that each leaves standing, 100 + 900 forward + backward passes,
    900 × (2 forward + 1 backward), and 5,000 forward: some 12,000 times a forward pass for
    each example that is robust.

    Args:
        epsilon: size of the perturbation, in the units of the images; at least 0.
        norm: what ε measures: `"linf"` or `"l2"`.
        seed: integer ≥ 0.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.

    Returns:
        A `WorstCase`.

    Source: Croce & Hein 2020; see `WorstCase`.

    Example:
        >>> result = evaluation.robust_accuracy(model, x_test, y_test, standard(0.1))
        >>> result.worst_case
    """
    shared = {"norm": norm, "seed": seed, "bounds": bounds, "batch_size": batch_size}
    attacks = (
        APGD(epsilon, "ce", n_iter=100, **shared),
        APGD(epsilon, "targeted_dlr", n_iter=100, n_targets=9, **shared),
        FAB(epsilon, n_iter=100, n_targets=9, **shared),
        Square(epsilon, n_queries=5000, **shared),
    )
    return WorstCase(attacks, batch_size=batch_size, name=_preset_name("standard", attacks[0]))


def fast(epsilon, norm="linf", seed=0, bounds=(0.0, 1.0), batch_size=256):
    """A quick attack for callbacks: PGD on the margin (20 steps), then Square (500 queries).

    Costs, of the examples that each leaves standing, 20 forward + backward passes and 500
    forward; arguments and result as for `standard`.

    Example:
        >>> callback = AttackCallback((x_val, y_val), fast(0.1))
    """
    shared = {"norm": norm, "seed": seed, "bounds": bounds, "batch_size": batch_size}
    attacks = (
        PGD(epsilon, "margin", n_iter=20, **shared),
        Square(epsilon, n_queries=500, **shared),
    )
    return WorstCase(attacks, batch_size=batch_size, name=_preset_name("fast", attacks[0]))


def _preset_name(preset, attack):
    norm = () if attack.norm == "linf" else (attack.norm,)
    return "_".join((preset, *norm, f"{attack.epsilon:g}"))


_MADE = {
    "noise": (
        "best of 100 points drawn in the ball",
        lambda epsilon, **shared: Noise(epsilon, n_draws=100, **shared),
    ),
    "fgsm": (
        "one step of size ε along the gradient of CE (its sign in L∞)",
        lambda epsilon, **shared: PGD(
            epsilon, "ce", n_iter=1, step_size=1.0, random_start=False, **shared
        ),
    ),
    "mifgsm": (
        "PGD with momentum, CE, 10 steps",
        lambda epsilon, **shared: MomentumPGD(epsilon, "ce", n_iter=10, **shared),
    ),
    "pgd": (
        "PGD on the margin, 40 steps from a random start, best of 2",
        lambda epsilon, **shared: PGD(epsilon, "margin", n_iter=40, n_restarts=2, **shared),
    ),
    "apgd": (
        "APGD on CE, 100 steps",
        lambda epsilon, **shared: APGD(epsilon, "ce", n_iter=100, **shared),
    ),
    "fab": (
        "FAB, 100 steps towards each of the 9 likeliest other classes",
        lambda epsilon, **shared: FAB(epsilon, n_iter=100, n_targets=9, **shared),
    ),
    "square": (
        "Square, 5,000 queries, no gradient",
        lambda epsilon, **shared: Square(epsilon, n_queries=5000, **shared),
    ),
    "fast": ("PGD on the margin (20 steps), then Square (500 queries)", fast),
    "standard": (
        "APGD-CE, APGD-T, FAB-T and Square (5,000 queries), as AutoAttack's standard",
        standard,
    ),
}
ATTACK_NAMES = tuple(_MADE)


def make_attack(name, epsilon, norm="linf", seed=0, bounds=(0.0, 1.0), batch_size=256):
    """An attack by its name.

    Args:
        name: one of `ATTACK_NAMES`.
        epsilon: size of the perturbation, in the units of the images; at least 0.
        norm: what ε measures: `"linf"` or `"l2"`.
        seed: integer ≥ 0.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.

    Raises:
        ValueError: for a name that is none of these, or another argument not as described.

    Example:
        >>> attack = make_attack("standard", epsilon=0.1)
    """
    shared = {"norm": norm, "seed": seed, "bounds": bounds, "batch_size": batch_size}
    return _MADE[check_attack_name(name)][1](epsilon, **shared)


def describe_attack(name):
    """What the attack of a name does, in a line."""
    return _MADE[check_attack_name(name)][0]


def check_attack_name(name):
    """The name itself; a ValueError unless it is one of `ATTACK_NAMES`."""
    return check_choice("attack", name, ATTACK_NAMES)
