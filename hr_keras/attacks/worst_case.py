"""Several attacks one after another, each on the examples that the ones before did not fool."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from hr_keras._core.checks import check_choice
from hr_keras.attacks._attack import Attack
from hr_keras.attacks._perturbation import Bounds, Norm
from hr_keras.attacks._task import Outcome, Task
from hr_keras.attacks.apgd import APGD
from hr_keras.attacks.fab import FAB
from hr_keras.attacks.noise import Noise
from hr_keras.attacks.pgd import PGD, MomentumPGD
from hr_keras.attacks.square import Square

__all__ = ["ATTACK_NAMES", "WorstCase", "describe_attack", "fast", "make_attack", "standard"]


@dataclass(frozen=True)
class WorstCase(Attack):
    """Attacks one after another, each on the examples that are not fooled yet.

    ```
    robust(x) = attack_1 does not fool x and … and attack_k does not fool x
    ```

    Returns the first image that fools the model; if there is none, the image unchanged.

    Costs one forward pass of the images, and for each attack what it costs for the examples
    that the ones before it did not fool. It is cheapest to put the quickest attacks first. The
    order decides only which of several fooling images is returned.

    Args:
        attacks: One `Attack`, or several with the same `bounds`; none of them targeted.
        batch_size: Examples in one compiled step; it replaces that of the attacks. Default 256.
        jit_compile: Has no effect here: each attack has its own.
        name: Name in logs and tables. Default `"worst_case"`.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
          diverse parameter-free attacks"

    Example:
        ```python
        from hr_keras.attacks import PGD, Square, WorstCase

        attack = WorstCase([PGD(0.1, "margin", n_iter=5), Square(0.1, n_queries=20)])
        adversarial = attack(model, images, labels)
        ```
    """

    attacks: Any  # a tuple after `__post_init__`
    bounds: Bounds = field(init=False, repr=False, default=(0.0, 1.0))
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


def check_attacks(attacks: Any) -> tuple[Attack, ...]:
    """Returns one or several attacks as a tuple.

    Raises:
        ValueError: Unless there is at least one, none is targeted and all have the same bounds.
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


def standard(
    epsilon: float,
    norm: Norm = "linf",
    seed: int = 0,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
) -> WorstCase:
    """Makes the strongest attack here: APGD-CE, APGD-T, FAB-T and Square, as in AutoAttack.

    APGD on cross-entropy (100 steps), APGD on the targeted DLR and FAB (100 steps for each of
    the 9 likeliest other classes, or all of them), Square (5,000 queries, with the schedule of
    its windows as for 10,000). These are AutoAttack's numbers. Three things differ: APGD starts
    from points drawn uniformly in the ball (AutoAttack: on its border), FAB ends with the first
    image inside the ball (AutoAttack: with the nearest), and an example's random numbers depend
    on no other example.

    Costs, of the examples that are not fooled yet, 100 + 900 forward + backward passes,
    900 × (2 forward + 1 backward), and 5,000 forward: some 12,000 times a forward pass for
    each example that is robust.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.

    Returns:
        A `WorstCase`.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
          diverse parameter-free attacks"

    Example:
        ```python
        from hr_keras.attacks import standard

        attack = standard(epsilon=0.1)
        print([part.name for part in attack.attacks])
        ```
    """
    shared: dict[str, Any] = {
        "norm": norm,
        "seed": seed,
        "bounds": bounds,
        "batch_size": batch_size,
    }
    return _preset(
        "standard",
        APGD(epsilon, "ce", n_iter=100, **shared),
        APGD(epsilon, "targeted_dlr", n_iter=100, n_targets=9, **shared),
        FAB(epsilon, n_iter=100, n_targets=9, **shared),
        Square(epsilon, n_queries=5000, rescale_schedule=False, **shared),
    )


def fast(
    epsilon: float,
    norm: Norm = "linf",
    seed: int = 0,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
) -> WorstCase:
    """Makes a quick attack for callbacks: PGD on the margin (20 steps), Square (500 queries).

    Costs, of the examples that are not fooled yet, 20 forward + backward passes and 500 forward.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.

    Returns:
        A `WorstCase`.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Andriushchenko et al. 2020, "Square Attack"; see `Square` and `PGD`

    Example:
        ```python
        from hr_keras.attacks import fast
        from hr_keras.callbacks import AttackCallback

        callback = AttackCallback((x_val, y_val), fast(0.1), every=2)
        ```
    """
    shared: dict[str, Any] = {
        "norm": norm,
        "seed": seed,
        "bounds": bounds,
        "batch_size": batch_size,
    }
    return _preset(
        "fast",
        PGD(epsilon, "margin", n_iter=20, **shared),
        Square(epsilon, n_queries=500, **shared),
    )


def _preset(preset: str, *attacks: Any) -> WorstCase:
    first = attacks[0]
    norm = () if first.norm == "linf" else (first.norm,)
    name = "_".join((preset, *norm, f"{first.epsilon:g}"))
    return WorstCase(attacks, batch_size=first.batch_size, name=name)


_MADE: dict[str, tuple[str, Callable[..., Attack]]] = {
    "noise": ("best of 100 points drawn in the ball", partial(Noise, n_draws=100)),
    "fgsm": (
        "one step of size ε along the gradient of CE (its sign in L∞)",
        partial(PGD, objective="ce", n_iter=1, step_size=1.0, random_start=False),
    ),
    "mifgsm": ("PGD with momentum, CE, 10 steps", partial(MomentumPGD, objective="ce", n_iter=10)),
    "pgd": (
        "PGD on the margin, 40 steps from a random start, best of 2",
        partial(PGD, objective="margin", n_iter=40, n_restarts=2),
    ),
    "apgd": ("APGD on CE, 100 steps", partial(APGD, objective="ce", n_iter=100)),
    "fab": (
        "FAB, 100 steps towards each of the 9 likeliest other classes",
        partial(FAB, n_iter=100, n_targets=9),
    ),
    "square": ("Square, 5,000 queries, no gradient", partial(Square, n_queries=5000)),
    "fast": ("PGD on the margin (20 steps), then Square (500 queries)", fast),
    "standard": (
        "APGD-CE, APGD-T, FAB-T and Square (5,000 queries), as AutoAttack's standard",
        standard,
    ),
}
ATTACK_NAMES = tuple(_MADE)


def make_attack(
    name: str,
    epsilon: float,
    norm: Norm = "linf",
    seed: int = 0,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
) -> Attack:
    """Makes an attack by its name on the command line.

    Args:
        name: One of `ATTACK_NAMES`.
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.

    Returns:
        An `Attack`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        ```python
        from hr_keras.attacks.worst_case import make_attack

        attack = make_attack("pgd", epsilon=0.1)
        ```
    """
    make = _MADE[check_attack_name(name)][1]
    return make(epsilon, norm=norm, seed=seed, bounds=bounds, batch_size=batch_size)


def describe_attack(name: str) -> str:
    """Describes in a line what the attack of a name does.

    Args:
        name: One of `ATTACK_NAMES`.

    Returns:
        The description.

    Raises:
        ValueError: If there is no such name.

    Example:
        ```python
        from hr_keras.attacks.worst_case import describe_attack

        print(describe_attack("square"))
        ```
    """
    return _MADE[check_attack_name(name)][0]


def check_attack_name(name: Any) -> str:
    """Returns the name, or raises a ValueError unless it is one of `ATTACK_NAMES`."""
    return check_choice("attack", name, ATTACK_NAMES)
