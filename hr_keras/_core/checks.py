"""Checks of arguments: an error names what was expected and what was received."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np

StrategyName = Literal["auto", "none", "mirrored", "multiworker"]  # of `training.get_strategy`
STRATEGIES: tuple[str, ...] = get_args(StrategyName)
"""Names that `get_strategy` knows."""
Norm = Literal["linf", "l2"]
NORMS: tuple[str, ...] = get_args(Norm)
Bound = float | tuple[float, ...]  # for all channels, or one for each
Bounds = tuple[Bound, Bound]
# Those of `attacks.worst_case`, for what must not import TensorFlow; a test compares them.
ATTACK_NAMES = ("noise", "fgsm", "mifgsm", "pgd", "apgd", "fab", "square", "fast", "standard")


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


def check_batch_size(batch_size: Any) -> int:
    """Returns the batch size, or raises a ValueError unless it is a positive integer."""
    return check_count("batch_size", batch_size)


def check_number(
    argument: str,
    value: Any,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Returns `value` as a float if it is a finite number > `above`, ≥ `least` and ≤ `most`.

    Raises:
        ValueError: If it is not.
    """
    number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not (number and above < float(value) and least <= float(value) <= most):
        limits = {"greater than": above, "at least": least, "at most": most}
        said = [f"{words} {limit:g}" for words, limit in limits.items() if math.isfinite(limit)]
        raise ValueError(
            f"`{argument}` must be {' '.join(['a finite number', ' and '.join(said)]).strip()}. "
            f"Received: {argument}={value!r}"
        )
    return float(value)


def check_alpha(alpha: Any) -> float:
    """Returns `alpha` as a float, or raises a ValueError unless it is finite and above 1."""
    return check_number("alpha", alpha, above=1)


def check_epsilon(epsilon: Any) -> float:
    """Returns ε as a float, or raises a ValueError unless it is a finite number ≥ 0."""
    if not (isinstance(epsilon, numbers.Real) and 0 <= float(epsilon) < math.inf):
        raise ValueError(f"`epsilon` must be a finite number ≥ 0. Received: {epsilon!r}")
    return float(epsilon)


def check_epsilons(epsilons: Any) -> tuple[float, ...]:
    """Returns ε values as floats; a ValueError unless there is at least one and all are ≥ 0."""
    if isinstance(epsilons, numbers.Real) or len(tuple(epsilons)) == 0:
        raise ValueError(f"`epsilons` must hold at least one value. Received: {epsilons!r}")
    return tuple(check_epsilon(epsilon) for epsilon in epsilons)


def check_bounds(bounds: Any) -> Bounds:
    """Returns (lowest, highest), each a float or a tuple with one for each channel.

    Raises:
        ValueError: Unless lowest < highest in every channel.
    """
    try:
        low, high = np.broadcast_arrays(*(np.asarray(bound, "float64") for bound in bounds))
        if low.ndim:  # other axes may have a side of 1, as keepdims=True makes them
            low, high = low.reshape(low.shape[-1]), high.reshape(low.shape[-1])
    except (TypeError, ValueError):
        low = high = np.zeros(())
    if not (low < high).all() or low.size == 0:
        raise ValueError(
            "`bounds` must be (lowest, highest) pixel value, numbers or one for each channel. "
            f"Received: {bounds!r}"
        )
    low, high = low.tolist(), high.tolist()
    return (tuple(low), tuple(high)) if isinstance(low, list) else (low, high)


def check_norm(norm: Any) -> Norm:
    """Returns `"linf"` or `"l2"`; also for np.inf and 2, as other libraries have it.

    Raises:
        ValueError: For anything else.
    """
    names = {"inf": "linf", "l_inf": "linf", "2": "l2", "2.0": "l2", "l_2": "l2"}
    name = str(norm).lower()
    return check_choice("norm", names.get(name, name), NORMS)  # type: ignore[return-value]
