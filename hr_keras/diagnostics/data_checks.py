"""Checks of what the model makes of the data: outputs, pixel range, batch-mates, labels."""

import numpy as np

from hr_keras._core.finding import Finding, Verdict
from hr_keras._core.pixel_bounds import format_bounds, scale_to_unit, widest
from hr_keras.attacks import Task, objectives
from hr_keras.attacks._task import is_correct
from hr_keras.diagnostics.finding import (
    AUTOATTACK,
    CARLINI,
    Bounds,
    find_largest_difference,
    format_percent,
    judge,
    not_applicable,
    predict_logits,
)
from hr_keras.diagnostics.model_checks import RANDOMIZED_DIFFERENCE

# Ranges of pixels that models are trained on.
RANGES: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
# The least gain of clean accuracy in another range that counts; more where images are few.
RANGE_GAIN = 0.1
# Share of the range of the logits: another batch size changes the rounding, in 16 bits a lot.
BATCH_DIFFERENCE = 0.02
BATCH_IMAGES = 32
BATCH_SIZES = (1, 7)
# With half the pixel range in every pixel any image can be made grey, with all of it another.
LARGEST_EPSILON = 0.5
# A calibrated model that expects 5 errors makes none with a probability below e⁻⁵ = 0.7 %.
EXPECTED_ERRORS = 5.0


def find_in_data(task: Task, radius: float, bounds: Bounds, seed: int) -> list[Finding]:
    """Returns the findings on a model and these images and labels.

    Args:
        task: A `Task` with logits.
        radius: Largest change of every pixel that stays inside the ball.
        bounds: Lowest and highest pixel value.
        seed: Seed of the batches that images are put in.
    """
    return [
        nonfinite_outputs(np.asarray(task.logits)),
        pixel_range(task, bounds),
        epsilon_size(radius, bounds),
        batch_dependent(task, seed),
        labels_from_model(task.labels, np.asarray(task.logits)),
    ]


def nonfinite_outputs(logits: np.ndarray) -> Finding:
    """Checks whether the model returns an infinite value or NaN."""
    share = float((~np.isfinite(logits).all(axis=1)).mean())
    meaning = (
        f"The model returns an infinite value or NaN for {format_percent(share)} of the images"
    )
    meaning += ", which count as classified wrongly." if share else "."
    return judge("nonfinite_outputs", share, 0.0, meaning, CARLINI)


def pixel_range(task: Task, bounds: Bounds) -> Finding:
    """Checks whether the model is much better on the same images in another usual range."""
    unit = scale_to_unit(task.images, bounds)
    accuracy = {
        (a, b): _find_accuracy(task, (a + (b - a) * unit).astype(task.images.dtype))
        for a, b in RANGES
        if (a, b) != bounds
    }
    clean = float(is_correct(task.logits, task.labels).mean())
    best = max(accuracy, key=lambda pixels: accuracy[pixels])
    threshold = max(RANGE_GAIN, 1.5 / len(unit) ** 0.5)
    meaning = (
        f"Clean accuracy is {format_percent(clean)} with pixels from {format_bounds(bounds)}, and "
        f"{format_percent(accuracy[best])} with the same images from {best[0]:g} to {best[1]:g}"
    )
    if accuracy[best] - clean > threshold:
        meaning += (
            ": the model was made for these. Give images, bounds and ε in that range "
            f"(`--bounds {best[0]:g} {best[1]:g}`)"
        )
    return judge("pixel_range", accuracy[best] - clean, threshold, f"{meaning}.", CARLINI)


def _find_accuracy(task: Task, images: np.ndarray) -> float:
    return float(is_correct(predict_logits(task, images), task.labels).mean())


def epsilon_size(radius: float, bounds: Bounds) -> Finding:
    """Checks ε against the pixel range: a large one makes every image grey, or another image."""
    share = radius / widest(bounds)
    meaning = f"ε can change every pixel by {format_percent(share)} of the pixel range"
    if share >= 1:
        meaning += ": any image can be turned into any other, and no classifier is robust"
    elif share > LARGEST_EPSILON:
        meaning += ": any image can be made grey, and no classifier is robust"
    above: Verdict = "fault" if share >= 1 else "warning"
    return judge("epsilon_size", share, LARGEST_EPSILON, f"{meaning}.", CARLINI, above)


def batch_dependent(task: Task, seed: int) -> Finding:
    """Checks whether a decision depends on the images in the same batch."""
    first = task.select(np.arange(min(len(task.images), BATCH_IMAGES)))
    together = np.asarray(first.logits)
    again = predict_logits(task, task.images)[: len(together)]
    if find_largest_difference(np.stack([together, again])) > RANDOMIZED_DIFFERENCE:
        meaning = "Passes over the same batch differ, see `randomized_forward`."
        return not_applicable("batch_dependent", meaning, AUTOATTACK)
    order = np.random.default_rng(seed).permutation(len(together))
    logits = {len(task.images): together}
    for size in BATCH_SIZES:
        mixed = first.select(order).replace(batch_size=size, logits=None).find_logits()
        logits[size] = mixed[np.argsort(order)]
    measured = find_largest_difference(np.stack(list(logits.values())))
    shares = ", ".join(
        f"{format_percent(is_correct(logits[size], first.labels).mean())} in batches of {size}"
        for size in sorted(logits)
    )
    meaning = f"Clean accuracy on {len(together)} images is {shares}"
    if measured > BATCH_DIFFERENCE:
        meaning += (
            ". The decision on an image depends on the other images in its batch, as with "
            "BatchNormalization in training mode: an attack's result holds only in its own batch"
        )
    return judge("batch_dependent", measured, BATCH_DIFFERENCE, f"{meaning}.", AUTOATTACK)


def labels_from_model(labels: np.ndarray, logits: np.ndarray) -> Finding:
    """Checks whether labels look like the model's own decisions: no error, little certainty."""
    correct = is_correct(logits, np.asarray(objectives.hard_labels(labels)))
    expected = 0.0
    meaning = f"The model is right on {format_percent(correct.mean())} of {len(labels)} images"
    if correct.all():
        exponents = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
        expected = float((1 - 1 / exponents.sum(axis=1)).sum())
        meaning += f"; its own probabilities promise {expected:.2g} errors"
    if expected > EXPECTED_ERRORS:
        meaning += (
            ". The labels may be the model's own decisions: use the true ones, or attacks start "
            "from images that are wrong already and accuracy is too high"
        )
    return judge("labels_from_model", expected, EXPECTED_ERRORS, f"{meaning}.", CARLINI, "warning")
