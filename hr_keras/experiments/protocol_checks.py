"""Checks of the values of a protocol that are more than a number or a name."""

import itertools
import math
import numbers
from typing import Any

from hr_keras.experiments.methods import get_method


def check_attack_sizes(epsilons: Any) -> tuple[float, ...]:
    """Returns sizes of attacks as floats; a ValueError unless all are ≥ 0 and differ."""
    values = tuple(map(float, epsilons))
    if not all(0 <= value < math.inf for value in values) or len(set(values)) < len(values):
        raise ValueError(
            f"`epsilons` must be numbers of at least 0, none twice. Received: {epsilons}"
        )
    return values


def check_schedule(schedule: Any) -> tuple[tuple[int, float], ...]:
    """Returns pairs (epoch, factor); a ValueError unless epochs rise and factors are positive."""
    try:
        pairs = tuple((int(epoch), float(factor)) for epoch, factor in schedule)
    except (TypeError, ValueError):
        pairs = ((0, 0.0),)
    epochs = [0, *(epoch for epoch, _ in pairs)]
    rising = all(a < b for a, b in itertools.pairwise(epochs))
    if not (rising and all(0 < factor < math.inf for _, factor in pairs)):
        raise ValueError(
            "`schedule` must be pairs (epoch, factor) with rising epochs, the first at least 1, "
            f"and positive factors. Received: {schedule!r}"
        )
    return pairs


def check_label_noise(share: Any) -> float:
    """Returns a share of wrong labels as a float; a ValueError unless it is in [0, 1)."""
    if not (isinstance(share, numbers.Real) and 0 <= float(share) < 1):
        raise ValueError(f"`label_noise` must be in [0, 1). Received: {share!r}")
    return float(share)


def check_learning_rate(rate: Any) -> float:
    """Returns a learning rate as a float; a ValueError unless it is finite and above 0."""
    if not (isinstance(rate, numbers.Real) and 0 < float(rate) < math.inf):
        raise ValueError(f"`learning_rate` must be > 0. Received: {rate!r}")
    return float(rate)


def check_learning_rates(rates: Any) -> tuple[tuple[str, float], ...]:
    """Returns pairs (method, learning rate) of pairs or a mapping.

    A ValueError for anything else, unknown methods or one twice.
    """
    try:
        given = [(str(name), rate) for name, rate in getattr(rates, "items", lambda: rates)()]
    except (TypeError, ValueError):
        raise ValueError(
            f"`learning_rates` must be pairs (method, learning rate). Received: {rates!r}"
        ) from None
    pairs = tuple((get_method(name).name, check_learning_rate(rate)) for name, rate in given)
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"`learning_rates` must hold no method twice. Received: {rates!r}")
    return pairs


def check_own_rates(methods: tuple[str, ...], rates: tuple[tuple[str, float], ...]) -> None:
    """A ValueError if a method that needs a learning rate of its own has none."""
    for name in methods:
        if get_method(name).needs_own_rate and name not in dict(rates):
            twin = get_method(name).trains_as
            raise ValueError(
                f"`{name}` without a learning rate of its own is `{twin}` once more: give it one "
                f"with `--learning-rate-of {name}=RATE` or `--learning-rates-from`. Received: "
                f"learning rates {rates}"
            )
