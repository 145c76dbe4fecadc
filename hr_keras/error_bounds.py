"""Bounds on the misclassification probability from the terms of the HR loss."""

import functools
import math
from typing import Any

import numpy as np
from keras import ops

from hr_keras._core.checks import check_alpha, check_number
from hr_keras._core.loss_inputs import to_float

__all__ = ["beta", "lower_bound", "surrogate_bound", "upper_bound"]


def upper_bound(entropy: Any, divergence: Any, alpha: float) -> Any:
    """Computes the upper bound on the probability of error (Proposition 1).

    ```
    P_e ≤ [(1 − e^(−H)) · e^R]^((α−1)/α)
    ```

    for every α > 1, every classifier and every joint distribution, including the empirical one.

    Args:
        entropy: H(Ŷ|X) in nats, at least 0: a number or a tensor.
        divergence: R = α·D_α(p_XY‖p_XŶ) in nats, as in `HRLoss`.
        alpha: Order of the divergence, greater than 1.

    Returns:
        A tensor with the shape of `entropy`, at most 1.

    Raises:
        ValueError: If `alpha` is not greater than 1, or the terms are not numbers.

    References:
        - "A novel loss to train DNNs", Proposition 1.

    Example:

    ```python
    from hr_keras import error_bounds

    bound = error_bounds.upper_bound(0.5, 0.2, alpha=1.6)
    ```
    """
    alpha = check_alpha(alpha)
    entropy = to_float("entropy", entropy)
    divergence = ops.cast(to_float("divergence", divergence), entropy.dtype)
    share = -ops.expm1(-entropy)
    # Not exp of a log: 1 − e^(−H) may be 0.
    exponent = (alpha - 1.0) / alpha
    return ops.minimum(share**exponent * ops.exp(exponent * divergence), 1.0)


def surrogate_bound(risk: Any, alpha: float) -> Any:
    """Computes the upper bound on the probability of error from the HR risk alone (Corollary 1).

    ```
    P_e ≤ exp((α−1)/α · (L_HR − 1))
    ```

    because log(1 − e^(−H)) ≤ H − 1. It is never below `upper_bound`.

    Args:
        risk: L_HR = H + R in nats, over the whole distribution: a number or a tensor.
        alpha: Order of the divergence, greater than 1.

    Returns:
        A tensor with the shape of `risk`, at most 1.

    Raises:
        ValueError: If `alpha` is not greater than 1, or `risk` is not numbers.

    References:
        - "A novel loss to train DNNs", Corollary 1 and appendix B.

    Example:

    ```python
    from hr_keras import error_bounds

    bound = error_bounds.surrogate_bound(0.7, alpha=1.6)
    ```
    """
    alpha = check_alpha(alpha)
    exponent = (alpha - 1.0) / alpha
    return ops.minimum(ops.exp(exponent * (to_float("risk", risk) - 1.0)), 1.0)


def lower_bound(entropy: Any, reversed_divergence: Any, alpha: float, num_classes: int) -> Any:
    """Computes the lower bound on the probability of error (Proposition 1).

    ```
    P_e ≥ (1 − e^(−H))^(β·(α−1)/(α−2)) · e^(−R')
    ```

    for every α > 2, every classifier and every joint distribution. It is informative only for
    soft labels. With hard labels the classifier gives positive probability to classes that the
    labels exclude, so R' is infinite and the bound is 0.

    Args:
        entropy: H(Ŷ|X) in nats, at least 0: a number or a tensor.
        reversed_divergence: R' = (α−1)·D_(α−1)(p_XŶ‖p_XY)
            = 1/(α−2) · log E_x Σ_y q(y|x)^(α−1) p(y|x)^(2−α) in nats. It may be infinite.
        alpha: Greater than 2.
        num_classes: Number of classes M, at least 2.

    Returns:
        A tensor with the shape of `entropy`, at least 0.

    Raises:
        ValueError: If `alpha` is not greater than 2, `num_classes` is less than 2, or the terms
            are not numbers.

    References:
        - "A novel loss to train DNNs", Proposition 1.

    Example:

    ```python
    from hr_keras import error_bounds

    bound = error_bounds.lower_bound(0.5, 0.3, alpha=3.0, num_classes=10)
    ```
    """
    alpha = check_number("alpha", alpha, above=2)
    exponent = beta(num_classes) * (alpha - 1.0) / (alpha - 2.0)
    entropy = to_float("entropy", entropy)
    reversed_divergence = to_float("reversed_divergence", reversed_divergence)
    reversed_divergence = ops.cast(reversed_divergence, entropy.dtype)
    return (-ops.expm1(-entropy)) ** exponent * ops.exp(-reversed_divergence)


def beta(num_classes: int) -> float:
    """Computes the constant β(M) of the lower bound.

    It is the smallest β with log g⁻¹(h) ≥ β·log(1 − e^(−h)) for all h in (0, log M], where
    g(P) = h_b(P) + P·log M on [0, 1 − 1/M] and h_b is the binary entropy in nats. Fano's
    inequality says H ≤ g(P_u).

    Args:
        num_classes: Number of classes M, at least 2.

    Returns:
        A float, for example 2.14 for 2 classes and 4.07 for 10.

    Raises:
        ValueError: If `num_classes` is less than 2.

    References:
        - "A novel loss to train DNNs", appendix A.

    Example:

    ```python
    from hr_keras import error_bounds

    assert round(error_bounds.beta(10), 2) == 4.07
    ```
    """
    return _beta(check_number("num_classes", num_classes, least=2))


@functools.cache
def _beta(num_classes: float) -> float:
    lowest, highest = math.log(1e-300), math.log(_largest_uncertainty(num_classes))
    for _ in range(4):  # each grid is finer, around the largest ratio
        grid = np.linspace(lowest, highest, 10_001)
        ratios = _ratio(grid, num_classes)
        best = int(np.argmax(ratios))
        lowest, highest = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(ratios[best])


def _ratio(log_p: np.ndarray, num_classes: float) -> np.ndarray:
    """log P / log(1 − e^(−g(P))): β is at least this at h = g(P)."""
    return log_p / np.log(-np.expm1(-_fano(np.exp(log_p), num_classes)))


def _fano(p: Any, num_classes: float) -> Any:
    """g(P) = h_b(P) + P·log M."""
    return -p * np.log(p) - (1.0 - p) * np.log1p(-p) + p * math.log(num_classes)


def _largest_uncertainty(num_classes: float) -> float:
    """g⁻¹(log M), by bisection: g increases on [0, 1 − 1/M]."""
    low, high = 0.0, 1.0 - 1.0 / num_classes
    for _ in range(100):
        middle = (low + high) / 2
        if _fano(middle, num_classes) < math.log(num_classes):
            low = middle
        else:
            high = middle
    return low
