"""Checks of arguments: an error names what was expected and what was received."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any, Literal, get_args

StrategyName = Literal["auto", "none", "mirrored", "multiworker"]  # of `training.get_strategy`
STRATEGIES: tuple[str, ...] = get_args(StrategyName)


def check_choice(argument: str, value: Any, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Args:
        argument: Name of the argument, for the message.
        value: The value that was received.
        choices: The accepted values.

    Returns:
        The value.

    Raises:
        ValueError: If it is none of the choices. The message names the nearest one.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return value
    nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"`{argument}` must be one of {choices}.{hint} Received: {value!r}")


def check_count(argument: str, value: Any, lowest: int = 1) -> int:
    """Returns `value` as an int if it is an integer of at least `lowest` (0 or 1).

    Raises:
        ValueError: If it is not.
    """
    if not (isinstance(value, numbers.Integral) and int(value) >= lowest):
        kind = {0: "an integer ≥ 0", 1: "a positive integer"}[lowest]
        raise ValueError(f"`{argument}` must be {kind}. Received: {value!r}")
    return int(value)


def check_alpha(alpha: Any) -> float:
    """Returns `alpha` as a float if it is a finite number greater than 1.

    Raises:
        ValueError: If it is not.
    """
    if not (isinstance(alpha, numbers.Real) and 1 < float(alpha) < math.inf):
        raise ValueError(
            f"`alpha` must be a finite number greater than 1. Received: alpha={alpha!r}"
        )
    return float(alpha)
