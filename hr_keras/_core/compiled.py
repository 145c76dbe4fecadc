"""Code compiled once for a model, and batches of one shape for it."""

import math
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np

from hr_keras._core import replicas

_LOCK = threading.RLock()  # each device has a thread
_COMPILED: weakref.WeakKeyDictionary[keras.Model, dict[Any, Any]] = weakref.WeakKeyDictionary()


def compiled(
    model: keras.Model, key: Any, build: Callable[[Any], Any], jit_compile: bool = False
) -> Any:
    """Compiles `build(model_ref)` once for each model and key; it is freed with the model.

    Args:
        model: The model that the code calls. The function that `build` returns must not
            keep it alive, and therefore gets a weak reference to it.
        key: Hashable; what else the code depends on, apart from its tensor arguments.
        build: `model_ref -> function on tensors`.
        jit_compile: Whether to compile with XLA.
    """
    import tensorflow as tf

    key = (key, jit_compile, structure(model))
    with _LOCK:
        functions = _COMPILED.setdefault(model, {})
        if key not in functions:
            functions[key] = tf.function(build(weakref.ref(model)), jit_compile=jit_compile)
        return functions[key]


def separate(function: Callable[..., Any]) -> Any:
    """Makes a function a separate one in compiled code.

    TensorFlow then optimises it separately: the same model passes written into the body of a
    loop took 1.6 times as long. Not in a replica: replicas cannot exchange the sums of a
    synchronised layer inside another function.
    """
    import tensorflow as tf

    if replicas.in_replica():
        return function
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def in_batches(
    step: Any,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    *arguments: np.ndarray,
    per_example: tuple[np.ndarray, ...] = (),
    any_size: bool = False,
    fill: bool = False,
) -> list[np.ndarray]:
    """Runs `step(images, labels, *per_example, *arguments)` over batches of one shape.

    There are as few batches as `batch_size` allows, of equal size. The last is filled with
    copies of its last example, whose results are dropped.

    Args:
        step: `tf.function` that returns a tuple of tensors with the examples on axis 0.
        images: `(n, ...)`.
        labels: `(n, ...)`.
        batch_size: The most examples in one step.
        arguments: The same for every batch. Code is compiled for their rank, not their shape.
        per_example: More arrays with the examples on axis 0.
        any_size: Whether to compile once for batches of any size, rather than for this one:
            for numbers of examples that change from call to call.
        fill: Whether batches have `batch_size` examples even if fewer would do: for the last
            part of a stream, whose other parts have them.

    Returns:
        One array for each result of `step`, its batches joined.
    """
    import tensorflow as tf

    n = len(images)
    size = batch_size if fill else even_size(n, batch_size)
    rows = None if any_size else size
    step = step.get_concrete_function(
        *(tf.TensorSpec((rows, *array.shape[1:]), array.dtype) for array in (images, labels)),
        *(tf.TensorSpec((rows, *(None,) * (a.ndim - 1)), a.dtype) for a in per_example),
        *(tf.TensorSpec((None,) * argument.ndim, argument.dtype) for argument in arguments),
    )
    constants = [tf.convert_to_tensor(argument) for argument in arguments]
    results = []
    for start in range(0, n, size):
        batch = slice(start, start + size)
        padded = (_fill(array[batch], size) for array in (images, labels, *per_example))
        results.append([result.numpy() for result in step(*padded, *constants)])
    return [np.concatenate(parts)[:n] for parts in zip(*results, strict=True)]


def even_size(n: int, batch_size: int) -> int:
    """Returns the size of the fewest batches of equal size that hold n examples."""
    return math.ceil(n / math.ceil(n / batch_size))


def _fill(array: np.ndarray, size: int) -> Any:
    import tensorflow as tf

    missing = size - len(array)
    if missing:
        array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return tf.convert_to_tensor(array)


def structure(model: keras.Model) -> Hashable:
    """Returns a key that changes with the layers of a model, their activations and precision.

    Compiled code holds for one structure only. New values of the weights do not change it, new
    variables do.
    """
    parts = []
    for layer in model._flatten_layers():  # those inside other layers too, unlike `layers`
        activation = getattr(layer, "activation", None)
        # A method is a new object each time that it is looked up.
        owner = getattr(activation, "__self__", None)
        function = getattr(activation, "__func__", activation)
        policy = getattr(getattr(layer, "dtype_policy", None), "name", None)
        parts.append((Same(layer), Same(owner), Same(function), policy))
    return tuple(parts), tuple(map(Same, model.weights))


class Same:
    """A key that equals only keys of the same object.

    It does not keep the object alive, if Python can refer to it weakly. Unlike `id`, it
    cannot be mistaken for a later object at the same address.
    """

    def __init__(self, value: Any) -> None:
        self._hash = id(value)
        try:
            self._get: Any = weakref.ref(value)
        except TypeError:
            self._get = lambda: value
            self._is_strong = True
        else:
            self._is_strong = False

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Same):
            return NotImplemented
        value = self._get()
        return value is other._get() and (value is not None or self._is_strong)
