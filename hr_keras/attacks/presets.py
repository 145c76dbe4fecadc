"""Attacks by name, with fixed settings: what the command line offers."""

import difflib

from hr_keras.attacks.apgd import APGD
from hr_keras.attacks.fab import FAB
from hr_keras.attacks.noise import Noise
from hr_keras.attacks.pgd import PGD, MomentumPGD
from hr_keras.attacks.square import Square
from hr_keras.attacks.worst_case import fast, standard

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
NAMES = tuple(_MADE)


def make(name, epsilon, norm="linf", seed=0, bounds=(0.0, 1.0), batch_size=256):
    """An attack by its name.

    Args:
        name: one of `NAMES`.
        epsilon: size of the perturbation, in the units of the images; at least 0.
        norm: what ε measures: `"linf"` or `"l2"`.
        seed: integer ≥ 0.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.

    Raises:
        ValueError: for a name that is none of these, or another argument not as described.

    Example:
        >>> attack = named.make("standard", epsilon=0.1)
    """
    shared = {"norm": norm, "seed": seed, "bounds": bounds, "batch_size": batch_size}
    return _MADE[check(name)][1](epsilon, **shared)


def describe(name):
    """What the attack of a name does, in a line."""
    return _MADE[check(name)][0]


def settings(attack):
    """The arguments of an attack, those of its parts included, as a dict that JSON can hold."""
    kept = {"attack": type(attack).__name__}
    for key, value in vars(attack).items():
        if key == "attacks":
            kept[key] = [settings(part) for part in value]
        elif key in ("ball", "objective"):
            kept[key] = value.name
        elif isinstance(value, (str, int, float, tuple)) and not key.startswith("_"):
            kept[key] = list(value) if isinstance(value, tuple) else value
    return kept


def check(name):
    """The name itself; a ValueError unless it is one of `NAMES`."""
    if name not in NAMES:
        nearest = difflib.get_close_matches(str(name), NAMES, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`attack` must be one of {NAMES}.{hint} Received: {name!r}")
    return name
