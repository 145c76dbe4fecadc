"""Cross-entropies that HR is compared with: pure functions on `keras.ops` tensors, in nats.

Each takes labels, integers `(...)` or distributions `(..., classes)`, and log-probabilities
`(..., classes)`, and returns the loss of each example, `(...)`: NaN where a class number is not
one of 0 … classes − 1.
"""

import math

from keras import ops

from hr_keras._core.information import (
    LOWEST,
    Tensor,
    are_distributions,
    conditional_entropy,
    cross_entropy,
)

# Keeps the gradient of u^γ finite at u = 0, where γ may be less than 1.
_SMALLEST = 1e-30


def entropy_regularized(labels: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """Computes CE + weight·H, with H the entropy of the soft decision."""
    return cross_entropy(labels, log_q) + weight * conditional_entropy(log_q)


def smoothed(labels: Tensor, log_q: Tensor, smoothing: float) -> Tensor:
    """Computes the CE to the label (1 − s)·p + s/classes."""
    uniform = -ops.mean(ops.maximum(log_q, LOWEST), axis=-1)
    return (1.0 - smoothing) * cross_entropy(labels, log_q) + smoothing * uniform


def focal(labels: Tensor, log_q: Tensor, gamma: float) -> Tensor:
    """Computes Σ_y p(y)·(1 − q(y))^γ·(−log q(y))."""
    wrong = ops.maximum(-ops.expm1(log_q), _SMALLEST)
    return cross_entropy(labels, ops.power(wrong, gamma) * log_q)


def generalized(labels: Tensor, log_q: Tensor, order: float) -> Tensor:
    """Computes Σ_y p(y)·(1 − q(y)^order)/order."""
    return cross_entropy(labels, ops.expm1(order * log_q) / order)


def reverse(labels: Tensor, log_q: Tensor) -> Tensor:
    """Computes the CE from the reversed label (1 − p)/(classes − 1) to softmax(−log q).

    The softmax of negated logits is that of negated log-probabilities, so it is exact whatever
    the scale. For class numbers it is the mean over the wrong classes k of
    log Σ_j exp(log q(k) − log q(j)).
    """
    reversed_log_q = ops.log_softmax(-ops.maximum(log_q, LOWEST), axis=-1)
    classes = log_q.shape[-1]
    own = cross_entropy(labels, reversed_log_q)
    if not are_distributions(labels, log_q):
        numbers = ops.arange(classes, dtype=labels.dtype)
        labels = ops.cast(ops.equal(ops.expand_dims(labels, -1), numbers), log_q.dtype)
    # Not (sum over all) − own: for a certain and right decision that is a small difference.
    others = cross_entropy(1.0 - labels, reversed_log_q) / (classes - 1.0)
    return ops.where(ops.isnan(own), math.nan, others)
