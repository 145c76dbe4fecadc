"""Reads images and labels from arrays or a dataset, a few batches at a time."""

import copy
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Self

import keras
import numpy as np

from hr_keras._core.checks import check_batch_size
from hr_keras._core.inputs import Inputs

Preprocess = Callable[[Any], Any] | None
Keys = tuple[str, str]
KEYS: Keys = ("image", "label")

# Batches in a chunk. An attack joins the examples of a chunk that are not fooled yet to full
# batches, so that more batches are faster. Fewer take less memory.
CHUNK = 4


class Chunk(NamedTuple):
    """Holds successive examples.

    Args:
        first_index: Index of the first of them in the data.
        images: `(n, ...)`, or `Inputs`.
        labels: `(n, ...)`.
        is_whole: Whether these are all of the examples.
        share: Share of the data that is read by now, or `None` if it is not known.
    """

    first_index: int
    images: Any
    labels: np.ndarray
    is_whole: bool
    share: float | None


class Examples:
    """Images and labels that may be read several times, in chunks of a few batches.

    Arrays and datasets come in the same chunks, so that results are the same.

    Args:
        data: Images `(n, ...)`, or a batched `tf.data.Dataset` or `keras.utils.PyDataset`.
        labels: Labels `(n, ...)` of images; `None` for a dataset.
        preprocess: Function from a batch of images to a batch of images, or `None`.
        keys: Names of images and labels where elements are dicts.
        steps: How many batches of a dataset to take. Default `None`: all.
        name: What errors call `data`. Default `"images"`.

    Raises:
        ValueError: If the data are not as described.
    """

    def __init__(
        self,
        data: Any,
        labels: Any = None,
        preprocess: Preprocess = None,
        keys: Keys = KEYS,
        steps: int | None = None,
        name: str = "images",
    ) -> None:
        self.name, self.preprocess, self._steps = name, preprocess, steps
        self._found: int | None = None
        self.is_dataset = is_dataset(data)
        if not (preprocess is None or callable(preprocess)):
            raise ValueError(f"`preprocess` must be a function. Received: {preprocess!r}")
        if self.is_dataset:
            self._keys = _check_keys(keys)
            self._data, self._batches = data, _count_batches(data, steps, name)
            if labels is not None:
                raise ValueError(
                    f"`labels` must not be given with a dataset, whose elements are pairs (images, "
                    f"labels). Received: {type(data).__name__} and {type(labels).__name__}"
                )
            return
        if labels is None:
            raise ValueError(
                f"`{name}` must come with labels, or be a batched tf.data.Dataset or "
                f"keras.utils.PyDataset of (images, labels). Received: {type(data).__name__} alone"
            )
        images = data if isinstance(data, Inputs) else as_array(data)
        self._data = images, np.asarray(labels)
        if all(part.ndim for part in self._data) and len(self._data[0]) != len(self._data[1]):
            hint = " For a single image pass images[None] and [label]."
            raise ValueError(
                "There must be as many labels as images: `labels` must have shape "
                f"({len(self._data[0])},). Received: {self._data[1].shape}."
                f"{hint if self._data[1].size == 1 else ''}"
            )

    @classmethod
    def of(
        cls, data: Any, labels: Any = None, preprocess: Preprocess = None, keys: Keys = KEYS
    ) -> Self:
        """Returns `data` if they are examples already, else makes them examples."""
        return data if isinstance(data, cls) else cls(data, labels, preprocess, keys)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)  # TensorFlow cannot copy a dataset

    def read(self, batch_size: int) -> Iterator[Chunk]:
        """Yields all examples, `CHUNK` batches at a time; the last chunk may be shorter.

        Raises:
            ValueError: If there is none, or what the dataset yields is not as described: the
                message names the index of the example.
        """
        size = CHUNK * check_batch_size(batch_size)
        return self._read_dataset(size) if self.is_dataset else self._read_arrays(size)

    def read_first(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels: all arrays, or the first chunk of a dataset."""
        if not self.is_dataset:
            return self._apply(self._data[0]), self._data[1]
        chunk = next(self.read(batch_size))
        return chunk.images, chunk.labels

    def _read_arrays(self, size: int) -> Iterator[Chunk]:
        images, labels = self._data
        n = len(images) if images.ndim else 0
        if n == 0 or not labels.ndim:
            yield Chunk(0, images, labels, True, 1.0)  # whoever reads it checks the shape
            return
        for first in range(0, n, size):
            end = min(first + size, n)
            part = self._apply(images[first:end])
            yield Chunk(first, part, labels[first:end], n <= size, end / n)

    def _read_dataset(self, size: int) -> Iterator[Chunk]:
        held: list[tuple[np.ndarray, np.ndarray]] = []
        first = waiting = 0
        share = None
        for number, element in enumerate(self._iterate(), 1):
            held.append(self._check(element, first + waiting, held))
            waiting += len(held[-1][0])
            share = None if self._batches is None else number / self._batches
            while waiting > size:  # there are more, so that this is not the last
                images, labels = _join(held)
                yield Chunk(first, images[:size], labels[:size], False, share)
                held = [(images[size:], labels[size:])]
                first, waiting = first + size, waiting - size
        if waiting == 0:
            raise ValueError(
                f"`{self.name}` must be a dataset of at least one batch (images, labels). "
                "Received: an empty one"
            )
        self._check_size(first + waiting)
        yield Chunk(first, *_join(held), first == 0, share)

    def _iterate(self) -> Iterator[Any]:
        if isinstance(self._data, keras.utils.PyDataset):
            count = _count_batches(self._data, self._steps, self.name)  # it may have changed
            yield from (self._data[number] for number in range(count or 0))
            return
        import tensorflow as tf

        elements = self._data.prefetch(1).as_numpy_iterator()
        count = 0
        try:
            for element in islice(elements, self._steps):
                yield element
                count += 1
        except tf.errors.OpError as error:
            raise ValueError(
                f"`{self.name}` must be a dataset that can be read to its end. Received: an error "
                f"after {count} batches, {error.message}"
            ) from error

    def _check(
        self, element: Any, index: int, held: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a batch of the dataset as two arrays, the images floating point."""
        images, labels = self._split(element)
        received = ""
        sound = all(part.ndim and part.dtype != object for part in (images, labels))
        if not sound or images.ndim < 2 or len(images) != len(labels):
            kinds = [f"{part.dtype} {part.shape}" for part in (images, labels)]
            received = (
                f"elements of images {kinds[0]} and labels {kinds[1]}, which are not batches of "
                "numbers. Call .batch(n) on a dataset of single examples"
            )
        elif held and any(
            one.shape[1:] != other.shape[1:]
            for one, other in zip(held[-1], (images, labels), strict=True)
        ):
            shapes = [(*map(np.shape, batch),) for batch in (held[-1], (images, labels))]
            received = f"batches of shapes {shapes[0]} and {shapes[1]}"
        if received:
            raise ValueError(
                f"`{self.name}` must be a dataset of batches (images, labels) of one shape. "
                f"Received: {received}, at example {index}"
            )
        images = self._apply(images)
        return images.astype("float32") if images.dtype.kind in "iu" else images, labels

    def _split(self, element: Any) -> tuple[np.ndarray, np.ndarray]:
        def fail(received: str) -> None:
            raise ValueError(
                f"`{self.name}` must be a dataset of batches (images, labels). Received: {received}"
            )

        parts = element
        if isinstance(element, dict) and all(key in element for key in self._keys):
            parts = tuple(element[key] for key in self._keys)
        if not (isinstance(parts, (tuple, list)) and len(parts) in (2, 3)):
            fail(
                f"one whose elements are not batches of pairs but {_describe(element)}; "
                f"keys={self._keys}"
            )
        pair = [
            part.get(key) if isinstance(part, dict) else part
            for part, key in zip(parts[:2], self._keys, strict=True)
        ]
        if any(part is None or isinstance(part, (tuple, list, str)) for part in pair):
            kinds = " and ".join(_describe(part) for part in parts[:2])
            fail(f"one whose elements are not batches of two arrays but {kinds}")
        images, labels = map(np.asarray, pair)
        return images, labels

    def _apply(self, images: Any) -> Any:
        if self.preprocess is None:
            return images
        if isinstance(images, Inputs):
            return Inputs(self._apply(images.attacked), images.others)
        found = np.asarray(self.preprocess(images.copy()))  # some of Keras' own write into it
        if found.ndim == 0 or len(found) != len(images):
            raise ValueError(
                "`preprocess` must return as many images as it was given, "
                f"({len(images)}, ...). Received: {found.shape}"
            )
        return found

    def _check_size(self, found: int) -> None:
        """Raises an error if the dataset has another size than in an earlier pass."""
        if self._found not in (None, found):
            raise ValueError(
                f"`{self.name}` must be a dataset of the same size in every pass. "
                f"Received: {self._found} examples at first, {found} now"
            )
        self._found = found


def as_array(images: Any) -> np.ndarray:
    """Returns images as an array in the byte order of this machine.

    Raises:
        ValueError: For tensors without values, as inside compiled code.
    """
    import tensorflow as tf

    if isinstance(images, keras.KerasTensor) or tf.is_symbolic_tensor(images):
        raise ValueError(
            "An attack or evaluation needs images with values, and cannot run inside compiled "
            "code, such as `train_step`, `dataset.map` or a tf.function. To train on adversarial "
            "examples use training.AdversarialTraining, TRADES or MART; to attack a dataset, loop "
            f"over its batches in Python. Received: {type(images).__name__} {images.shape}"
        )
    array = np.asarray(images)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def is_dataset(data: Any) -> bool:
    """Returns whether data are a `tf.data.Dataset` or a `keras.utils.PyDataset`."""
    return hasattr(data, "as_numpy_iterator") or isinstance(data, keras.utils.PyDataset)


def _check_keys(keys: Any) -> Keys:
    if not (
        isinstance(keys, (tuple, list))
        and len(keys) == 2
        and all(isinstance(key, str) for key in keys)
    ):
        raise ValueError(
            f"`keys` must be the names of images and labels, such as {KEYS}. Received: {keys!r}"
        )
    return keys[0], keys[1]


def _count_batches(data: Any, steps: int | None, name: str) -> int | None:
    """Returns how many batches there are, `None` if it is not known."""
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
    else:
        count = int(data.cardinality())
        if count == -2 and steps is None:  # unknown
            return None
    if count is None or count < 0:
        count = math.inf
    count = count if steps is None else min(count, steps)
    if count == math.inf:
        raise ValueError(
            f"`{name}` must be a dataset with an end: take a number of batches, "
            "dataset.take(n). Received: a dataset without an end"
        )
    return int(count)


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value))}"
    is_list = isinstance(value, (tuple, list))
    return f"a {type(value).__name__} of {len(value)}" if is_list else type(value).__name__


def _join(held: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(held) == 1:
        return held[0]
    images, labels = (np.concatenate([batch[k] for batch in held]) for k in range(2))
    return images, labels
