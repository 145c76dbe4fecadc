"""Functions of the logits that attacks maximise; none of them vanishes in saturation.

For cross-entropy and CE + H: let u = 1 − q(y) be the probability of the wrong classes, s the
softmax over k ≠ y, and ℓ = logsumexp_{k≠y} z_k − z_y the log-odds against the label, so that
u = sigmoid(ℓ). Then

    ∇CE = u·∇ℓ
    ∇(CE + H) = u·([1 + (1 − u)(H(s) − ℓ)]·∇ℓ + ∇H(s))

The factor u > 0, which vanishes in float32 where the softmax saturates, does not change the
direction. A surrogate is a function whose gradient has this direction.
"""

from typing import Any

from keras import ops

from hr_keras._core import information

__all__ = [
    "ce_surrogate",
    "dlr",
    "hr_surrogate",
    "log_hr",
    "logit_difference",
    "margin",
    "targeted_dlr",
]

# Takes the label's class out of a softmax without an infinity in a gradient.
_EXCLUDED = -1e30
# Keeps a quotient finite where several classes have the same logit.
_TINY = 1e-12


def ce_surrogate(labels: Any, logits: Any) -> Any:
    """Computes ℓ `(n,)`, whose gradient has the direction of the cross-entropy's.

    Args:
        labels: Class numbers `(n,)`.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.ce_surrogate(np.array([0]), logits)
        ```
    """
    log_odds, _ = _log_odds_against(labels, logits)
    return log_odds


def hr_surrogate(labels: Any, logits: Any) -> Any:
    """Computes `(n,)`, whose gradient has the direction of that of CE + H.

    Args:
        labels: Class numbers `(n,)`.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.hr_surrogate(np.array([0]), logits)
        ```
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

    Returns:
        `(n,)`.

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.log_hr(np.array([0]), logits)
        ```
    """
    log_odds, others = _log_odds_against(labels, logits)
    entropy = information.conditional_entropy(ops.log_softmax(others, axis=-1))
    minus_log_u = ops.softplus(-log_odds)
    # log softplus(ℓ) → ℓ, where softplus itself underflows
    log_ce = ops.where(log_odds < -15.0, log_odds, ops.log(ops.softplus(log_odds) + 1e-30))
    share = ops.exp(-minus_log_u - log_ce)
    factor = 2.0 - ops.exp(-minus_log_u) + share * (minus_log_u + entropy)
    return log_ce + ops.log(factor)


def margin(labels: Any, logits: Any) -> Any:
    """Computes max_{k≠y} z_k − z_y `(n,)`: positive where the example is not classified as y.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.margin(np.array([0]), logits)
        ```
    """
    own, others = split_logits(hard_labels(labels), logits)
    return ops.max(others, axis=-1) - own


def dlr(labels: Any, logits: Any) -> Any:
    """Computes the difference of logits ratio: the margin over the gap of 1st and 3rd class.

    ```
    DLR = (max_{k≠y} z_k − z_y) / (z_π1 − z_π3), π the classes by falling logit
    ```

    It changes neither with the scale nor with a shift of the logits. With fewer than 3 classes
    there is no such gap: the result is the margin.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        logits: `(n, classes)`.

    Returns:
        `(n,)`, at most 1.

    References:
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
          diverse parameter-free attacks", eq. (6)

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.dlr(np.array([0]), logits)
        ```
    """
    if logits.shape[-1] < 3:
        return margin(labels, logits)
    highest = ops.top_k(logits, 3)[0]
    return margin(labels, logits) / (highest[:, 0] - highest[:, 2] + _TINY)


def targeted_dlr(labels: Any, targets: Any, logits: Any) -> Any:
    """Computes the DLR towards one class: `(z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2)`.

    With fewer than 4 classes there is no such gap: the result is z_t − z_y.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        targets: Classes to reach, `(n,)`.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    References:
        - Croce & Hein 2020, eq. (7); see `dlr`

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.targeted_dlr(np.array([0]), np.array([2]), logits)
        ```
    """
    difference = logit_difference(labels, targets, logits)
    if logits.shape[-1] < 4:
        return difference
    highest = ops.top_k(logits, 4)[0]
    return difference / (highest[:, 0] - (highest[:, 2] + highest[:, 3]) / 2 + _TINY)


def logit_difference(labels: Any, targets: Any, logits: Any) -> Any:
    """Computes z_t − z_y `(n,)`: positive where the target is more probable than the label.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        targets: Classes to reach, `(n,)`.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    Example:
        ```python
        from hr_keras.attacks import closed_forms

        logits = np.array([[8.0, 1.0, 3.0]], "float32")
        values = closed_forms.logit_difference(np.array([0]), np.array([2]), logits)
        ```
    """
    own, _ = split_logits(hard_labels(labels), logits)
    target, _ = split_logits(targets, logits)
    return target - own


def hard_labels(labels: Any) -> Any:
    """Returns class numbers `(n,)`: the labels, or the most probable class of each row."""
    if len(labels.shape) == 1:
        return ops.cast(labels, "int32")
    return ops.cast(ops.argmax(labels, axis=-1), "int32")


def split_logits(labels: Any, logits: Any) -> tuple[Any, Any]:
    """Splits logits: the label's `(n,)`, and all with the label's excluded `(n, classes)`."""
    label = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    own = ops.sum(ops.where(label, logits, 0.0), axis=-1)
    return own, ops.where(label, _EXCLUDED, logits)


def _log_odds_against(labels: Any, logits: Any) -> tuple[Any, Any]:
    own, others = split_logits(labels, logits)
    return ops.logsumexp(others, axis=-1) - own, others
