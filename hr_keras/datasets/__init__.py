"""Image classification data: `load(name)` returns train, validation and test arrays."""

import importlib.resources
import math
import os
from typing import Literal, NamedTuple

import numpy as np

from hr_keras._core.checks import check_choice
from hr_keras.datasets._files import read_files, read_npz
from hr_keras.datasets._recognition import identify
from hr_keras.datasets._tfds import read_tfds

__all__ = ["NAMES", "Dataset", "Split", "check_name", "load", "recognize", "to_unit_interval"]

_EMBEDDED = ("mnist10k",)
_PUBLISHED = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "svhn_cropped": "SVHN",
}
NAMES = (*_EMBEDDED, *_PUBLISHED)
"""Data sets that `load` knows by name."""


class Split(NamedTuple):
    """Images and labels.

    Args:
        images: `(n, height, width, channels)`, float32 in [0, 1]; with `load(dtype=None)` they
            may be uint8.
        labels: Integers `(n,)`.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three splits; unpacks as `(x, y), (x_val, y_val), (x_test, y_test) = load(name)`.

    Args:
        train: Split to train on.
        validation: Split held out from the training images.
        test: Split to test on.
    """

    train: Split
    validation: Split
    test: Split

    @property
    def num_classes(self) -> int:
        """One more than the largest label of the training and validation splits."""
        return 1 + int(max(self.train.labels.max(), self.validation.labels.max(initial=0)))


def load(
    name: str | os.PathLike[str],
    validation: float = 0.1,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    dtype: Literal["float32"] | None = "float32",
) -> Dataset:
    """Loads a data set by name, or from an `.npz` file in the layout of Keras.

    Args:
        name: One of

            - `"mnist10k"`: 10,000 real MNIST digits that ship with this package: 8,000 to
              train and validate, 2,000 to test.
            - `"mnist"`, `"fashion_mnist"`, `"cifar10"`, `"svhn_cropped"`: read from files of
              their authors or of Keras where there are any, see `data_dir`; else by
              tensorflow-datasets, which downloads what it lacks. It has the images in another
              order, which gives another validation split.
            - the path of an `.npz` file with `x_train, y_train, x_test, y_test`: images uint8,
              or floating point in [0, 1], of shape `(n, height, width)`, `(n, height, width,
              channels)`, or `(n, side²)` for square images of one channel; integer labels `(n,)`
              or `(n, 1)`, or one-hot `(n, classes)`. Nothing is unpickled.
        validation: Share of the training images that becomes the validation split, the same
            share of every class; at least 0 and below 1. Default 0.1.
        seed: Integer that determines the validation split. Default 0.
        data_dir: Folder with `mnist.npz`; the four `*-ubyte.gz` of Fashion-MNIST, or
            `fashion-mnist/`; the batches of CIFAR-10, or `cifar-10-batches-py/`;
            `train_32x32.mat` and `test_32x32.mat` of SVHN; or with data sets prepared by
            tensorflow-datasets. Default `None`: `~/.keras/datasets` (`KERAS_HOME` is honoured),
            then the default folder of tensorflow-datasets.
        dtype: Type of the images: `"float32"` (default), or `None` to keep uint8 pixels, which
            need a quarter of the memory; see `to_unit_interval`.

    Returns:
        A `Dataset`: `train`, `validation` and `test`, each with `images` and `labels`.

    Raises:
        ValueError: If the name is unknown, the data is neither found nor can be downloaded, or
            a file is missing, damaged or not as described.

    Example:

    ```python
    from hr_keras import datasets

    (x_train, y_train), (x_val, y_val), (x_test, y_test) = datasets.load("mnist10k")
    assert x_train.shape == (7200, 28, 28, 1)
    ```
    """
    if not (isinstance(validation, (int, float, np.floating)) and 0 <= validation < 1):
        raise ValueError(f"`validation` must be at least 0 and below 1. Received: {validation!r}")
    if dtype not in ("float32", None):
        raise ValueError(f'`dtype` must be "float32" or None. Received: {dtype!r}')
    name = check_name(name)
    x_train, y_train, x_test, y_test = _read(name, data_dir)
    train = _check_split(x_train, y_train, name, "train")
    test = _check_split(x_test, y_test, name, "test")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"Train and test images of {name} differ in shape: "
            f"{train.images.shape[1:]} and {test.images.shape[1:]}."
        )
    kept, held_out = _split_by_class(train.labels, validation, seed)
    if len(kept) == 0 or (validation > 0 and len(held_out) == 0):
        raise ValueError(
            f"A validation share of {validation} splits the {len(train.labels)} training images of "
            f"{name} into {len(kept)} to train and {len(held_out)} to validate."
        )
    validation_split = Split(train.images[held_out], train.labels[held_out])
    dataset = Dataset(Split(train.images[kept], train.labels[kept]), validation_split, test)
    if test.labels.max() >= dataset.num_classes:
        raise ValueError(
            f"Test labels of {name} go up to {test.labels.max()}, "
            f"training labels only to {dataset.num_classes - 1}."
        )
    if dtype is None:
        return dataset
    return Dataset(*(Split(to_unit_interval(images), labels) for images, labels in dataset))


def to_unit_interval(images: np.ndarray) -> np.ndarray:
    """Converts images to float32 in [0, 1]: uint8 pixels are divided by 255.

    Args:
        images: uint8, or floating point in [0, 1].

    Returns:
        The images, of the same shape.

    Example:

    ```python
    from hr_keras import datasets

    stored = datasets.load("mnist10k", dtype=None).test.images  # uint8
    digits = datasets.to_unit_interval(stored[:100])
    ```
    """
    if images.dtype == np.uint8:
        return images.astype("float32") / np.float32(255)
    return images.astype("float32", copy=False)


def check_name(name: str | os.PathLike[str]) -> str:
    """Returns the name or path as text if `load` accepts it, without loading anything.

    Args:
        name: A name, or the path of an `.npz` file.

    Returns:
        The text.

    Raises:
        ValueError: If the name is unknown or the file does not exist.

    Example:

    ```python
    from hr_keras import datasets

    assert datasets.check_name("mnist10k") == "mnist10k"
    ```
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"A dataset is a name or a path. Received: {name!r}")
    name = os.fspath(name)
    if not name.endswith(".npz"):
        return check_choice("dataset", name, (*NAMES, "<a file>.npz"))
    if not os.path.isfile(name):
        raise ValueError(f"There is no file {name!r}.")
    return name


def recognize(path: str | os.PathLike[str]) -> str | None:
    """Tells whether an `.npz` file holds all of MNIST or CIFAR-10, whatever it is called.

    The number and shape of the images, the size of each class, the first labels and the first
    pixels must be those of the data in its published order. Images that were changed, such as
    by JPEG, and other orders are not recognized.

    Args:
        path: Path of an `.npz` file.

    Returns:
        `"MNIST"`, `"CIFAR-10"`, or `None` for anything else, a damaged file included.

    Example:

    ```python
    from hr_keras import datasets

    np.savez(tmp_path / "a.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    assert datasets.recognize(tmp_path / "a.npz") is None
    ```
    """
    try:
        with open(path, "rb") as file:
            return identify(read_npz(file, str(path)))
    except ValueError:
        return None


def _read(name: str, data_dir: str | os.PathLike[str] | None) -> list[np.ndarray]:
    """Returns x_train, y_train, x_test, y_test."""
    if name in _EMBEDDED:
        path = importlib.resources.files("hr_keras") / "data" / f"{name}.npz"
        with path.open("rb") as file:
            return read_npz(file, name)
    if name not in _PUBLISHED:
        with open(name, "rb") as file:
            return read_npz(file, name)
    found = read_files(name, data_dir)
    if isinstance(found, str):
        return read_tfds(name, data_dir, searched=found)
    known = identify(found)
    if known not in (None, _PUBLISHED[name]):
        raise ValueError(f"The files found for {name} hold {known}.")
    return found


def _check_split(images: np.ndarray, labels: np.ndarray, name: str, which: str) -> Split:
    """Checks images, and adds the channel axis; checks labels, and casts them to int64 `(n,)`."""
    where = f"{which} of {name}"
    side = math.isqrt(images.shape[1]) if images.ndim == 2 else 0
    if side and side**2 == images.shape[1]:
        images = images.reshape(len(images), side, side)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            "Images must have shape (n, height, width[, channels]), or (n, side²), n ≥ 1. "
            f"Received for {where}: {images.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all():
        labels = labels.argmax(axis=1)  # one-hot
    if labels.shape != images.shape[:1]:
        raise ValueError(
            "Labels must have shape (n,) or (n, 1), or be one-hot (n, classes), with "
            f"n={len(images)}. Received for {where}: {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels must be integers 0, 1, … Received for {where}: dtype {labels.dtype}"
        )
    if labels.min() < 0:
        raise ValueError(
            f"Labels must be integers 0, 1, … Received for {where}: smallest {labels.min()}"
        )
    return Split(_check_pixels(images, where), labels.astype("int64"))


def _check_pixels(images: np.ndarray, where: str) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"Images must be uint8, or floating point in [0, 1]. Received for {where}: "
            f"dtype {images.dtype}"
        )
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # NaN included
        raise ValueError(
            f"Floating-point images must be in [0, 1]. Received for {where}: from {low} to {high}"
        )
    return images.astype("float32")


def _split_by_class(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices kept and held out: round(share · count) of each class, in order."""
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held_out[generator.permutation(members)[: round(share * len(members))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
