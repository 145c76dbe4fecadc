"""What all losses here share: one number for the global batch, weights as an expectation."""

import re
from typing import Any, Literal

import keras
from keras import ops

from hr_keras._core import information, replicas
from hr_keras._core.loss_inputs import Inputs, check_ignore_class, check_name, prepare_inputs

Reduction = Literal["sum_over_batch_size", "mean", "mean_with_sample_weight"]

_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class BatchLoss(keras.losses.Loss):
    """A loss with the arguments of `HRLoss`; by default the weighted mean over the examples.

    A subclass has a value for each example. One whose batch is more than their mean also says
    what a replica adds to it, and how the rows of all replicas become the loss.
    """

    def __init__(
        self,
        from_logits: bool,
        reduction: Reduction,
        name: str,
        dtype: str | None,
        ignore_class: int | None,
    ) -> None:
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {_REDUCTIONS}: {type(self).__name__} is one number "
                f"for the whole batch. Received: reduction={reduction!r}"
            )
        super().__init__(name=check_name(name), reduction=reduction, dtype=dtype)
        self.from_logits = from_logits
        self.ignore_class = check_ignore_class(ignore_class)
        self._given_dtype = None if dtype is None else self.dtype

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        replicas.refuse_unsupported()
        # TensorFlow takes fewer characters in the names of scopes than Keras in those of losses.
        with keras.name_scope(re.sub(r"[^A-Za-z0-9.]+", "_", self.name).strip("_") or "loss"):
            inputs = self._prepare(y_true, y_pred, sample_weight)
            # One row per replica: the expectation is over the global batch.
            rows = replicas.gather_rows(self._statistics(*inputs))
            # Keras sums the gradients of the replicas, so each returns its share of the loss.
            return self._from_statistics(rows) / replicas.replica_count()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Computes the loss of each example as a batch of one: `(n,)`."""
        labels, log_q, weights = self._prepare(y_true, y_pred)
        # A weight of 0 takes an example out, NaN marks one that is not valid.
        return ops.where(weights > 0, self._per_example(labels, log_q), weights)

    def _prepare(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Inputs:
        how = (self.from_logits, self._given_dtype, self.ignore_class)
        return prepare_inputs(y_true, y_pred, sample_weight, *how)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        raise NotImplementedError

    def _statistics(self, labels: Any, log_q: Any, weights: Any) -> Any:
        return information.mean_statistics(self._per_example(labels, log_q), weights)

    def _from_statistics(self, rows: Any) -> Any:
        return information.mean_from(rows)

    def get_config(self) -> dict[str, Any]:
        config = {
            "from_logits": self.from_logits,
            "dtype": self._given_dtype,
            "ignore_class": self.ignore_class,
        }
        return {**super().get_config(), **config}
