"""Checks what Keras passes to a loss or a metric, and prepares it for `information`."""

import math
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from keras.src.backend import get_keras_mask

from hr_keras._core import information
from hr_keras._core.logits import known_logits


class Inputs(NamedTuple):
    """Labels, int `(n,)` or floating point `(n, classes)`; log-probabilities; weights `(n,)`."""

    labels: Any
    log_q: Any
    weights: Any


def prepare_inputs(
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    from_logits: bool = False,
    dtype: str | None = None,
) -> Inputs:
    """Prepares labels, log-probabilities and expectation weights, one row an example.

    Args:
        y_true: Class numbers `(n,)` or `(n, 1)`, of any dtype, or distributions `(n, classes)`.
        y_pred: `(n, classes)`, classes ≥ 2; further leading axes are flattened. A Keras
            mask on it removes examples.
        sample_weight: `(n,)` or `(n, 1)`. Default `None`: equal weights.
        from_logits: Whether `y_pred` are logits. Logits behind a softmax are used if they are
            known.
        dtype: `"float64"` or `"float32"` to compute in; anything narrower counts as float32.
            Default `None`: as `y_pred`, but at least float32.

    Raises:
        ValueError: If the shapes do not fit; outside compiled code, and not on torch, also
            if probabilities do not sum to 1 within 1e-3, or a weight is negative.
    """
    known = known_logits(y_pred)  # before any cast, which loses them
    if known is not None and from_logits:
        warnings.warn(
            "from_logits=True was given the output of a softmax. Its logits are known and "
            "used; pass from_logits=False for a model that ends in a softmax.",
            stacklevel=3,
        )
    outputs = ops.convert_to_tensor(y_pred if known is None else known)
    labels = ops.convert_to_tensor(y_true)
    _check_shapes(tuple(labels.shape), tuple(outputs.shape))
    are_logits = from_logits or known is not None
    if not are_logits:
        _check_probabilities(outputs)
    classes = outputs.shape[-1]
    rows = ops.cast(outputs, _computation_dtype(outputs, dtype))
    rows = ops.reshape(rows, (-1, classes))
    if information.are_distributions(labels, outputs):
        labels = ops.reshape(ops.cast(labels, rows.dtype), (-1, classes))
    else:
        labels = ops.reshape(_class_numbers(labels), (-1,))
    # Keras keeps the mask of a JAX tracer elsewhere, because a tracer takes no attributes.
    weights = _weights(sample_weight, get_keras_mask(y_pred), rows)
    return Inputs(labels, information.log_probabilities(rows, are_logits), weights)


def _class_numbers(labels: Any) -> Any:
    """Casts to wide enough integers; a label that is no whole number becomes −1, so NaN later."""
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if keras.backend.is_float_dtype(dtype):
        return ops.cast(ops.where(labels == ops.floor(labels), labels, -1), "int32")
    return ops.cast(labels, "int64" if dtype in ("int64", "uint64", "uint32") else "int32")


def _computation_dtype(outputs: Any, dtype: str | None) -> str:
    wanted = dtype or keras.backend.standardize_dtype(outputs.dtype)
    return "float64" if wanted == "float64" else "float32"


def _weights(sample_weight: Any, mask: Any, rows: Any) -> Any:
    weights = ops.ones_like(rows[..., 0])
    n = rows.shape[0]
    for given in (sample_weight, mask):
        if given is not None:
            given = ops.cast(ops.convert_to_tensor(given), rows.dtype)
            if None not in (*given.shape, n) and math.prod(given.shape) not in (1, n):
                raise ValueError(
                    f"`sample_weight` must hold one weight for each of the {n} examples. "
                    f"Received: sample_weight.shape={tuple(given.shape)}"
                )
            _check_not_negative(given)
            weights = weights * ops.reshape(given, (-1,))
    return ops.stop_gradient(weights)


def _check_probabilities(outputs: Any) -> None:
    values = _values(outputs)
    if values is None or np.isnan(values).any():
        return
    sums = values.sum(axis=-1)
    if values.min(initial=0) < 0 or (np.abs(sums - 1) > 1e-3 + 2 * _resolution(outputs)).any():
        raise ValueError(
            "Probabilities must not be negative and must sum to 1; pass from_logits=True for "
            f"logits. Received: smallest {values.min()}, sums from {sums.min()} to {sums.max()}"
        )


def _check_not_negative(weights: Any) -> None:
    values = _values(weights)
    if values is not None and values.min(initial=0) < 0:
        raise ValueError(f"`sample_weight` must not be negative. Received: {values.min()}")


def _values(tensor: Any) -> np.ndarray | None:
    """Returns the values as a float64 NumPy array, or `None` inside compiled code."""
    if keras.backend.backend() == "torch":
        return None  # Keras builds models with tensors of ones there, which look like values
    try:
        return np.asarray(tensor).astype("float64")
    except Exception:  # every backend raises another error for a value that is not known yet
        return None


def _resolution(tensor: Any) -> float:
    """The relative precision of a dtype: a 16-bit softmax sums to 1 only up to rounding."""
    return {"bfloat16": 2**-8, "float16": 2**-11}.get(
        keras.backend.standardize_dtype(tensor.dtype), 0.0
    )


def _check_shapes(true: tuple[int, ...], predicted: tuple[int, ...]) -> None:
    if len(predicted) < 2 or predicted[-1] is None or predicted[-1] < 2:
        raise ValueError(
            "`y_pred` must have shape (n, classes) with at least 2 classes. "
            f"Received: y_pred.shape={predicted}"
        )
    class_numbers = len(true) == len(predicted) - 1
    column_or_distributions = len(true) == len(predicted) and true[-1] in (1, predicted[-1])
    examples = zip(true, predicted[:-1], strict=False)
    same_examples = all(t == p or None in (t, p) for t, p in examples)
    if not ((class_numbers or column_or_distributions) and same_examples):
        raise ValueError(
            "`y_true` must be class numbers of shape (n,) or (n, 1), or distributions of "
            f"shape (n, classes). Received: y_true.shape={true}, y_pred.shape={predicted}"
        )
