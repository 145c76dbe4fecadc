"""Code compiled once a model, and batches of one shape for it."""

import math
import weakref

import numpy as np

from hr_keras._core.logits import structure

_COMPILED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def compiled(model, key, build, jit_compile=False):
    """`tf.function(build(model))`, made once for each model and key, and freed with the model.

    Args:
        model: the model that the code calls; it must not be kept alive by the function
            that `build` returns, which therefore gets a weak reference to it.
        key: hashable; what else the code depends on, apart from its tensor arguments.
        build: `weak reference to the model -> function on tensors`.
        jit_compile: compile with XLA.
    """
    import tensorflow as tf

    key = (key, jit_compile, structure(model))
    functions = _COMPILED.setdefault(model, {})
    if key not in functions:
        functions[key] = tf.function(build(weakref.ref(model)), jit_compile=jit_compile)
    return functions[key]


def in_batches(step, images, labels, batch_size, *arguments, any_size=False):
    """`step(images, labels, *arguments)` over batches of one shape, results joined.

    The batches are the fewest that `batch_size` allows, of equal size; the last is filled
    up with copies of its last example, whose results are dropped.

    Args:
        step: `tf.function` returning a tuple of tensors with the examples on axis 0.
        images, labels: NumPy arrays of the same length.
        batch_size: the most examples in one step.
        arguments: NumPy arrays, the same for every batch; code is compiled for their
            rank, not their shape.
        any_size: compile once for batches of any size, rather than for this one: for
            numbers of examples that change from call to call.

    Returns:
        A list of NumPy arrays, one for each result of `step`.
    """
    import tensorflow as tf

    n = len(images)
    size = even_size(n, batch_size)
    rows = None if any_size else size
    step = step.get_concrete_function(
        *(tf.TensorSpec((rows, *array.shape[1:]), array.dtype) for array in (images, labels)),
        *(tf.TensorSpec((None,) * argument.ndim, argument.dtype) for argument in arguments),
    )
    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    results = []
    for start in range(0, n, size):
        batch = slice(start, start + size)
        padded = (_fill(array[batch], size) for array in (images, labels))
        results.append([result.numpy() for result in step(*padded, *arguments)])
    return [np.concatenate(parts)[:n] for parts in zip(*results, strict=True)]


def even_size(n, batch_size):
    """Size of the fewest batches of equal size that hold n examples."""
    return math.ceil(n / math.ceil(n / batch_size))


def _fill(array, size):
    import tensorflow as tf

    missing = size - len(array)
    if missing:
        array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return tf.convert_to_tensor(array)


def like(images, result):
    """`result` as a tensor where `images` is one."""
    import tensorflow as tf

    return tf.convert_to_tensor(result) if tf.is_tensor(images) else result
