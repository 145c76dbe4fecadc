"""What is done with pixel bounds: two numbers, or two tuples with one for each channel."""

from typing import Any

import numpy as np

from hr_keras._core.checks import Bounds


def widest(bounds: Bounds) -> float:
    """Returns the width of the pixel range, that of the widest channel."""
    low, high = map(np.asarray, bounds)
    return float((high - low).max())


def for_pixels(bounds: Bounds, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns the bounds as they are if they are numbers, else as arrays of the shape of an image.

    Raises:
        ValueError: If the image has another number of channels, its last axis.
    """
    if not isinstance(bounds[0], tuple):
        return bounds
    if len(bounds[0]) != shape[-1]:
        raise ValueError(
            f"`bounds` must be two numbers, or have one for each of the {shape[-1]} channels, the "
            f"last axis of the images. Received: {len(bounds[0])} in each"
        )
    low, high = (np.broadcast_to(bound, shape) for bound in bounds)
    return low, high


def clip(images: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Clips images `(n, ..., channels)` to the bounds, in their dtype."""
    low, high = (np.asarray(bound, images.dtype) for bound in bounds)
    return images.clip(low, high)


def scale_to_unit(images: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Maps the pixel range of each channel to [0, 1]."""
    low, high = map(np.asarray, bounds)
    return (images - low) / (high - low)


def format_bounds(bounds: Bounds) -> str:
    """Formats bounds: "0 to 1", or "(0, -1) to (1, 1)"."""
    ends = (end if isinstance(end, tuple) else (end,) for end in bounds)
    texts = [", ".join(f"{value:g}" for value in end) for end in ends]
    return " to ".join(f"({text})" if "," in text else text for text in texts)
