"""Checks of the values of a protocol that are more than a number or a name."""

import itertools
import math
import numbers
from typing import Any


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
