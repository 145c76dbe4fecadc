"""Reads the validation data of a callback, and says in one line what is wrong with it."""

from itertools import islice
from typing import Any

import keras
import numpy as np

from hr_keras._core.checks import check_count

_PAIRS = "`validation_data` must be (images, labels) or a batched tf.data.Dataset of such pairs"


def read_arrays(validation_data: Any, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels as arrays, from a pair or a batched dataset of pairs.

    Args:
        validation_data: `(images, labels)` or `(images, labels, weights)`, or a
            `tf.data.Dataset` of such batches.
        steps: How many batches of a dataset to take. Default `None`: all.

    Raises:
        ValueError: For anything else.
    """
    if steps is not None:
        check_count("validation_steps", steps)
    if hasattr(validation_data, "as_numpy_iterator"):
        if steps is None and int(validation_data.cardinality()) < 0:
            raise ValueError(
                "`validation_data` must be finite and its length known, because it is kept in "
                "memory: pass `validation_steps`, the number of batches to take. Received: a "
                "dataset without an end or of unknown length"
            )
        validation_data = _join(list(islice(validation_data.as_numpy_iterator(), steps)))
    elif steps is not None:
        raise ValueError(
            "`validation_steps` is for a tf.data.Dataset only. Received: "
            f"validation_steps={steps} with {type(validation_data).__name__}"
        )
    if not (isinstance(validation_data, (tuple, list)) and len(validation_data) in (2, 3)):
        raise ValueError(f"{_PAIRS}. Received: {_name(validation_data)}")
    if all(isinstance(part, (tuple, list)) and len(part) in (2, 3) for part in validation_data):
        ranks = [len(getattr(part, "shape", ())) for part in validation_data[0][:2]]
        if ranks[0] != ranks[1]:  # images and labels, not two images
            raise ValueError(f"{_PAIRS}. Received: a list of batches; join their arrays")
    images, labels = (
        _array(*pair) for pair in zip(("images", "labels"), validation_data[:2], strict=True)
    )
    return images, labels


def _name(value: Any) -> str:
    is_list = isinstance(value, (tuple, list))
    return f"a {type(value).__name__} of {len(value)}" if is_list else type(value).__name__


def _array(part_name: str, part: Any) -> np.ndarray:
    try:
        array = np.asarray(part)
    except ValueError:  # rows of various shapes
        array = np.empty(0, object)
    if array.ndim == 0 or array.dtype == object:
        raise ValueError(
            f"The {part_name} in `validation_data` must be one array with the examples on its "
            "first axis, all of one shape (for a single image: images[None] and [label]). "
            f"Received: {_name(part) if array.ndim == 0 else 'arrays of various shapes or kinds'}"
        )
    return array


def _join(batches: list[Any]) -> tuple[np.ndarray, ...]:
    received = "an empty one" if not batches else ""
    for batch in batches:
        if not (isinstance(batch, tuple) and len(batch) in (2, 3)):
            received = f"one whose elements are not batches of pairs but {_name(batch)}"
        elif not all(isinstance(part, np.ndarray) and part.ndim for part in batch[:2]):
            kinds = " and ".join(_name(part) for part in batch[:2])
            received = f"one whose elements are not batches of two arrays but {kinds}"
        elif batch[0].shape[1:] != batches[0][0].shape[1:]:
            received = f"images of shape {batches[0][0].shape} and {batch[0].shape}"
        if received:
            break
    if received:
        raise ValueError(
            "`validation_data` must be a dataset of at least one batch (images, labels). "
            f"Received: {received}"
        )
    return tuple(np.concatenate([batch[k] for batch in batches]) for k in range(2))


def check_image_shape(model: keras.Model, images: np.ndarray, name: str) -> None:
    """Raises a ValueError if images do not fit the only input of a model that knows its shape.

    Keras adds or removes a last axis of size 1.

    Args:
        model: A Keras model.
        images: `(n, ...)`.
        name: What the images are called in the message.
    """
    inputs: Any = getattr(model, "inputs", None) or ()
    if len(inputs) != 1:  # a subclassed model, or several inputs
        return
    expected = tuple(inputs[0].shape[1:])
    if not _fit(expected, images.shape[1:]):
        hint = " For a single image pass images[None] and [label]."
        raise ValueError(
            f"{name} must have the shape that model {model.name!r} takes, {(None, *expected)}. "
            f"Received: {images.shape}.{hint if _fit(expected, images.shape) else ''}"
        )


def _fit(expected: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    without = [each[:-1] if each[-1:] == (1,) else each for each in (expected, shape)]
    sizes = zip(*without, strict=False)
    return len(without[0]) == len(without[1]) and all(a in (None, b) for a, b in sizes)
