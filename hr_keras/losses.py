"""`HRLoss`: conditional entropy + Rényi divergence as a Keras loss."""

import keras

from hr_keras._core import checks, information, loss_inputs, replicas

_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


@keras.saving.register_keras_serializable(package="hr_keras")
class HRLoss(keras.losses.Loss):
    """The HR loss: conditional entropy of the softmax plus Rényi divergence, in nats.

    L = Σ_i w_i H_i + 1/(α−1) · log Σ_i w_i exp(r_i)

    with H_i the entropy of the soft decision on example i, r_i = (α−1)·CE_i for a class
    number and r_i = log Σ_y p_i(y)^α q_i(y)^(1−α) for a soft label, and w the sample
    weights, normalised to sum to 1.

    This is a functional of the *batch*: the expectation is inside the logarithm, so the
    loss of a batch is not the mean of the losses of its examples, and its value depends
    on the batch size. Under a `tf.distribute` strategy the batch is the global one.

    Args:
        alpha: order of the Rényi divergence, greater than 1. As α → 1 the loss becomes
            mean CE + mean entropy; as α grows the worst examples weigh more.
        from_logits: whether `y_pred` are logits. With `False` (the default) the logits
            behind a softmax are still used wherever Keras knows them. While a model trains
            on JAX it never does: there, as in Keras' own losses, probabilities are clipped to
            [1e-7, 1 − 1e-7], and an example whose class has less gets no gradient from its
            cross-entropy. Prefer models that end in logits on JAX.
        reduction: `"sum_over_batch_size"`, `"mean"` or `"mean_with_sample_weight"`, which
            are the same here: sample weights are the weights of the expectation, so an
            integer weight counts as so many copies of the row. A sum or the per-example
            values of a batch functional do not exist; see `call` for batches of one.
        name: name of the loss.
        dtype: `"float64"` computes in float64; anything else in float32, whatever the
            model's precision. `None` follows `y_pred`, never below float32. JAX has
            float64 only with `jax_enable_x64`.

    Call args:
        y_true: class numbers `(n,)` or `(n, 1)`, of any dtype, or distributions `(n, classes)`.
            An out-of-range class number makes the loss NaN. (JAX without `jax_enable_x64`
            cuts integers to 32 bits before anybody sees them.)
        y_pred: `(n, classes)`, classes ≥ 2. Further leading axes are flattened: every
            position counts as one example.
        sample_weight: `(n,)` or `(n, 1)`, not negative. All zero: loss and gradient are 0.

    Returns:
        A scalar.

    Raises:
        ValueError: for arguments that are not as described; in a call, where the replicas of
            a strategy do not share a global batch: see `replicas.refuse_unsupported`.

    Source: "A novel loss to train DNNs", eq. (3).

    Example:
        >>> model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
    """

    def __init__(
        self,
        alpha=1.6,
        from_logits=False,
        reduction="sum_over_batch_size",
        name="hr_loss",
        dtype=None,
    ):
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {_REDUCTIONS}: the HR loss is one number for "
                f"the whole batch. Received: reduction={reduction!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.alpha = checks.check_alpha(alpha)
        self.from_logits = from_logits
        self._given_dtype = None if dtype is None else self.dtype

    def __call__(self, y_true, y_pred, sample_weight=None):
        replicas.refuse_unsupported()
        with keras.name_scope(self.name):
            labels, log_q, weights = loss_inputs.prepare(
                y_true, y_pred, sample_weight, self.from_logits, self._given_dtype
            )
            # One row a replica: the expectation runs over the global batch.
            rows = replicas.gather_rows(
                information.hr_statistics(labels, log_q, self.alpha, weights)
            )
            # Keras adds up the replicas' gradients, so each takes its share of the one value.
            return information.hr_risk_from(rows, self.alpha) / replicas.replica_count()

    def call(self, y_true, y_pred):
        """The loss of each example as a batch of its own, H + r/(α−1): `(n,)`, not reduced."""
        labels, log_q, _ = loss_inputs.prepare(
            y_true, y_pred, from_logits=self.from_logits, dtype=self._given_dtype
        )
        return information.hr_per_example(labels, log_q, self.alpha)

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "from_logits": self.from_logits,
            "dtype": self._given_dtype,
        }
