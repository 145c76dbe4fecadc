"""The formulas of Proposition 1 and Corollary 1, for `keras.ops` and for NumPy.

`hr_keras.error_bounds` says what they mean. Saved results are read without Keras, so the module of
the operations is an argument.
"""

import functools
import math
from typing import Any

import numpy as np


def upper_bound(ops: Any, entropy: Any, divergence: Any, alpha: Any) -> Any:
    """Returns [(1 − e^(−H)) · e^R]^((α−1)/α), at most 1."""
    exponent = (alpha - 1.0) / alpha
    # Not exp of a log: 1 − e^(−H) may be 0.
    share = -ops.expm1(-entropy)
    return ops.minimum(share**exponent * ops.exp(exponent * divergence), 1.0)


def surrogate_bound(ops: Any, risk: Any, alpha: Any) -> Any:
    """Returns exp((α−1)/α · (L_HR − 1)), at most 1."""
    return ops.minimum(ops.exp((alpha - 1.0) / alpha * (risk - 1.0)), 1.0)


def lower_bound(ops: Any, entropy: Any, reversed_divergence: Any, alpha: Any, constant: Any) -> Any:
    """Returns (1 − e^(−H))^(β·(α−1)/(α−2)) · e^(−R'), with the constant β."""
    exponent = constant * (alpha - 1.0) / (alpha - 2.0)
    return (-ops.expm1(-entropy)) ** exponent * ops.exp(-reversed_divergence)


@functools.cache
def beta(num_classes: float) -> float:
    """Returns the constant β(M) of the lower bound."""
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
