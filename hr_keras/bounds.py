"""Bounds on the misclassification probability from the terms of the HR loss."""

from keras import ops


def upper_bound(entropy, divergence, alpha):
    """Upper bound on the probability of error (Proposition 1).

    P_e ≤ [(1 − e^(−H)) · e^R]^((α−1)/α), for every α > 1, every classifier and every joint
    distribution, the empirical one included.

    Args:
        entropy: H(Ŷ|X) in nats, at least 0.
        divergence: R = α·D_α(p_XY‖p_XŶ) in nats, as `HRLoss` has it.
        alpha: order of the divergence, greater than 1.

    Returns:
        A tensor of the shape of `entropy`, at most 1.

    Source: "A novel loss to train DNNs", Proposition 1.

    Example:
        >>> float(bounds.upper_bound(0.0, 0.3, alpha=1.6))  # certain, so never wrong
        0.0
    """
    share = -ops.expm1(-ops.convert_to_tensor(entropy))
    # a power of the product, not exp of a log: 1 − e^(−H) may be 0
    exponent = (alpha - 1.0) / alpha
    return ops.minimum(share**exponent * ops.exp(exponent * divergence), 1.0)
