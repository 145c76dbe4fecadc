"""Terms of the HR loss over a whole data set: the same number whatever the batch size.

`val_loss` is a mean of batch losses, and the loss of a batch depends on its size, because the
expectation is inside a logarithm. These metrics keep running sums instead.
"""

from typing import Any

import keras
from keras import ops

from hr_keras import error_bounds
from hr_keras._core import information, replicas
from hr_keras._core.checks import check_alpha
from hr_keras._core.loss_inputs import check_ignore_class, check_name, prepare_inputs

__all__ = ["ConditionalEntropy", "ErrorBound", "HRRisk", "RenyiDivergence"]


class _Expectation(keras.metrics.Metric):
    """Keeps running `information.hr_statistics` of all examples on all replicas."""

    _default_name: str

    def __init__(
        self,
        alpha: float = 1.6,
        from_logits: bool = False,
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(name=check_name(name) or self._default_name, dtype=dtype)
        self.alpha = check_alpha(alpha)
        self.from_logits = from_logits
        self.ignore_class = check_ignore_class(ignore_class)
        # Every replica holds the statistics of all, because a maximum cannot be summed.
        self.statistics = self.add_variable(
            (5,), "zeros", name="statistics", aggregation="only_first_replica"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch. The arguments are those of a call of `HRLoss`."""
        labels, log_q, weights = prepare_inputs(
            y_true, y_pred, sample_weight, self.from_logits, ignore_class=self.ignore_class
        )
        batch = information.hr_statistics(labels, log_q, self.alpha, weights)
        rows = replicas.gather_rows(ops.cast(batch, self.statistics.dtype))
        before = ops.convert_to_tensor(self.statistics)[None]
        self.statistics.assign(information.combine_statistics(ops.concatenate([before, rows])))

    def _terms(self) -> tuple[Any, Any]:
        return information.entropy_and_divergence(
            ops.convert_to_tensor(self.statistics), self.alpha
        )

    def get_config(self) -> dict[str, Any]:
        config = {
            "alpha": self.alpha,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="hr_keras")
class ConditionalEntropy(_Expectation):
    """Computes the entropy of the soft decision over all examples, in nats.

    ```
    H(Ŷ|X) = Σ w_i H_i / Σ w_i
    ```

    Args:
        from_logits: Whether predictions are logits. Default `False`.
        name: Name of the metric. Default `"conditional_entropy"`.
        dtype: Dtype of its state. Default `None`: Keras' float type.
        ignore_class: Class number of examples that do not count. Default `None`: all count.

    Example:

    ```python
    from hr_keras import HRLoss, metrics

    model.compile("sgd", loss=HRLoss(), metrics=[metrics.ConditionalEntropy()])
    model.evaluate(images, labels, verbose=0)
    ```
    """

    _default_name = "conditional_entropy"

    def __init__(
        self,
        from_logits: bool = False,
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits=from_logits, name=name, dtype=dtype, ignore_class=ignore_class)

    def result(self) -> Any:
        """Returns H, a scalar between 0 and log(classes); 0 before any data."""
        return self._terms()[0]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["alpha"]  # the entropy does not depend on it
        return config


@keras.saving.register_keras_serializable(package="hr_keras")
class RenyiDivergence(_Expectation):
    """Computes the Rényi term of the HR loss over all examples, in nats.

    ```
    R = α·D_α(p_XY‖p_XŶ) = 1/(α−1) · log(Σ w_i exp(r_i) / Σ w_i)
    ```

    with r as in `HRLoss`.

    Args:
        alpha: Order of the divergence, greater than 1. Default 1.6.
        from_logits: Whether predictions are logits. Default `False`.
        name: Name of the metric. Default `"renyi_divergence"`.
        dtype: Dtype of its state. Default `None`: Keras' float type.
        ignore_class: Class number of examples that do not count. Default `None`: all count.

    Example:

    ```python
    from hr_keras import HRLoss, metrics

    model.compile("sgd", loss=HRLoss(), metrics=[metrics.RenyiDivergence(alpha=1.6)])
    model.evaluate(images, labels, verbose=0)
    ```
    """

    _default_name = "renyi_divergence"

    def result(self) -> Any:
        """Returns R, a scalar; for hard labels at least the mean cross-entropy."""
        return self._terms()[1]


@keras.saving.register_keras_serializable(package="hr_keras")
class HRRisk(_Expectation):
    """Computes the HR loss over all examples as one batch, H + R, in nats.

    It equals `HRLoss(alpha)` on the whole data set at once, whatever the batch size.

    Args:
        alpha: Order of the divergence, greater than 1. Default 1.6.
        from_logits: Whether predictions are logits. Default `False`.
        name: Name of the metric. Default `"hr_risk"`.
        dtype: Dtype of its state. Default `None`: Keras' float type.
        ignore_class: Class number of examples that do not count. Default `None`: all count.

    Example:

    ```python
    from hr_keras import HRLoss, metrics

    model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=[metrics.HRRisk(alpha=1.6)])
    model.evaluate(images, labels, verbose=0)
    ```
    """

    _default_name = "hr_risk"

    def result(self) -> Any:
        """Returns H + R, a scalar; 0 before any data."""
        entropy, divergence = self._terms()
        return entropy + divergence


@keras.saving.register_keras_serializable(package="hr_keras")
class ErrorBound(_Expectation):
    """Computes an upper bound on the error rate over all examples (Proposition 1).

    ```
    P_e ≤ [(1 − e^(−H)) · e^R]^((α−1)/α)
    ```

    Args:
        alpha: Order of the divergence, greater than 1. Default 1.6.
        from_logits: Whether predictions are logits. Default `False`.
        name: Name of the metric. Default `"error_bound"`.
        dtype: Dtype of its state. Default `None`: Keras' float type.
        ignore_class: Class number of examples that do not count. Default `None`: all count.

    References:
        - "A novel loss to train DNNs", Proposition 1. See `error_bounds.upper_bound`.

    Example:

    ```python
    from hr_keras import HRLoss, metrics

    model.compile("sgd", loss=HRLoss(), metrics=["accuracy", metrics.ErrorBound(alpha=1.6)])
    model.evaluate(images, labels, verbose=0)
    ```
    """

    _default_name = "error_bound"

    def result(self) -> Any:
        """Returns the bound, a scalar between 0 and 1."""
        return error_bounds.upper_bound(*self._terms(), self.alpha)
