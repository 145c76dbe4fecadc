"""`HRLoss`: conditional entropy + Rényi divergence as a Keras loss."""

import warnings

import keras
from keras import ops

from hr_keras import distribution, information

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
            behind a softmax are still used wherever Keras knows them.
        reduction: `"sum_over_batch_size"`, `"mean"` or `"mean_with_sample_weight"`, which
            are the same here: sample weights are the weights of the expectation, so an
            integer weight counts as so many copies of the row. A sum or the per-example
            values of a batch functional do not exist; see `call` for batches of one.
        name: name of the loss.
        dtype: `"float64"` computes in float64; anything else in float32, whatever the
            model's precision. `None` follows `y_pred`, never below float32.

    Call args:
        y_true: class numbers `(n,)` or `(n, 1)`, of any dtype, or distributions `(n, classes)`.
            An out-of-range class number makes the loss NaN.
        y_pred: `(n, classes)`, classes ≥ 2. Further leading axes are flattened: every
            position counts as one example.
        sample_weight: `(n,)` or `(n, 1)`, not negative. All zero: loss and gradient are 0.

    Returns:
        A scalar.

    Raises:
        ValueError: for arguments that are not as described; in a call, where the replicas of
            a strategy do not share a global batch: see `distribution.refuse_unsupported`.

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
        if not 1 < alpha < float("inf"):
            raise ValueError(
                f"`alpha` must be a finite number greater than 1. Received: alpha={alpha}"
            )
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {_REDUCTIONS}: the HR loss is one number for "
                f"the whole batch. Received: reduction={reduction!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.alpha = float(alpha)
        self.from_logits = from_logits
        self._follows_predictions = dtype is None

    def __call__(self, y_true, y_pred, sample_weight=None):
        distribution.refuse_unsupported()
        mask = getattr(y_pred, "_keras_mask", None)
        with keras.name_scope(self.name):
            labels, log_q = self._labels_and_log_probabilities(y_true, y_pred)
            weights = _weights(sample_weight, mask, log_q)
            # One row a replica: the expectation runs over the global batch.
            rows = distribution.gather_rows(
                information.hr_statistics(labels, log_q, self.alpha, weights)
            )
            # Keras adds up the replicas' gradients, so each takes its share of the one value.
            return information.hr_risk_from(rows, self.alpha) / distribution.replica_count()

    def call(self, y_true, y_pred):
        """The loss of each example as a batch of its own, H + r/(α−1): `(n,)`, not reduced."""
        labels, log_q = self._labels_and_log_probabilities(y_true, y_pred)
        return information.hr_per_example(labels, log_q, self.alpha)

    def get_config(self):
        dtype = None if self._follows_predictions else self.dtype
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "from_logits": self.from_logits,
            "dtype": dtype,
        }

    def _labels_and_log_probabilities(self, y_true, y_pred):
        """Labels `(n,)` or `(n, classes)` and log-probabilities `(n, classes)`."""
        logits = information.known_logits(y_pred)  # before any cast, which loses them
        if logits is not None and self.from_logits:
            warnings.warn(
                "HRLoss(from_logits=True) received the output of a softmax. Its logits are "
                "known and used; pass from_logits=False for a model that ends in a softmax.",
                stacklevel=3,
            )
        outputs = ops.convert_to_tensor(y_pred if logits is None else logits)
        labels = ops.convert_to_tensor(y_true)
        _check_shapes(tuple(labels.shape), tuple(outputs.shape))
        log_q = information.log_probabilities(
            ops.cast(outputs, self._computation_dtype(outputs)),
            from_logits=self.from_logits or logits is not None,
        )
        classes = log_q.shape[-1]
        log_q = ops.reshape(log_q, (-1, classes))
        if information.are_distributions(labels, outputs):
            return ops.reshape(ops.cast(labels, log_q.dtype), (-1, classes)), log_q
        # Never through a 16-bit float, which has no 257.
        return ops.reshape(ops.cast(labels, "int32"), (-1,)), log_q

    def _computation_dtype(self, outputs):
        given = keras.backend.standardize_dtype(outputs.dtype)
        wanted = given if self._follows_predictions else self.dtype
        return "float64" if wanted == "float64" else "float32"


def _weights(sample_weight, mask, log_q):
    """Expectation weights `(n,)` from sample weights and Keras' mask; equal if there are none."""
    weights = ops.ones_like(log_q[..., 0])
    for given in (sample_weight, mask):
        if given is not None:
            given = ops.cast(ops.convert_to_tensor(given), log_q.dtype)
            weights = weights * ops.reshape(given, (-1,))
    return ops.stop_gradient(weights)


def _check_shapes(true, predicted):
    if len(predicted) < 2 or predicted[-1] is None or predicted[-1] < 2:
        raise ValueError(
            "`y_pred` must have shape (n, classes) with at least 2 classes. "
            f"Received: y_pred.shape={predicted}"
        )
    class_numbers = len(true) == len(predicted) - 1 or true[-1:] == (1,)
    distributions = len(true) == len(predicted) and true[-1] == predicted[-1]
    examples = zip(true, predicted[:-1], strict=False)
    same_examples = all(t == p or None in (t, p) for t, p in examples)
    if not ((class_numbers or distributions) and same_examples and len(true) <= len(predicted)):
        raise ValueError(
            "`y_true` must be class numbers of shape (n,) or (n, 1), or distributions of "
            f"shape (n, classes). Received: y_true.shape={true}, y_pred.shape={predicted}"
        )
