"""Bounds on the misclassification probability from the terms of the HR loss."""

from typing import Any

from keras import ops

from hr_keras._core import proposition
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
    return proposition.upper_bound(ops, entropy, divergence, alpha)


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
    return proposition.surrogate_bound(ops, to_float("risk", risk), alpha)


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
    constant = beta(num_classes)
    entropy = to_float("entropy", entropy)
    reversed_divergence = to_float("reversed_divergence", reversed_divergence)
    reversed_divergence = ops.cast(reversed_divergence, entropy.dtype)
    return proposition.lower_bound(ops, entropy, reversed_divergence, alpha, constant)


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
    return proposition.beta(check_number("num_classes", num_classes, least=2))
