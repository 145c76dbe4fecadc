"""Closed forms of the objectives CE and CE + H: they neither vanish nor round in saturation.

Let u = 1 − q(y) be the probability of the wrong classes, s the softmax over k ≠ y, and
ℓ = logsumexp_{k≠y} z_k − z_y the log-odds against the label, so that u = sigmoid(ℓ). Then

    ∇CE = u·∇ℓ
    ∇(CE + H) = u·([1 + (1 − u)(H(s) − ℓ)]·∇ℓ + ∇H(s))

The factor u > 0, which vanishes in float32 where the softmax saturates, does not change the
direction. A surrogate is a function whose gradient has this direction.
"""

from typing import Any

from keras import ops

from hr_keras._core import information

# Takes the label's class out of a softmax without an infinity in a gradient.
_EXCLUDED = -1e30


def ce_surrogate(labels: Any, logits: Any) -> Any:
    """Computes ℓ `(n,)`, whose gradient has the direction of the cross-entropy's.

    Args:
        labels: Class numbers `(n,)`.
        logits: `(n, classes)`.
    """
    log_odds, _ = _log_odds_against(labels, logits)
    return log_odds


def hr_surrogate(labels: Any, logits: Any) -> Any:
    """Computes `(n,)` whose gradient has the direction of that of CE + H.

    Args:
        labels: Class numbers `(n,)`.
        logits: `(n, classes)`.
    """
    log_odds, others = _log_odds_against(labels, logits)
    entropy = information.conditional_entropy(ops.log_softmax(others, axis=-1))
    # The factor, at least 0.7, divides H(s): as a factor of ℓ it would be as large as the
    # logit gap, and overflow in the backward pass of a float16 model.
    factor = ops.stop_gradient(1.0 + ops.sigmoid(-log_odds) * (entropy - log_odds))
    return log_odds + entropy / factor


def log_hr(labels: Any, logits: Any) -> Any:
    """Computes log(CE + H) `(n,)` from ℓ: a sum of positive terms, exact where both go to 0.

    With CE = softplus(ℓ), −log u = softplus(−ℓ) and H = h_b(u) + u·H(s):
    CE + H = CE·[2 − u + (u/CE)·(softplus(−ℓ) + H(s))].

    Args:
        labels: Class numbers `(n,)`.
        logits: `(n, classes)`.
    """
    log_odds, others = _log_odds_against(labels, logits)
    entropy = information.conditional_entropy(ops.log_softmax(others, axis=-1))
    minus_log_u = ops.softplus(-log_odds)
    # log softplus(ℓ) → ℓ, where softplus itself underflows
    log_ce = ops.where(log_odds < -15.0, log_odds, ops.log(ops.softplus(log_odds) + 1e-30))
    share = ops.exp(-minus_log_u - log_ce)
    factor = 2.0 - ops.exp(-minus_log_u) + share * (minus_log_u + entropy)
    return log_ce + ops.log(factor)


def label_and_other_logits(labels: Any, logits: Any) -> tuple[Any, Any]:
    """Splits logits: the label's `(n,)`, and all with the label's excluded `(n, classes)`."""
    label = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    own = ops.sum(ops.where(label, logits, 0.0), axis=-1)
    return own, ops.where(label, _EXCLUDED, logits)


def _log_odds_against(labels: Any, logits: Any) -> tuple[Any, Any]:
    own, others = label_and_other_logits(labels, logits)
    return ops.logsumexp(others, axis=-1) - own, others
