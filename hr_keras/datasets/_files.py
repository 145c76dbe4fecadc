"""Data sets in files that a user may have already: where they are, and how they are read."""

import gzip
import math
import os
import pathlib
import struct
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

from hr_keras.datasets._pickle import read_batch

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class _UnexpectedContent(ValueError):
    """A readable file with the wrong content, as opposed to a damaged file."""


def read_npz(file: IO[bytes], name: str) -> list[np.ndarray]:
    """Returns x_train, y_train, x_test, y_test of an .npz file. Nothing is unpickled.

    Args:
        file: The file.
        name: What to call it in messages.

    Raises:
        ValueError: If the file is damaged or lacks an array.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [array for array in _ARRAYS if array not in archive.files]
            if missing:
                raise _UnexpectedContent(
                    f"{name} must hold the arrays {', '.join(_ARRAYS)}. Missing: "
                    f"{', '.join(missing)}. It holds: {', '.join(archive.files) or 'nothing'}"
                )
            return [archive[array] for array in _ARRAYS]
    except _UnexpectedContent:
        raise
    except Exception as error:  # damaged files raise many types of errors
        hint = ""
        if "pickle" in str(error):
            hint = (
                " It holds an object array, or is not an .npz file; both would need unpickling,"
                " which can run code and is refused. Save plain numeric arrays with np.savez."
            )
        raise ValueError(f"{name} is not a complete .npz file: {error}.{hint}") from error


def _read_npz_path(paths: list[pathlib.Path]) -> list[np.ndarray]:
    with paths[0].open("rb") as file:
        return read_npz(file, str(paths[0]))


def _read_idx_files(paths: list[pathlib.Path]) -> list[np.ndarray]:
    return [_read_idx(path, axes) for path, axes in zip(paths, (3, 1, 3, 1), strict=True)]


def _read_idx(path: pathlib.Path, axes: int) -> np.ndarray:
    try:
        with gzip.open(path) as file:
            magic, *shape = struct.unpack(f">{1 + axes}I", file.read(4 + 4 * axes))
            if magic != 0x800 + axes:
                raise ValueError(f"it begins with {magic:#x} instead of {0x800 + axes:#x}")
            content = file.read(math.prod(shape) + 1)  # to the end, where the checksum is
        if len(content) != math.prod(shape):
            raise ValueError(f"it must hold {math.prod(shape)} bytes of shape {shape}")
    except Exception as error:  # damaged files raise many types of errors
        raise ValueError(f"{path} is not a complete gzipped IDX file: {error}.") from error
    return np.frombuffer(content, "uint8").reshape(shape).copy()  # an array that can be changed


def _read_batches(paths: list[pathlib.Path]) -> list[np.ndarray]:
    arrays = []
    for split in (paths[:-1], paths[-1:]):
        arrays += [np.concatenate(parts) for parts in zip(*map(read_batch, split), strict=True)]
    return arrays


def _read_mat_files(paths: list[pathlib.Path]) -> list[np.ndarray]:
    return [array for path in paths for array in _read_mat(path)]


def _read_mat(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 32, 32, 3)` and labels of SVHN, whose files call the digit 0 ten."""
    from scipy import io

    try:
        found = io.loadmat(path, variable_names=("X", "y"))
        missing = [name for name in ("X", "y") if name not in found]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        images, labels = found["X"], found["y"].ravel()
        if images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"X must have shape (32, 32, 3, n). Received: {images.shape}")
        if not np.isin(labels, range(1, 11)).all():
            raise ValueError("y must be integers from 1 to 10")
    except Exception as error:  # damaged files raise many types of errors
        raise ValueError(f"{path} is not a complete MATLAB file of SVHN: {error}.") from error
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype("int64") % 10


class _Layout(NamedTuple):
    """The files of a data set, all in one of these folders."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    read: Callable[[list[pathlib.Path]], list[np.ndarray]]


_LAYOUTS = {
    "mnist": _Layout(("", "mnist"), ("mnist.npz",), _read_npz_path),
    "fashion_mnist": _Layout(
        ("", "fashion-mnist", "fashion_mnist"),
        (
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        _read_idx_files,
    ),
    "cifar10": _Layout(
        # the last is where Keras 3 unpacks its download
        ("", "cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"),
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
        _read_batches,
    ),
    "svhn_cropped": _Layout(
        ("", "svhn", "svhn_cropped"), ("train_32x32.mat", "test_32x32.mat"), _read_mat_files
    ),
}


def read_files(name: str, data_dir: str | os.PathLike[str] | None) -> list[np.ndarray] | str:
    """Reads a data set from the files of its authors or of Keras.

    Args:
        name: Name of the data set.
        data_dir: Where to look; `None` for the folder in which Keras keeps its downloads.

    Returns:
        x_train, y_train, x_test, y_test; or, if there is none of the files, a text that says
        what was looked for.

    Raises:
        ValueError: If files are missing or damaged.
    """
    layout = _LAYOUTS[name]
    root = _find_keras_folder() if data_dir is None else pathlib.Path(data_dir)
    for folder in layout.folders:
        paths = [root / folder / file for file in layout.files]
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            return layout.read(paths)
        if len(missing) < len(paths):
            raise ValueError(
                f"{root / folder} holds only a part of {name}. Missing: {', '.join(missing)}"
            )
    folders = ", ".join(filter(None, layout.folders))
    return f"{', '.join(layout.files)} in {root} and its subfolders {folders}"


def _find_keras_folder() -> pathlib.Path:
    home: Any = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    return pathlib.Path(home) / "datasets"
