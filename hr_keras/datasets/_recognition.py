"""Which well-known data set some arrays hold, whatever their file is called."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class _Facts(NamedTuple):
    """A split in its published order: what every copy of it has, and hardly anything else."""

    shape: tuple[int, ...]
    class_sizes: tuple[int, ...]
    labels: tuple[int, ...]  # the first
    pixels: tuple[int, ...]  # the first that are not 0, of the first image


_KNOWN = {
    "MNIST": (
        _Facts(
            (60000, 28, 28),
            (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
            (3, 18, 18, 18, 126, 136, 175, 26, 166),
        ),
        _Facts(
            (10000, 28, 28),
            (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            (7, 2, 1, 0, 4, 1, 4, 9, 5, 9),
            (84, 185, 159, 151, 60, 36, 222, 254, 254),
        ),
    ),
    "CIFAR-10": (
        _Facts(
            (50000, 32, 32, 3),
            (5000,) * 10,
            (6, 9, 9, 4, 1, 1, 2, 7, 8, 3),
            (59, 62, 63, 43, 46, 45, 50, 48, 43),
        ),
        _Facts(
            (10000, 32, 32, 3),
            (1000,) * 10,
            (3, 8, 8, 0, 6, 6, 1, 6, 3, 1),
            (158, 112, 49, 159, 111, 47, 165, 116, 51),
        ),
    ),
}


def identify(arrays: Sequence[np.ndarray]) -> str | None:
    """Returns `"MNIST"` or `"CIFAR-10"` if the arrays are these data in their published order.

    Fashion-MNIST has the shapes of MNIST, and recompressed photographs have the labels of the
    original. So shapes, sizes of the classes, the first labels and the first pixels must agree.

    Args:
        arrays: x_train, y_train, x_test, y_test.
    """
    x_train, y_train, x_test, y_test = arrays
    for name, (train, test) in _KNOWN.items():
        if _agree(x_train, y_train, train) and _agree(x_test, y_test, test):
            return name
    return None


def _agree(images: np.ndarray, labels: np.ndarray, facts: _Facts) -> bool:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    labels = labels.ravel()
    if images.dtype != np.uint8 or images.shape != facts.shape or len(labels) != len(images):
        return False
    first = images[0][images[0] > 0]
    return (
        tuple(labels[: len(facts.labels)].tolist()) == facts.labels
        and tuple(first[: len(facts.pixels)].tolist()) == facts.pixels
        and tuple(np.unique(labels, return_counts=True)[1].tolist()) == facts.class_sizes
    )
