"""Terms of the HR loss over a whole data set: the same number whatever the batch size.

`val_loss` is a mean of batch losses, and the loss of a batch depends on its size, because
the expectation stands inside a logarithm. These metrics keep running sums instead.
"""

import keras
from keras import ops

from hr_keras import error_bounds
from hr_keras._core import checks, information, loss_inputs, replicas


class _Expectation(keras.metrics.Metric):
    """Running `information.hr_statistics` of everything seen, over all replicas."""

    def __init__(self, alpha, from_logits, name, dtype):
        super().__init__(name=name, dtype=dtype)
        self.alpha = checks.check_alpha(alpha)
        self.from_logits = from_logits
        # Every replica holds the statistics of all, because a maximum can't be summed up.
        self.statistics = self.add_variable(
            (5,), "zeros", name="statistics", aggregation="only_first_replica"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Take in a batch; arguments as those of `HRLoss`."""
        labels, log_q, weights = loss_inputs.prepare(
            y_true, y_pred, sample_weight, self.from_logits
        )
        batch = information.hr_statistics(labels, log_q, self.alpha, weights)
        rows = replicas.gather_rows(ops.cast(batch, self.statistics.dtype))
        everything = ops.concatenate([ops.convert_to_tensor(self.statistics)[None], rows])
        self.statistics.assign(information.combined(everything))

    def _terms(self):
        return information.entropy_and_divergence(
            ops.convert_to_tensor(self.statistics), self.alpha
        )


class _WithAlpha(_Expectation):
    def get_config(self):
        config = {"alpha": self.alpha, "from_logits": self.from_logits}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="hr_keras")
class ConditionalEntropy(_Expectation):
    """Entropy of the classifier's soft decision over the data seen, in nats.

    H(Ŷ|X) = Σ w_i H_i / Σ w_i

    Args:
        from_logits: whether predictions are logits.
        name: name of the metric.
        dtype: dtype of its state.

    Example:
        >>> model.compile("sgd", loss=HRLoss(), metrics=[metrics.ConditionalEntropy()])
    """

    def __init__(self, from_logits=False, name="conditional_entropy", dtype=None):
        super().__init__(2.0, from_logits, name, dtype)  # the order has no part in H

    def result(self):
        """H: a scalar between 0 and log(classes); 0 before any data."""
        return self._terms()[0]

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="hr_keras")
class RenyiDivergence(_WithAlpha):
    """Rényi term of the HR loss over the data seen, in nats.

    R = α·D_α(p_XY‖p_XŶ) = 1/(α−1) · log(Σ w_i exp(r_i) / Σ w_i), as in `HRLoss`.

    Args:
        alpha: order of the divergence, greater than 1.
        from_logits: whether predictions are logits.
        name: name of the metric.
        dtype: dtype of its state.

    Example:
        >>> model.compile("sgd", loss=HRLoss(), metrics=[metrics.RenyiDivergence(1.6)])
    """

    def __init__(self, alpha=1.6, from_logits=False, name="renyi_divergence", dtype=None):
        super().__init__(alpha, from_logits, name, dtype)

    def result(self):
        """R: a scalar, at least the mean cross-entropy for hard labels; 0 before any data."""
        return self._terms()[1]


@keras.saving.register_keras_serializable(package="hr_keras")
class HRRisk(_WithAlpha):
    """The HR loss over the data seen as one batch, H + R, in nats.

    Equal to `HRLoss(alpha)` on the whole data set at once, whatever the batch size.

    Args:
        alpha: order of the divergence, greater than 1.
        from_logits: whether predictions are logits.
        name: name of the metric.
        dtype: dtype of its state.

    Example:
        >>> model.compile("sgd", loss=HRLoss(1.6), metrics=[metrics.HRRisk(1.6)])
    """

    def __init__(self, alpha=1.6, from_logits=False, name="hr_risk", dtype=None):
        super().__init__(alpha, from_logits, name, dtype)

    def result(self):
        """H + R, a scalar; 0 before any data."""
        entropy, divergence = self._terms()
        return entropy + divergence


@keras.saving.register_keras_serializable(package="hr_keras")
class ErrorBound(_WithAlpha):
    """Upper bound on the error rate over the data seen (Proposition 1), at most 1.

    P_e ≤ [(1 − e^(−H)) · e^R]^((α−1)/α); see `error_bounds.upper_bound`.

    Args:
        alpha: order of the divergence, greater than 1.
        from_logits: whether predictions are logits.
        name: name of the metric.
        dtype: dtype of its state.

    Example:
        >>> model.compile("sgd", loss=HRLoss(), metrics=["accuracy", metrics.ErrorBound(1.6)])
    """

    def __init__(self, alpha=1.6, from_logits=False, name="error_bound", dtype=None):
        super().__init__(alpha, from_logits, name, dtype)

    def result(self):
        """The bound, a scalar between 0 and 1."""
        return error_bounds.upper_bound(*self._terms(), self.alpha)
