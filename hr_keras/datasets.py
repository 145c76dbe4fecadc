"""Image classification data: `load(name)` → train, validation and test arrays."""

import difflib
import importlib.resources
import numbers
import os
import socket
import urllib.parse
import urllib.request
from typing import NamedTuple

import numpy as np

EMBEDDED = ("mnist10k",)
TFDS = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class _NotAsExpected(ValueError):
    """A whole file with the wrong content, apart from a damaged one."""


class Split(NamedTuple):
    """Images `(n, height, width, channels)` and integer labels `(n,)`.

    The images are float32 in [0, 1]; with `load(dtype=None)` they may be uint8.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three splits; unpacks as `(x, y), (x_val, y_val), (x_test, y_test) = load(name)`."""

    train: Split
    validation: Split
    test: Split

    @property
    def num_classes(self):
        """One more than the largest label of the training split, validation included."""
        return 1 + int(max(self.train.labels.max(), self.validation.labels.max(initial=0)))


def load(name, validation=0.1, seed=0, data_dir=None, dtype="float32"):
    """A data set by name, or from an `.npz` file in Keras' layout.

    Args:
        name: `"mnist10k"` (10,000 real MNIST digits that ship with this package: 8,000 to
            train and validate, 2,000 to test), a data set of tensorflow-datasets
            (`"mnist"`, `"fashion_mnist"`, `"cifar10"`, `"svhn_cropped"`), or the path of
            an `.npz` file with `x_train, y_train, x_test, y_test`: images uint8, or
            floating point in [0, 1], of shape `(n, height, width)` or
            `(n, height, width, channels)`; integer labels `(n,)` or `(n, 1)`.
            Nothing is ever unpickled.
        validation: share of the training images that becomes the validation split,
            0 ≤ validation < 1: the same share of every class.
        seed: integer that determines the validation split.
        data_dir: where tensorflow-datasets looks for its data and downloads it to.
        dtype: of the images: `"float32"`, or `None` for a quarter of the memory where pixels
            are stored as uint8: they stay so, see `to_unit_interval`.

    Returns:
        A `Dataset`: `train`, `validation` and `test`, each `images` and `labels`.

    Raises:
        ValueError: for an unknown name, data that cannot be had here, or a file that is
            not as described.

    Example:
        >>> (x_train, y_train), (x_val, y_val), (x_test, y_test) = load("mnist10k")
        >>> x_train.shape, x_val.shape, x_test.shape
        ((7200, 28, 28, 1), (800, 28, 28, 1), (2000, 28, 28, 1))
    """
    if not (isinstance(validation, numbers.Real) and 0 <= validation < 1):
        raise ValueError(f"`validation` must be at least 0 and below 1. Received: {validation!r}")
    if dtype not in ("float32", None):
        raise ValueError(f'`dtype` must be "float32" or None. Received: {dtype!r}')
    name = check_name(name)
    if name in EMBEDDED:
        path = importlib.resources.files("hr_keras") / "data" / f"{name}.npz"
        with path.open("rb") as file:
            arrays = _read_npz(file, name)
    elif name in TFDS:
        arrays = _read_tfds(name, data_dir)
    else:
        with open(name, "rb") as file:
            arrays = _read_npz(file, name)
    x_train, y_train, x_test, y_test = arrays
    train = _split(x_train, y_train, name, "train")
    test = _split(x_test, y_test, name, "test")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"Train and test images of {name} differ in shape: "
            f"{train.images.shape[1:]} and {test.images.shape[1:]}."
        )
    kept, held_out = _stratified(train.labels, validation, seed)
    if len(kept) == 0 or (validation > 0 and len(held_out) == 0):
        raise ValueError(
            f"A validation share of {validation} leaves {len(kept)} of the {len(train.labels)} "
            f"training images of {name} to train and {len(held_out)} to validate."
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


def to_unit_interval(images):
    """Images as float32 in [0, 1]: uint8 pixels over 255, floating-point ones as they are.

    Args:
        images: uint8, or floating point in [0, 1].
    """
    if images.dtype == np.uint8:
        return images.astype("float32") / np.float32(255)
    return images.astype("float32", copy=False)


def check_name(name):
    """The name or path as text; a ValueError unless `load` could know it."""
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"A dataset is a name or a path. Received: {name!r}")
    name = os.fspath(name)
    if name in EMBEDDED or name in TFDS:
        return name
    if name.endswith(".npz"):
        if os.path.isfile(name):
            return name
        raise ValueError(f"There is no file {name!r}.")
    nearest = difflib.get_close_matches(name, (*EMBEDDED, *TFDS), n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"Unknown dataset {name!r}. Expected one of {(*EMBEDDED, *TFDS)} or the path of an "
        f".npz file.{hint}"
    )


def _read_npz(file, name):
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [array for array in _ARRAYS if array not in archive.files]
            if missing:
                raise _NotAsExpected(
                    f"{name} must hold the arrays {', '.join(_ARRAYS)}. Missing: "
                    f"{', '.join(missing)}. It holds: {', '.join(archive.files) or 'nothing'}"
                )
            return [archive[array] for array in _ARRAYS]
    except _NotAsExpected:
        raise
    except Exception as error:  # damage shows as any of a dozen types
        hint = ""
        if "pickle" in str(error):
            hint = (
                " It holds an object array, or is no .npz file at all; both would need unpickling,"
                " which can run code and is refused. Save plain numeric arrays with np.savez."
            )
        raise ValueError(f"{name} is not a complete .npz file: {error}.{hint}") from error


def _read_tfds(name, data_dir):
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    try:
        if not builder.is_prepared():
            _check_reachable(builder.url_infos)
            builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:  # a network, a checksum, a disk: TFDS raises many types
        where = os.path.dirname(os.path.dirname(builder.data_dir))
        raise ValueError(
            f"Dataset {name!r} is not in {where} and could not be downloaded there "
            f"({type(error).__name__}: {error}). Two ways on: prepare it with tensorflow-datasets "
            "on a machine that has a network and pass its folder as `data_dir`, or pass the "
            "path of an .npz file with x_train, y_train, x_test, y_test."
        ) from error
    splits = [
        tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, as_supervised=True))
        for split in ("train", "test")
    ]
    return [array for split in splits for array in split]


def _check_reachable(urls):
    """Fail at once where a host has no address: TFDS would try again for minutes."""
    if urllib.request.getproxies():
        return
    for host in {urllib.parse.urlsplit(url).hostname for url in urls}:
        if host is not None:
            socket.getaddrinfo(host, None)


def _split(images, labels, name, which):
    """Checked images, uint8 or float32 in [0, 1] with a channel axis, and labels, int64 `(n,)`."""
    where = f"{which} of {name}"
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"Images must have shape (n, height, width[, channels]), n ≥ 1. "
            f"Received for {where}: {images.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"Labels must have shape (n,) or (n, 1) with n={len(images)}. "
            f"Received for {where}: {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels must be integers 0, 1, … Received for {where}: dtype {labels.dtype}"
        )
    if labels.min() < 0:
        raise ValueError(
            f"Labels must be integers 0, 1, … Received for {where}: smallest {labels.min()}"
        )
    return Split(_checked_pixels(images, where), labels.astype("int64"))


def _checked_pixels(images, where):
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


def _stratified(labels, share, seed):
    """Indices kept and held out: round(share · count) of each class, in the original order."""
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held_out[generator.permutation(members)[: round(share * len(members))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
