"""The mathematics of the HR loss: pure functions on `keras.ops` tensors.

`q` is the soft decision of the classifier (a softmax), `p` the distribution of the label.
All values are in nats. The functions take **log**-probabilities, which keep their precision
when a probability is close to 0 or 1.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Replaces log 0 where minus infinity would turn 0·log 0 into NaN.
LOWEST = -1e30

Tensor = Any


def log_probabilities(
    outputs: Tensor, from_logits: bool = False, totals: Tensor | None = None
) -> Tensor:
    """Computes log-probabilities from logits or from probabilities.

    Logits: `log q = z − logsumexp(z)`. Probabilities are normalized and clipped to [ε, 1 − ε]
    with ε = `keras.config.epsilon()` (1e-7), as in Keras' own losses.

    Args:
        outputs: Floating point `(..., classes)`.
        from_logits: Whether `outputs` are logits.
        totals: Sums of the probabilities of each example, `(..., 1)`, if they are known.

    Returns:
        `(..., classes)`, with the dtype of `outputs`.
    """
    if from_logits:
        return ops.log_softmax(outputs, axis=-1)
    epsilon = keras.config.epsilon()
    outputs = outputs / (ops.sum(outputs, axis=-1, keepdims=True) if totals is None else totals)
    return ops.log(ops.clip(outputs, epsilon, 1.0 - epsilon))


def conditional_entropy(log_q: Tensor) -> Tensor:
    """Computes the entropy of the soft decision for each example.

    H(Ŷ|x) = −Σ_y q(y|x) log q(y|x)

    Args:
        log_q: `(..., classes)` log-probabilities.

    Returns:
        `(...)`, each between 0 and log(classes). 0·log 0 counts as 0.
    """
    return -ops.sum(ops.exp(log_q) * ops.maximum(log_q, LOWEST), axis=-1)


def are_distributions(labels: Tensor, log_q: Tensor) -> bool:
    """Returns whether `labels` are distributions `(..., classes)` rather than class numbers."""
    return len(labels.shape) == len(log_q.shape) and labels.shape[-1] == log_q.shape[-1]


def cross_entropy(labels: Tensor, log_q: Tensor) -> Tensor:
    """Computes the cross-entropy of each example.

    CE = −log q(y) for a class number y, −Σ_y p(y) log q(y) for a distribution p.

    Args:
        labels: Integers `(...)`, or distributions `(..., classes)`.
        log_q: `(..., classes)` log-probabilities.

    Returns:
        `(...)`. NaN where a class number is not one of 0 … classes − 1.
    """
    if are_distributions(labels, log_q):
        return -ops.sum(labels * ops.maximum(log_q, LOWEST), axis=-1)
    classes = log_q.shape[-1]
    valid = ops.logical_and(labels >= 0, labels < classes)
    index = ops.expand_dims(ops.where(valid, labels, 0), axis=-1)
    log_q_y = ops.squeeze(ops.take_along_axis(log_q, index, axis=-1), axis=-1)
    return ops.where(valid, -log_q_y, math.nan)


def log_mean_exp_statistics(exponents: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Computes the four numbers of a shard from which `log_mean_exp_from` is exact.

    Args:
        exponents: `(..., n)`.
        weights: `(..., n)`, not negative. Entries of weight 0 are ignored, whatever
            their exponent.

    Returns:
        `(m, Σ w·expm1(a − m), Σ w·exp(a − m), Σ w)`, each `(...)`, where m is the
        largest exponent a of positive weight, held constant (0 if all weights are 0).
    """
    counts = weights > 0
    exponents = ops.where(counts, exponents, -math.inf)
    largest = ops.max(exponents, axis=-1, keepdims=True, initial=-math.inf)  # none: −∞
    largest = ops.stop_gradient(ops.where(ops.isinf(largest), 0.0, largest))
    shifted = ops.where(counts, exponents - largest, 0.0)
    return (
        ops.squeeze(largest, axis=-1),
        ops.sum(weights * ops.expm1(shifted), axis=-1),
        ops.sum(weights * ops.exp(shifted), axis=-1),
        ops.sum(weights, axis=-1),
    )


def log_mean_exp_from(statistics: Sequence[Tensor]) -> Tensor:
    """Computes log(Σ w·exp(a) / Σ w) from `log_mean_exp_statistics`; 0 if all weights are 0.

    It selects one of two forms of the same number: log1p of the mean of expm1, precise when all
    exponents are close together (α close to 1), and the log of the mean of exp, precise when
    a few exponents dominate (α large).
    """
    largest, sum_expm1, sum_exp, total = statistics
    some = total != 0  # also for a NaN, which must come out
    total = ops.where(some, total, 1.0)
    close = sum_expm1 / total
    is_close = close > -0.5
    log_close = ops.log1p(ops.where(is_close, close, 0.0))
    log_spread = ops.log(ops.where(is_close, 1.0, sum_exp / total))
    return ops.where(some, largest + ops.where(is_close, log_close, log_spread), 0.0)


def log_mean_exp(exponents: Tensor, weights: Tensor) -> Tensor:
    """Computes the weighted log-mean-exp over the last axis, log(Σ w·exp(a) / Σ w).

    Args:
        exponents: `(..., n)`.
        weights: `(..., n)`, not negative, of any sum.

    Returns:
        `(...)`; 0 if all weights are 0.
    """
    return log_mean_exp_from(log_mean_exp_statistics(exponents, weights))


def renyi_exponent(labels: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """Computes the exponent r of each example in the Rényi divergence.

    r = log Σ_y p(y)^α q(y)^(1−α); for a class number y, r = (α − 1)·CE.

    Args:
        labels: Integers `(...)`, or distributions `(..., classes)`.
        log_q: `(..., classes)` log-probabilities.
        alpha: Order of the divergence, greater than 1.

    Returns:
        `(...)`.
    """
    tilt = alpha - 1.0
    if not are_distributions(labels, log_q):
        return tilt * cross_entropy(labels, log_q)
    # Σ p^α q^(1−α) = Σ p·exp((α−1)(log p − log q)): the weighted log-mean-exp over the classes.
    positive = labels > 0
    log_p = ops.log(ops.where(positive, labels, 1.0))
    return log_mean_exp(ops.where(positive, tilt * (log_p - log_q), 0.0), labels)


def reversed_renyi_exponent(labels: Tensor, log_q: Tensor, order: float) -> Tensor:
    """Computes the exponent of each example in the divergence with its two sides exchanged.

    r' = log Σ_y q(y)^a p(y)^(1−a) for the order a > 1, so that
    a·D_a(p_XŶ‖p_XY) = 1/(a−1) · log E exp(r'). The lower bound on the probability of error
    uses it. It is infinite if a class of label probability 0 gets a positive probability, as
    with every class number.

    Args:
        labels: Integers `(...)`, or distributions `(..., classes)`.
        log_q: `(..., classes)` log-probabilities.
        order: The order a, greater than 1.

    Returns:
        `(...)`, at least 0.
    """
    if not are_distributions(labels, log_q):
        return ops.full_like(log_q[..., 0], math.inf)
    ruled_out = ops.any(ops.logical_and(labels <= 0, log_q > -math.inf), axis=-1)
    log_p = ops.log(ops.where(labels > 0, labels, 1.0))
    exponents = ops.where(labels > 0, order * log_q + (1.0 - order) * log_p, -math.inf)
    return ops.where(ruled_out, math.inf, ops.logsumexp(exponents, axis=-1))


def hr_per_example(labels: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """Computes the HR risk of each example as a batch of one: H + r/(α − 1).

    For a class number this is H + CE, whatever α: the objective of the paper's "HR attack",
    which does not depend on the other examples of the batch.

    Args:
        labels: Integers `(...)`, or distributions `(..., classes)`.
        log_q: `(..., classes)` log-probabilities.
        alpha: Order of the divergence, greater than 1.

    Returns:
        `(...)`.
    """
    return conditional_entropy(log_q) + renyi_exponent(labels, log_q, alpha) / (alpha - 1.0)


def hr_statistics(labels: Tensor, log_q: Tensor, alpha: float, weights: Tensor) -> Tensor:
    """Computes the five numbers of a shard from which the HR risk of the whole is exact.

    Args:
        labels: Integers `(n,)`, or distributions `(n, classes)`.
        log_q: `(n, classes)` log-probabilities.
        alpha: Order of the divergence, greater than 1.
        weights: Expectation weights `(n,)`, not negative.

    Returns:
        `(5,)`: the largest exponent, Σ w·expm1, Σ w·exp, Σ w (see
        `log_mean_exp_statistics`) and Σ w·H.
    """
    exponents = renyi_exponent(labels, log_q, alpha)
    entropy = ops.where(weights > 0, conditional_entropy(log_q), 0.0)
    return ops.stack(
        [*log_mean_exp_statistics(exponents, weights), ops.sum(weights * entropy)], axis=0
    )


def combine_statistics(statistics: Tensor) -> Tensor:
    """Combines the statistics of shards to those of the whole: `(shards, 5)` → `(5,)`."""
    largest, sum_expm1, sum_exp, total, entropy = (statistics[:, k] for k in range(5))
    highest = ops.max(ops.where(total > 0, largest, -math.inf))
    highest = ops.stop_gradient(ops.where(ops.isinf(highest), 0.0, highest))
    lag = ops.stop_gradient(ops.where(total > 0, largest - highest, 0.0))
    return ops.stack(
        [
            highest,
            ops.sum(sum_expm1 * ops.exp(lag) + total * ops.expm1(lag)),
            ops.sum(sum_exp * ops.exp(lag)),
            ops.sum(total),
            ops.sum(entropy),
        ]
    )


def entropy_and_divergence(statistics: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Computes the conditional entropy H and the Rényi term R = α·D_α from statistics.

    Args:
        statistics: `(5,)`, from `hr_statistics` or `combine_statistics`.
        alpha: Order of the divergence, greater than 1.

    Returns:
        H and R, two scalars; both 0 if all weights are 0.
    """
    weight, entropy = statistics[3], statistics[4]
    renyi = log_mean_exp_from([statistics[k] for k in range(4)]) / (alpha - 1.0)
    return entropy / ops.where(weight > 0, weight, 1.0), renyi


def hr_risk_from(statistics: Tensor, alpha: float) -> Tensor:
    """Computes the HR risk H + R from the statistics of shards, `(shards, 5)` → scalar."""
    entropy, renyi = entropy_and_divergence(combine_statistics(statistics), alpha)
    return entropy + renyi


def mean_statistics(values: Tensor, weights: Tensor) -> Tensor:
    """Computes (Σ w·v, Σ w) `(2,)` of a shard. Values of weight 0 are ignored, whatever they are.

    Args:
        values: `(n,)`.
        weights: `(n,)`, not negative.
    """
    return ops.stack([ops.sum(weights * ops.where(weights > 0, values, 0.0)), ops.sum(weights)])


def mean_from(statistics: Tensor) -> Tensor:
    """Computes Σ w·v / Σ w from `mean_statistics` of shards; 0 if all weights are 0."""
    total = ops.sum(statistics[:, 1])
    return ops.sum(statistics[:, 0]) / ops.where(total > 0, total, 1.0)


def hr_risk(labels: Tensor, log_q: Tensor, alpha: float, weights: Tensor | None = None) -> Tensor:
    """Computes the HR loss of a batch: conditional entropy plus Rényi divergence.

    L = Σ_i w_i H_i + R,  R = 1/(α−1) · log Σ_i w_i exp(r_i),  Σ w = 1.

    The expectation is *inside* the logarithm: R is a log-mean-exp over the batch. For
    class numbers it is the tilted empirical risk of the cross-entropy with tilt α − 1.

    Args:
        labels: Integers `(n,)`, or distributions `(n, classes)`.
        log_q: `(n, classes)` log-probabilities.
        alpha: Order of the divergence, greater than 1.
        weights: Expectation weights `(n,)`, not negative, of any sum. Default `None`: equal.

    Returns:
        A scalar.

    References:
        - "A novel loss to train DNNs", eq. (3) and (4).

    Example:

    ```python
    from hr_keras._core import information

    log_q = information.log_probabilities(model.predict(images, verbose=0))
    information.hr_risk(labels, log_q, alpha=1.6)
    ```
    """
    if weights is None:
        weights = ops.ones_like(log_q[..., 0])
    return hr_risk_from(hr_statistics(labels, log_q, alpha, weights)[None], alpha)
