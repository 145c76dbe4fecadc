"""Reads CIFAR-10's batches, which are pickles, without running what a pickle may ask for."""

import io
import pathlib
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

# What an array needs. NumPy 2 writes `numpy._core`, earlier versions `numpy.core`.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
# A real batch has 31 MB and 10,000 images.
_MOST_BYTES = 2**26
_MOST_OBJECTS = 10**6


class _Recorded:
    """What a pickle says about an object of NumPy. Nothing of NumPy is called."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` only, and even those are recorded, not called."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")
        if name == "encode":
            return lambda text, encoding: text.encode("latin1")  # how Python 3 writes bytes
        # a new function each time: a pickle can set attributes of what it gets
        return lambda *arguments: _Recorded(*arguments)


def read_batch(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a batch of CIFAR-10: images `(n, 32, 32, 3)`, uint8, and labels `(n,)`.

    Args:
        path: A file such as `data_batch_1`: a pickled dict with `data`, an array `(n, 3072)`, and
            `labels`, a list.

    Raises:
        ValueError: If the file is damaged, holds something else, or asks for anything but NumPy
            arrays, bytes, text, numbers, lists and dicts.
    """
    try:
        return _decode(_unpickle(path))
    except Exception as error:  # damaged pickles raise many types of errors
        raise ValueError(f"{path} is not a batch of CIFAR-10: {error}.") from error


def _unpickle(path: pathlib.Path) -> Any:
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"it has {size} bytes; expected at most {_MOST_BYTES}")
    content = path.read_bytes()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):  # runs nothing
        # These few bytes may ask for any amount of memory.
        too_large = opcode.name.endswith("PUT") and (argument or 0) > _MOST_OBJECTS
        if too_large or count > _MOST_OBJECTS or opcode.name == "BYTEARRAY8":
            raise ValueError(f"it asks for too much memory, by {opcode.name}")
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


def _decode(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(batch, dict):
        raise ValueError(f"expected a dict, received {type(batch).__name__}")
    data, labels = (batch.get(key.encode(), batch.get(key)) for key in ("data", "labels"))
    pixels = _decode_array(data)
    if not (
        isinstance(labels, list)
        and len(labels) == len(pixels)
        and all(type(label) is int and 0 <= label <= 9 for label in labels)
    ):
        raise ValueError(f"`labels` must be a list of {len(pixels)} integers from 0 to 9")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, "int64")


def _decode_array(recorded: Any) -> np.ndarray:
    """The pixels, from the bytes that the pickle holds."""
    message = "`data` must be an array of uint8 and of shape (n, 3072)"
    state = getattr(recorded, "state", None)
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError(message)
    _, shape, dtype, is_fortran, content = state
    kind = getattr(dtype, "arguments", (None,))[0]
    if kind not in ("u1", b"u1") or is_fortran or not isinstance(content, bytes):
        raise ValueError(message)
    pixels = np.frombuffer(content, "uint8")
    if not isinstance(shape, tuple) or shape[1:] != (3072,) or pixels.size != shape[0] * 3072:
        raise ValueError(f"{message}. Received: shape {shape} and {pixels.size} bytes")
    return pixels.reshape(shape)
