"""Checks what Keras passes to a loss or a metric, and prepares it for `information`.

Values can be read only outside compiled code. In code that TensorFlow compiles for a CPU, a check
of values is an `Assert`, which raises an InvalidArgumentError there. XLA drops it, and on a GPU
every step would have to wait for it. JAX has nothing like it. In all of these a value that is
refused elsewhere makes the loss NaN, because its example gets the weight NaN.
"""

import math
import numbers
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from keras.src.backend import get_keras_mask
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from hr_keras._core import information, replicas
from hr_keras._core.logits import known_logits

# How far the sum of a distribution may be from 1: a softmax in bfloat16 is off by up to 2^-8.
_TOLERANCE = 1e-2
_SHAPE_ONLY_OPS = ("Identity", "Reshape", "Squeeze", "Cast")
_LINEAR_OPS = ("MatMul", "BatchMatMulV2", "Conv2D", "Einsum")
_ACTIVATION_OPS = ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Tanh", "Sigmoid")


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
    ignore_class: int | None = None,
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
        ignore_class: Class number of the examples to take out: they get weight 0.

    Raises:
        ValueError: If something is not numbers or the shapes do not fit. Where values can be
            read, also if a distribution is negative or does not sum to 1 within 0.01, or a weight
            is negative or infinite. Examples of weight 0 are not checked.
    """
    known = known_logits(y_pred)  # before any cast, which loses them
    if known is not None and from_logits:
        warnings.warn(
            "from_logits=True was given the output of a softmax. Its logits are known and "
            "used; pass from_logits=False for a model that ends in a softmax.",
            stacklevel=3,
        )
    outputs = to_tensor("y_pred", y_pred if known is None else known)
    labels = to_tensor("y_true", y_true)
    _check_shapes(tuple(labels.shape), tuple(outputs.shape))
    are_logits = from_logits or known is not None
    classes = outputs.shape[-1]
    rows = ops.cast(outputs, _computation_dtype(outputs, dtype))
    rows = ops.reshape(rows, (-1, classes))
    # Keras keeps the mask of a JAX tracer elsewhere, because a tracer takes no attributes.
    weights = ops.ones_like(rows[..., 0])
    for given in (sample_weight, get_keras_mask(y_pred)):
        if given is not None:
            weights = weights * _checked_weights(given, tuple(outputs.shape[:-1]), rows.dtype)
    totals = None
    if not are_logits:
        _warn_of_logits(outputs)
        totals = ops.sum(rows, axis=-1, keepdims=True)
        weights = _refuse_other_than_distributions(
            rows,
            totals[:, 0],
            weights,
            "Probabilities must not be negative and must sum to 1; pass from_logits=True for "
            "logits.",
        )
    if information.are_distributions(labels, outputs):
        if ignore_class is not None:
            raise ValueError(
                "`ignore_class` is for class numbers. Give examples that do not count "
                "sample_weight=0. Received: distributions"
            )
        labels = ops.reshape(ops.cast(labels, rows.dtype), (-1, classes))
        weights = _refuse_other_than_distributions(
            labels,
            ops.sum(labels, axis=-1),
            weights,
            "Soft labels must not be negative and must sum to 1 in every row. For an example "
            "without a label use sample_weight=0.",
        )
    else:
        labels = ops.reshape(_class_numbers(labels), (-1,))
        if ignore_class is not None:
            weights = ops.where(labels == ignore_class, 0.0, weights)
        _check_range(labels, weights, classes)
    log_q = information.log_probabilities(rows, are_logits, totals)
    return Inputs(labels, log_q, ops.stop_gradient(weights))


def to_tensor(name: str, value: Any) -> Any:
    """Converts to a tensor, or raises a ValueError for text, objects and masked arrays."""
    if np.ma.is_masked(value):
        raise ValueError(
            f"The mask of a masked array is not used: pass `{name}` as a plain array, and "
            "sample_weight=~mask to a loss or metric. Received: a masked array"
        )
    try:
        tensor = ops.convert_to_tensor(value)
        numeric = keras.backend.standardize_dtype(tensor.dtype) != "string"
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must hold numbers. Received: {error}") from error
    if not numeric:
        raise ValueError(f"`{name}` must hold numbers. Received: text")
    return tensor


def to_float(name: str, value: Any) -> Any:
    """Converts to a floating-point tensor; integers to Keras' float type."""
    tensor = to_tensor(name, value)
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
    return tensor if is_float else ops.cast(tensor, keras.config.floatx())


def check_ignore_class(ignore_class: Any) -> int | None:
    """Returns a class number or `None`, or raises a ValueError."""
    if ignore_class is None:
        return None
    if isinstance(ignore_class, numbers.Integral) and not isinstance(ignore_class, bool):
        return int(ignore_class)
    raise ValueError(f"`ignore_class` must be an integer or None. Received: {ignore_class!r}")


def check_name(name: Any) -> Any:
    """Returns the name of a loss or metric if it is a string or `None`, or raises a ValueError."""
    if name is None or isinstance(name, str):
        return name
    raise ValueError(f"`name` must be a string. Received: name={name!r}")


def _class_numbers(labels: Any) -> Any:
    """Casts to wide enough integers; a label that is no whole number becomes −1, so NaN later."""
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if keras.backend.is_float_dtype(dtype):
        return ops.cast(ops.where(labels == ops.floor(labels), labels, -1), "int32")
    return ops.cast(labels, "int64" if dtype in ("int64", "uint64", "uint32") else "int32")


def _computation_dtype(outputs: Any, dtype: str | None) -> str:
    wanted = dtype or keras.backend.standardize_dtype(outputs.dtype)
    return "float64" if wanted == "float64" else "float32"


def _checked_weights(given: Any, shape: tuple[int | None, ...], dtype: Any) -> Any:
    """Returns weights `(n,)` or `(1,)` for outputs of this shape (without the classes)."""
    given = to_tensor("sample_weight", given)
    sizes = [size for size in shape if size is not None]
    n = math.prod(sizes) if len(sizes) == len(shape) else None
    accepted = [shape, (*shape, 1), (n,), (n, 1)]
    one = None not in given.shape and math.prod(given.shape) == 1
    if not one and not any(_fit(tuple(given.shape), each) for each in accepted):
        raise ValueError(
            f"`sample_weight` must hold one weight for each of the {n or 'n'} examples, in shape "
            f"{shape}. Received: sample_weight.shape={tuple(given.shape)}"
        )
    weights = ops.reshape(ops.cast(given, dtype), (-1,))
    allowed = ops.logical_not(ops.logical_or(weights < 0, ops.isinf(weights)))
    _require(
        allowed,
        "`sample_weight` must not be negative, and must be finite in float32.",
        lambda: {"from": ops.min(weights), "to": ops.max(weights)},
    )
    return ops.where(allowed, weights, math.nan)


def _refuse_other_than_distributions(rows: Any, sums: Any, weights: Any, expected: str) -> Any:
    """Returns `weights` with NaN for each row that is no distribution or has a NaN.

    Reads the rows once; `sums` are theirs.
    """
    smallest = ops.min(rows, axis=-1)
    right = ops.logical_and(smallest >= 0, ops.abs(sums - 1.0) <= _TOLERANCE)
    right = ops.logical_or(right, weights == 0)
    _require(
        ops.logical_or(right, ops.isnan(sums)),  # a NaN has another cause, and comes out as NaN
        expected,
        lambda: {"smallest": ops.min(smallest), "sums from": ops.min(sums), "to": ops.max(sums)},
    )
    return ops.where(right, weights, math.nan)


def _check_range(labels: Any, weights: Any, classes: int) -> None:
    in_range = ops.logical_and(labels >= 0, labels < classes)
    _require(
        ops.logical_or(in_range, weights == 0),
        f"Class numbers must be whole numbers from 0 to {classes - 1}; others make the loss NaN.",
        lambda: {"from": ops.min(labels), "to": ops.max(labels)},
        only_warn=True,
    )


def _require(
    allowed: Any, expected: str, received: Callable[[], dict[str, Any]], only_warn: bool = False
) -> None:
    """Raises an error (or warns, outside compiled code) if `allowed` is not true everywhere."""
    if _is_symbolic(allowed):
        if replicas.gpu_count() == 0:
            import tensorflow as tf

            said = [part for pair in received().items() for part in pair]
            tf.debugging.Assert(tf.reduce_all(allowed), [f"{expected} Received:", *said], 9)
        return
    if not _is_false_somewhere(allowed):
        return
    values = ", ".join(f"{name} {float(value):g}" for name, value in received().items())
    message = f"{expected} Received: {values}".replace(", to ", " to ")
    if not only_warn:
        raise ValueError(message)
    warnings.warn(message, stacklevel=5)


def _is_false_somewhere(allowed: Any) -> bool:
    if keras.backend.backend() == "torch":
        import torch

        # Keras builds models with tensors of ones. A GPU would have to be waited for.
        if in_symbolic_scope() or torch.compiler.is_compiling() or allowed.device.type != "cpu":
            return False
    try:
        return not bool(ops.all(allowed))
    except Exception:  # every backend raises another error for a value that is not known yet
        return False


def _is_symbolic(tensor: Any) -> bool:
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return bool(tf.is_symbolic_tensor(tensor))


def _warn_of_logits(outputs: Any) -> None:
    """Warns if a TensorFlow graph shows that `outputs` are made by a layer without a softmax."""
    if not _is_symbolic(outputs):
        return
    operation = outputs.op
    while operation.type in _SHAPE_ONLY_OPS:
        operation = operation.inputs[0].op
    linear = operation
    if operation.type in ("BiasAdd", "AddV2", "Add"):
        linear = next((i.op for i in operation.inputs if i.op.type in _LINEAR_OPS), operation)
    is_linear = linear.type in _LINEAR_OPS and known_logits(linear.inputs[0]) is None
    if is_linear or operation.type in _ACTIVATION_OPS:
        warnings.warn(
            f"The outputs of the model are taken for probabilities, but they come from "
            f"{operation.type}, not from a softmax. If they are logits, pass from_logits=True to "
            "the losses and metrics.",
            stacklevel=4,
        )


def _fit(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(a == b or None in (a, b) for a, b in pairs)


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
