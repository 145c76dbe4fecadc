"""`HRLoss`, its second term alone, and the losses it is compared with, as Keras losses."""

from typing import Any

import keras

from hr_keras._core import information
from hr_keras._core.checks import check_alpha
from hr_keras.losses._batch_loss import BatchLoss, Reduction
from hr_keras.losses._cross_entropies import (
    EntropyRegularizedCrossEntropy,
    FocalCrossEntropy,
    GeneralizedCrossEntropy,
    ReverseCrossEntropy,
    SmoothedCrossEntropy,
)

__all__ = [
    "EntropyRegularizedCrossEntropy",
    "FocalCrossEntropy",
    "GeneralizedCrossEntropy",
    "HRLoss",
    "RenyiLoss",
    "ReverseCrossEntropy",
    "SmoothedCrossEntropy",
]


@keras.saving.register_keras_serializable(package="hr_keras")
class HRLoss(BatchLoss):
    """Computes the HR loss: entropy of the softmax plus Rényi divergence, in nats.

    ```
    loss = Σ_i w_i H_i + 1/(α−1) · log Σ_i w_i exp(r_i)
    ```

    where H_i is the entropy of the soft decision q_i on example i, r_i = (α−1)·CE_i for a
    class number, r_i = log Σ_y p_i(y)^α q_i(y)^(1−α) for a soft label p_i, and w are the
    sample weights, normalized to sum to 1.

    The expectation is inside the logarithm. The loss of a batch is therefore not the mean of
    the losses of its examples, and its value depends on the batch size. Under a
    `tf.distribute` strategy the batch is the global batch.

    Args:
        alpha: Order of the Rényi divergence, greater than 1. As α → 1 the loss becomes mean
            cross-entropy + mean entropy. A larger α gives more weight to the worst examples.
            Default 1.6.
        from_logits: Whether `y_pred` are logits. With `False` (default), the logits behind a
            softmax are still used if Keras knows them. It does not know them while a model
            trains on JAX: probabilities are then clipped to [1e-7, 1 − 1e-7], as in Keras' own
            losses, and an example whose class has a smaller probability gets no gradient from
            its cross-entropy. On JAX, prefer models that end in logits.
        reduction: `"sum_over_batch_size"` (default), `"mean"` or `"mean_with_sample_weight"`.
            All three are the same here: sample weights are the weights of the expectation, so
            an integer weight counts as that many copies of the row. `"sum"` and `None` are
            refused, because the loss is one number for the batch. See `call` for batches of
            one example.
        name: Name of the loss. Default `"hr_loss"`.
        dtype: `"float64"` computes in float64, anything else in float32, whatever the
            precision of the model. Default `None`: as `y_pred`, but at least float32. JAX has
            float64 only with `jax_enable_x64`.
        ignore_class: Class number of examples that do not count, for example 255 or −1 for void
            pixels. It may be out of range. Default `None`: all count.

    Call args:
        y_true: Class numbers `(n,)` or `(n, 1)`, of any dtype, or distributions `(n, classes)`.
            A class number that is out of range makes the loss NaN, with a warning. (JAX without
            `jax_enable_x64` cuts integers to 32 bits before that check.)
        y_pred: `(n, classes)`, classes ≥ 2. Further leading axes are flattened: every position
            counts as one example.
        sample_weight: `(n,)` or `(n, 1)`, not negative. If all are 0, loss and gradient are 0.

        In code that TensorFlow compiles for a CPU, as in `fit`, labels out of range, distributions
        that do not sum to 1 and negative weights raise `tf.errors.InvalidArgumentError`. On a GPU,
        under XLA and on JAX they make the loss NaN. Logits without `from_logits=True` do the same;
        TensorFlow also warns of them when it traces the model.

    Returns:
        A scalar.

    Raises:
        ValueError: If an argument is not as described, values included where they can be read:
            outside compiled code, on torch only on a CPU. In a call, also if the replicas of a
            strategy do not share a global batch (parameter servers, `keras.distribution` on
            TensorFlow).

    References:
        - "A novel loss to train DNNs", eq. (3).

    Example:

    ```python
    from hr_keras import HRLoss

    model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        alpha: float = 1.6,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "hr_loss",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype, ignore_class)
        self.alpha = check_alpha(alpha)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return information.hr_per_example(labels, log_q, self.alpha)

    def _statistics(self, labels: Any, log_q: Any, weights: Any) -> Any:
        return information.hr_statistics(labels, log_q, self.alpha, weights)

    def _from_statistics(self, rows: Any) -> Any:
        return information.hr_risk_from(rows, self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="hr_keras")
class RenyiLoss(HRLoss):
    """Computes the second term of the HR loss alone: the Rényi divergence, in nats.

    ```
    loss = 1/(α−1) · log Σ_i w_i exp(r_i)
    ```

    with r and w as in `HRLoss`. For class numbers this is the tilted cross-entropy of TERM with
    tilt t = α − 1. It grows with α, from mean cross-entropy (α → 1) to that of the worst example
    of the batch (α → ∞).

    Args:
        alpha: Order of the Rényi divergence, greater than 1. Default 1.6.
        from_logits: As in `HRLoss`.
        reduction: As in `HRLoss`.
        name: Name of the loss. Default `"renyi_loss"`.
        dtype: As in `HRLoss`.
        ignore_class: As in `HRLoss`.

    References:
        - Li, Beirami, Sanjabi & Smith 2021, "Tilted Empirical Risk Minimization"

    Example:

    ```python
    from hr_keras.losses import RenyiLoss

    model.compile("sgd", loss=RenyiLoss(alpha=1.6))
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        alpha: float = 1.6,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "renyi_loss",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(alpha, from_logits, reduction, name, dtype, ignore_class)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return information.renyi_exponent(labels, log_q, self.alpha) / (self.alpha - 1.0)

    def _from_statistics(self, rows: Any) -> Any:
        whole = information.combine_statistics(rows)
        return information.entropy_and_divergence(whole, self.alpha)[1]
