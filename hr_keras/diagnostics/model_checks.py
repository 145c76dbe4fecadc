"""Checks of the model itself: what it returns, its decisions, its gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from hr_keras._core import information
from hr_keras._core.attack_view import join_inputs
from hr_keras._core.compiled import compiled, in_batches
from hr_keras._core.finding import Finding, Verdict
from hr_keras._core.logits import classifier_output, logits_of, probabilities_of
from hr_keras._core.passes import single_pass
from hr_keras._core.pixel_bounds import clip
from hr_keras.attacks import Task, objectives
from hr_keras.attacks._task import is_correct
from hr_keras.diagnostics.finding import (
    ATHALYE,
    AUTOATTACK,
    CARLINI,
    PINTOR,
    Bounds,
    find_chance_level,
    find_largest_difference,
    format_percent,
    judge,
    not_applicable,
    predict_logits,
)

# AutoAttack's code warns of a single zero gradient; some are zero in any ReLU network.
ZERO_GRADIENT_SHARE = 0.05
# Share of the range of the logits. Passes on one device differ by less than 1e-6 (AutoAttack's
# check allows 1e-4).
RANDOMIZED_DIFFERENCE = 1e-4
PASSES = 5
RETRACED_IMAGES = 8
# Share of the images that may get the same class when the labels differ.
ONE_CLASS_SHARE = 0.95
# Relative change that Pintor et al. call unstable (indicator 2).
ROUGHNESS = 0.1
ROUGH_DRAWS = 10


class GradientFlags(NamedTuple):
    """Marks the examples, bool `(n,)`, whose gradient of CE is zero or not finite."""

    zero: np.ndarray
    nonfinite: np.ndarray


# Place ("clean image" or "random start") → route of the gradient → flags.
Gradients = dict[str, dict[str, GradientFlags]]


def find_in_model(task: Task, radius: float, bounds: Bounds, seed: int) -> list[Finding]:
    """Returns the findings that need no attack.

    Args:
        task: A `Task` with logits.
        radius: Largest size of uniform noise in each pixel that stays inside the ball.
        bounds: Lowest and highest pixel value.
        seed: Seed of the noise.
    """
    logits = np.asarray(task.logits)
    passes = [logits, *(predict_logits(task, task.images) for _ in range(PASSES - 1))]
    retraced = [_retrace(task.select(slice(RETRACED_IMAGES))) for _ in range(2)]
    noisy = _add_noise(task.images, radius, bounds, np.random.default_rng(seed))
    gradients = {
        "clean image": _find_gradients(task),
        "random start": _find_gradients(task.replace(images=noisy)),
    }
    return [
        probabilities_output(task),
        collapsed(task.labels, logits),
        randomized_forward(np.stack(passes), np.stack(retraced), single_pass(task.model)[1]),
        no_gradient(gradients),
        zero_gradients(gradients),
        nonfinite_gradients(gradients),
        rough_loss(task, radius / 10, bounds, np.random.default_rng(seed)),
    ]


def probabilities_output(task: Task) -> Finding:
    """Checks whether the model hides its logits or rounds probabilities to 16 bits."""
    model, _ = single_pass(task.model)
    kind = classifier_output(model).kind
    outputs = model(task.select(slice(1)).inputs, training=False)
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    rounded = kind != "logits" and dtype in ("float16", "bfloat16")
    if kind == "probabilities":
        meaning = (
            "The model returns probabilities, and its logits are not known. Attacks here use the "
            "logarithms, whose gradient vanishes where probabilities round to 0 or 1."
        )
    elif rounded:
        probabilities = ops.cast(ops.softmax(task.logits), dtype)
        certain = np.asarray(ops.max(probabilities, axis=-1) == 1).mean()
        meaning = (
            f"The model returns a {kind} in {dtype}, which rounds the largest probability to 1 on "
            f"{format_percent(certain)} of the images. Attacks here use the logits behind "
            "it; an attack through the probabilities sees the rounded values."
        )
    elif kind in ("softmax", "sigmoid"):
        meaning = (
            f"The model returns a {kind}. Attacks here use the logits behind it; an attack "
            "through the probabilities may find no gradient."
        )
    else:
        meaning = "The model returns logits, which attacks use directly."
    hidden = kind == "probabilities" or rounded
    return judge("probabilities_output", hidden, 0.0, meaning, CARLINI, "warning")


def collapsed(labels: np.ndarray, logits: np.ndarray) -> Finding:
    """Checks whether the model is better than chance and predicts more than one class."""
    labels = np.asarray(objectives.hard_labels(labels))
    n, classes = logits.shape
    accuracy = is_correct(logits, labels).mean()
    predicted = np.bincount(logits.argmax(axis=1), minlength=classes).max() / n
    largest = np.bincount(labels, minlength=classes).max() / n
    if predicted > max(ONE_CLASS_SHARE, largest) and accuracy <= largest:
        meaning = (
            f"The model predicts one class for {format_percent(predicted)} of the images, so there "
            "is nothing to fool."
        )
        return judge("collapsed", predicted, max(ONE_CLASS_SHARE, largest), meaning, CARLINI)
    chance = find_chance_level(classes, n)
    if chance >= 1:
        meaning = f"With {n} images, guessing may be right every time."
        return not_applicable("collapsed", meaning, CARLINI)
    meaning = (
        f"Clean accuracy is {format_percent(accuracy)}; guessing reaches at most "
        f"{format_percent(chance)} on {n} images."
    )
    verdict: Verdict = "ok" if accuracy > chance else "fault"
    return Finding("collapsed", float(accuracy), chance, verdict, meaning, CARLINI)


def _retrace(task: Task) -> np.ndarray:
    """Logits from code compiled for this call alone: eager passes know only Keras' softmax."""
    import tensorflow as tf

    inputs = tf.nest.map_structure(tf.convert_to_tensor, task.inputs)
    return np.asarray(tf.function(lambda x: logits_of(task.model, x))(inputs))


def randomized_forward(passes: np.ndarray, retraced: np.ndarray, eot: int = 1) -> Finding:
    """Checks whether the same images give the same logits.

    Args:
        passes: Logits of passes of code compiled once, `(passes, n, classes)`.
        retraced: Logits of a few images, each time of code compiled anew. They differ where
            Python draws random numbers, which compiled code draws only once.
        eot: Passes that attacks average a gradient over.
    """
    measured, in_new = find_largest_difference(passes), find_largest_difference(retraced)
    frozen = in_new > max(measured, RANDOMIZED_DIFFERENCE)
    if frozen:
        passes, measured = retraced, in_new
    decisions = passes.argmax(axis=-1)
    changed = (decisions != decisions[0]).any(axis=0).mean()
    meaning = (
        f"In {len(passes)} passes over the same images, logits differ by up to "
        f"{format_percent(measured)} of their range and decisions on {format_percent(changed)} of "
        "the images"
    )
    if frozen:
        meaning += (
            ". Each pass was compiled anew. Compiled code, and so every attack, keeps a single "
            "draw of that randomness: attacks say nothing about the robustness of this model."
        )
    elif measured > RANDOMIZED_DIFFERENCE and eot > 1:
        meaning += f". Each, and each gradient, is a mean over {eot} passes: try a larger `eot`."
    elif measured > RANDOMIZED_DIFFERENCE:
        meaning += ". An attack must average over this randomness; a single pass is not enough."
    else:
        meaning += "."
    above: Verdict = "warning" if eot > 1 and not frozen else "fault"
    return judge("randomized_forward", measured, RANDOMIZED_DIFFERENCE, meaning, AUTOATTACK, above)


def no_gradient(gradients: Gradients) -> Finding:
    """Checks whether the gradient of the logits is zero for every image in every place."""
    share = float(min(flags["logits"].zero.mean() for flags in gradients.values()))
    if share == 1:
        meaning = (
            "No image has a gradient, not even through the logits. The model contains a step or a "
            "rounding, and gradient attacks only guess."
        )
    else:
        meaning = f"{format_percent(1 - share)} of the images have a gradient through the logits."
    return Finding("no_gradient", share, 1.0, "fault" if share == 1 else "ok", meaning, ATHALYE)


def zero_gradients(gradients: Gradients) -> Finding:
    """Checks how many images have a gradient of exactly zero, in the worst place.

    Zero gradients through the logits are a fault. Through the probabilities alone they are a
    warning, because attacks here use the logits.
    """
    shares = _largest_shares(gradients, "zero")
    detail = "; ".join(
        f"through {route}: "
        + ", ".join(
            f"{format_percent(flags[route].zero.mean())} at the {place}"
            for place, flags in gradients.items()
        )
        for route in objectives.ROUTES
    )
    if shares["logits"] > ZERO_GRADIENT_SHARE:
        route = "logits"
        meaning = (
            f"{format_percent(shares[route])} of the examples have an exactly zero gradient, even "
            f"through the logits: no gradient attack measures robustness here ({detail})."
        )
    elif shares["probabilities"] > ZERO_GRADIENT_SHARE:
        route = "probabilities"
        meaning = (
            f"{format_percent(shares[route])} of the examples have an exactly zero gradient "
            "through the model's softmax: accuracy under an FGSM that uses it is not robustness. "
            f"Attacks through the logits are not affected ({detail})."
        )
    else:
        route, meaning = "probabilities", f"Exactly zero gradients {detail}."
    above: Verdict = "fault" if route == "logits" else "warning"
    return judge("zero_gradients", shares[route], ZERO_GRADIENT_SHARE, meaning, AUTOATTACK, above)


def nonfinite_gradients(gradients: Gradients) -> Finding:
    """Checks how many images have an infinite or NaN gradient: through the logits a fault."""
    shares = _largest_shares(gradients, "nonfinite")
    found = " and ".join(f"{format_percent(shares[route])} through {route}" for route in shares)
    meaning = f"Gradients with an infinite value or NaN: {found}."
    above: Verdict = "fault" if shares["logits"] > 0 else "warning"
    return judge("nonfinite_gradients", max(shares.values()), 0.0, meaning, CARLINI, above)


def _largest_shares(gradients: Gradients, flag: str) -> dict[str, float]:
    """Route → share of the examples with this flag, in the place where it is largest."""
    return {
        route: max(getattr(flags[route], flag).mean() for flags in gradients.values())
        for route in objectives.ROUTES
    }


def rough_loss(
    task: Task, radius: float, bounds: Bounds, generator: np.random.Generator
) -> Finding:
    """Checks Σ|m(x + noise) − m(x)| / Σ|m(x)|, m the margin, under small uniform noise.

    Args:
        task: A `Task` with logits.
        radius: Size of the noise in each pixel.
        bounds: Lowest and highest pixel value.
        generator: Generator of the noise.
    """
    margin = np.asarray(objectives.margin(task.labels, task.logits), "float64")
    if not (np.isfinite(margin).all() and np.abs(margin).any()):
        meaning = "The logits are not finite, or all the same."
        return not_applicable("rough_loss", meaning, PINTOR)
    changes = []
    for _ in range(ROUGH_DRAWS):
        noisy = _add_noise(task.images, radius, bounds, generator)
        logits = predict_logits(task, noisy)
        changes.append(np.abs(np.asarray(objectives.margin(task.labels, logits)) - margin))
    measured = np.nan_to_num(np.mean(changes) / np.abs(margin).mean(), nan=1e9, posinf=1e9)
    meaning = (
        f"Noise of ±{radius:.2g} in each pixel changes the margin by {format_percent(measured)} of "
        "its size"
    )
    meaning += ": gradients do not predict the loss." if measured > ROUGHNESS else "."
    return judge("rough_loss", measured, ROUGHNESS, meaning, PINTOR, above="warning")


def _add_noise(
    images: np.ndarray, radius: float, bounds: Bounds, generator: np.random.Generator
) -> np.ndarray:
    noise = generator.uniform(-radius, radius, images.shape)
    return clip(images + noise.astype(images.dtype), bounds)


def _find_gradients(task: Task) -> dict[str, GradientFlags]:
    step = compiled(task.model, ("diagnostics",), _build_gradients)
    found = in_batches(step, task.images, task.labels, task.batch_size, per_example=task.others)
    flags = [part.astype(bool) for part in found]
    pairs = map(GradientFlags, flags[::2], flags[1::2])
    return dict(zip(objectives.ROUTES, pairs, strict=True))


def _build_gradients(model_ref: Callable[[], keras.Model]) -> Callable[..., Any]:
    import tensorflow as tf

    def step(images: Any, labels: Any, *others: Any) -> Any:
        model, ce = model_ref(), objectives.get("ce")
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            inputs = join_inputs(model, images, others)
            values = {
                "logits": ce.through("logits", labels, logits_of(model, inputs)),
                "probabilities": _published_ce(model, inputs, labels),
            }
        results = []
        for route in objectives.ROUTES:
            gradient = tape.gradient(values[route], images, unconnected_gradients="zero")
            pixels = tf.reshape(gradient, (tf.shape(images)[0], -1))
            results.append(tf.reduce_all(pixels == 0, axis=1))
            results.append(~tf.reduce_all(tf.math.is_finite(pixels), axis=1))
        return tuple(tf.cast(result, tf.int32) for result in results)

    return step


def _published_ce(model: keras.Model, images: Any, labels: Any) -> Any:
    """CE of the probabilities that the model returns, in the model's precision, clipped."""
    outputs = probabilities_of(model, images)
    log_probabilities = information.log_probabilities(ops.cast(outputs, "float32"))
    return information.cross_entropy(labels, log_probabilities)
