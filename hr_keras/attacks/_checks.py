"""What attacks accept: a `ValueError` says what was expected and what came."""

import math
import numbers

import keras
import numpy as np

from hr_keras._core.logits import classifier_output
from hr_keras.attacks import objectives


def prepare(model, images, labels, bounds):
    """Checked images `(n, ...)` and labels, int32 `(n,)` or float32 `(n, classes)`, in NumPy.

    Raises:
        ValueError: for empty data, images that are not floating point, not finite or
            outside `bounds`; labels of the wrong shape, out of range, or soft labels that
            are negative or do not sum to 1 within 1e-3; a model that is no classifier.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images, bounds)
    output = classifier_output(model, images)
    if not keras.backend.is_float_dtype(output.input_dtype):
        raise ValueError(
            "A gradient attack needs a model of floating-point images. "
            f"Received: model {model.name!r} with input dtype {output.input_dtype}"
        )
    return images, check_labels(labels, len(images), output.num_classes)


def check_images(images, bounds):
    """A ValueError unless `images` are floating point, at least one, finite and in `bounds`."""
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"`images` must have shape (n, ...), n ≥ 1. Received: {images.shape}")
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":
        raise ValueError(
            "`images` must be floating point: an attack moves pixels by fractions. Received: "
            f"dtype {images.dtype}. Convert them, for example images.astype('float32') / 255"
        )
    low, high = images.min(), images.max()
    # in the precision of the images: 0.1 in float64 is not 0.1 in float32
    lowest, highest = (np.asarray(bound, images.dtype) for bound in bounds)
    if not (np.isfinite(low) and np.isfinite(high) and lowest <= low and high <= highest):
        raise ValueError(
            f"`images` must lie inside bounds={bounds}, without NaN. "
            f"Received: values from {low} to {high}"
        )


def check_labels(labels, n, classes):
    """Labels as int32 `(n,)` or float32 `(n, classes)`; a ValueError where they are neither."""
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"`labels` must be numbers. Received: dtype {labels.dtype}")
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape == (n, classes):
        labels = labels.astype("float32")
        sums = labels.sum(axis=-1)
        if not ((labels >= 0).all() and np.allclose(sums, 1.0, atol=1e-3)):
            raise ValueError(
                "Soft labels must not be negative and must sum to 1. Received: smallest "
                f"{labels.min()}, sums from {sums.min()} to {sums.max()}"
            )
        return labels / sums[:, None]
    if labels.shape != (n,):
        raise ValueError(
            f"`labels` must have shape ({n},), ({n}, 1) or ({n}, {classes}). "
            f"Received: {labels.shape}"
        )
    if not (labels == np.floor(labels)).all() or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must be class numbers from 0 to {classes - 1}. "
            f"Received: from {labels.min()} to {labels.max()}, dtype {labels.dtype}"
        )
    return labels.astype("int32")


def check_objective(objective, targeted):
    """The objective, see `objectives.get`; a ValueError where it makes no sense `targeted`."""
    objective = objectives.get(objective)
    if targeted and objective.name == "dlr":
        raise ValueError(
            "`targeted` must be False with objective='dlr', whose gradient is 0 towards the "
            "class of the third highest logit: use 'margin'. Received: targeted=True"
        )
    return objective


def check_epsilon(epsilon):
    """ε as a float; a ValueError unless it is a finite number ≥ 0."""
    if not (isinstance(epsilon, numbers.Real) and 0 <= epsilon < math.inf):
        raise ValueError(f"`epsilon` must be a finite number ≥ 0. Received: {epsilon!r}")
    return float(epsilon)


def check_epsilons(epsilons):
    """ε values as a tuple of floats; a ValueError unless there is one and all are ≥ 0."""
    if isinstance(epsilons, numbers.Real) or len(tuple(epsilons)) == 0:
        raise ValueError(f"`epsilons` must hold at least one value. Received: {epsilons!r}")
    return tuple(check_epsilon(epsilon) for epsilon in epsilons)


def check_route(through):
    """The route itself; a ValueError unless it is one of `objectives.ROUTES`."""
    if through not in objectives.ROUTES:
        raise ValueError(f"`through` must be one of {objectives.ROUTES}. Received: {through!r}")
    return through


def check_bounds(bounds):
    """(lowest, highest) as floats; a ValueError unless lowest < highest."""
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise ValueError(f"`bounds` must be (lowest, highest) pixel value. Received: {bounds!r}")
    return low, high


def check_batch_size(batch_size):
    """The batch size; a ValueError unless it is a positive integer."""
    return check_count("batch_size", batch_size)


def check_count(argument, value, lowest=1):
    """The value as an int; a ValueError unless it is an integer ≥ `lowest`."""
    if not (isinstance(value, numbers.Integral) and value >= lowest):
        kind = {0: "an integer ≥ 0", 1: "a positive integer"}[lowest]
        raise ValueError(f"`{argument}` must be {kind}. Received: {value!r}")
    return int(value)
