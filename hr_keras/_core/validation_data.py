"""Reads the validation data of a callback, and says in one line what is wrong with it."""

from typing import Any

import keras
import numpy as np

from hr_keras._core.checks import check_count
from hr_keras._core.examples import Examples, Keys, Preprocess, is_dataset

_PAIRS = "`validation_data` must be (images, labels) or a batched dataset of such pairs"


def read_examples(
    validation_data: Any, steps: int | None, preprocess: Preprocess, keys: Keys
) -> Examples:
    """Returns the examples of a pair of arrays, or of a batched dataset of pairs.

    Args:
        validation_data: `(images, labels)` or `(images, labels, weights)`, or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of such batches.
        steps: How many batches of a dataset to take. `None`: all.
        preprocess: See `Examples`.
        keys: See `Examples`.

    Raises:
        ValueError: For anything else.
    """
    if steps is not None:
        check_count("validation_steps", steps)
    if is_dataset(validation_data):
        return Examples(validation_data, None, preprocess, keys, steps, "validation_data")
    if steps is not None:
        raise ValueError(
            "`validation_steps` is for a tf.data.Dataset or keras.utils.PyDataset only. Received: "
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
    if len(images) != len(labels):
        raise ValueError(
            "`validation_data` must hold as many labels as images. "
            f"Received: {len(images)} images, {len(labels)} labels"
        )
    return Examples(images, labels, preprocess, keys)


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
