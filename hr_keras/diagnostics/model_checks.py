"""Checks that look at the model: what it returns, its decisions, its gradients."""

import keras
import numpy as np
from keras import ops

from hr_keras._core import information
from hr_keras._core.logits import classifier_output, logits_of
from hr_keras.attacks import objectives
from hr_keras.attacks._attack import is_correct
from hr_keras.attacks._batches import compiled, in_batches
from hr_keras.diagnostics.finding import (
    ATHALYE,
    AUTOATTACK,
    CARLINI,
    FAULT,
    OK,
    PINTOR,
    WARNING,
    Finding,
    judged,
    not_applicable,
    percent,
)

# AutoAttack's code warns of a single zero gradient; some are zero in any ReLU network.
ZERO_GRADIENT_SHARE = 0.05
# Of the range of the logits. Passes on one device differ by less than 1e-6 (AutoAttack's
# check allows 1e-4).
RANDOMIZED_DIFFERENCE = 1e-4
PASSES = 5
EAGER_IMAGES = 8
# Share of the images that get one and the same class, where labels do not.
ONE_CLASS_SHARE = 0.95
# Relative change that Pintor et al. call unstable (indicator 2).
ROUGHNESS = 0.1
ROUGH_DRAWS = 10


def model_findings(task, radius, bounds, seed):
    """The findings that need no attack, for a `Task` with logits; see `diagnostics.check`.

    Args:
        radius: of uniform noise that just fits into the ball, in each pixel.
    """
    again = (task.replace(logits=None).predict().logits for _ in range(PASSES - 1))
    passes = np.stack([task.logits, *again])
    few = task.images[:EAGER_IMAGES]
    eager = np.stack([np.asarray(logits_of(task.model, few), "float32") for _ in range(2)])
    noisy = _noisy(task, radius, bounds, np.random.default_rng(seed))
    at = {"clean image": task.images, "random start": noisy}
    seen = {point: _gradients(task.replace(images=images)) for point, images in at.items()}
    return [
        probabilities_output(task),
        collapsed(task.labels, passes[0]),
        randomized_forward(passes, eager),
        no_gradient(seen),
        zero_gradients(seen),
        nonfinite_gradients(seen),
        rough_loss(task, passes[0], radius / 10, bounds, np.random.default_rng(seed)),
    ]


def probabilities_output(task):
    """Whether the model hides its logits, or rounds probabilities to 16 bits."""
    kind = classifier_output(task.model).kind
    outputs = task.model(task.images[:1], training=False)
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    rounded = kind != "logits" and dtype in ("float16", "bfloat16")
    if kind == "probabilities":
        meaning = (
            "The model returns probabilities whose logits are not known. Attacks work on their "
            "logarithms, whose gradient vanishes where they round to 0 or 1."
        )
    elif rounded:
        certain = _certain(task.logits, dtype).mean()
        meaning = (
            f"The model returns a softmax in {dtype}, in which the largest probability is exactly "
            f"1 on {percent(certain)} of the images. Attacks here work on the logits behind it; "
            "one that takes the probabilities sees them rounded."
        )
    elif kind == "softmax":
        meaning = (
            "The model returns a softmax. Attacks here work on the logits behind it; one that "
            "takes the probabilities may find no gradient."
        )
    else:
        meaning = "The model returns logits, and attacks work on them."
    hidden = float(kind == "probabilities" or rounded)
    return judged("probabilities_output", hidden, 0.0, meaning, CARLINI, beyond=WARNING)


def _certain(logits, dtype):
    """bool `(n,)`: whether the largest probability rounds to 1."""
    return np.asarray(ops.max(ops.cast(ops.softmax(logits), dtype), axis=-1) == 1)


def collapsed(labels, logits):
    """Whether the classifier classifies: better than chance, and not into one class."""
    labels = np.asarray(objectives.hard_labels(labels))
    classes = logits.shape[1]
    accuracy = is_correct(logits, labels).mean()
    said = np.bincount(logits.argmax(axis=1), minlength=classes).max() / len(labels)
    largest = np.bincount(labels, minlength=classes).max() / len(labels)
    if said > max(ONE_CLASS_SHARE, largest) and accuracy <= largest:
        meaning = f"{percent(said)} of the images are put into one class: there is nothing to fool."
        return judged("collapsed", said, max(ONE_CLASS_SHARE, largest), meaning, CARLINI)
    chance = chance_level(classes, len(labels))
    if chance >= 1:
        meaning = f"On {len(labels)} images a guess may be right every time."
        return not_applicable("collapsed", meaning, CARLINI)
    meaning = (
        f"Without an attack {percent(accuracy)} are classified correctly; chance gives at most "
        f"{percent(chance)} on so many images."
    )
    verdict = OK if accuracy > chance else FAULT
    return Finding("collapsed", float(accuracy), chance, verdict, meaning, CARLINI)


def chance_level(classes, n):
    """What guessing reaches on n examples: 1/classes and three standard errors."""
    return 1 / classes + 3 * (1 / classes * (1 - 1 / classes) / n) ** 0.5


def randomized_forward(passes, eager):
    """Whether the same images give the same logits.

    Args:
        passes: logits `(passes, n, classes)`, of compiled code.
        eager: the same of a few images, with the layers called from Python every time: of what
            Python draws, compiled code has one draw for ever.
    """
    measured, of_eager = _difference(passes), _difference(eager)
    frozen = of_eager > max(measured, RANDOMIZED_DIFFERENCE)
    if frozen:
        passes, measured = eager, of_eager
    decisions = passes.argmax(axis=-1)
    changed = (decisions != decisions[0]).any(axis=0).mean()
    meaning = (
        f"In {len(passes)} passes over the same images logits differ by up to "
        f"{percent(measured)} of their range, decisions on {percent(changed)} of the images"
    )
    if frozen:
        meaning += (
            ", where the layers are called from Python. Compiled code, and attacks, keep a single "
            "draw of that randomness: they are no evidence of the model's robustness."
        )
    elif measured > RANDOMIZED_DIFFERENCE:
        meaning += ": an attack must average over the randomness, and a single pass is no evidence."
    else:
        meaning += "."
    return judged("randomized_forward", measured, RANDOMIZED_DIFFERENCE, meaning, AUTOATTACK)


def _difference(passes):
    """The largest difference of a logit between passes, as a share of the logits' range."""
    passes = np.nan_to_num(passes.astype("float64"))
    spread = np.ptp(passes[0], axis=-1).mean()
    return np.ptp(passes, axis=0).max() / max(spread, 1e-12)


def no_gradient(seen):
    """Whether the gradient of the logits is zero for every image at every point."""
    share = min(gradients["logits"][0].mean() for gradients in seen.values())
    meaning = (
        "No image has a gradient, not even through the logits: there is a step or a rounding in "
        "the model, and gradient attacks only guess."
        if share == 1
        else f"{percent(1 - share)} of the images have a gradient through the logits."
    )
    return Finding("no_gradient", float(share), 1.0, FAULT if share == 1 else OK, meaning, ATHALYE)


def zero_gradients(seen):
    """Share of the images whose gradient is exactly zero; the larger of all points.

    Through the logits it is a fault; through probabilities alone a warning, as attacks here
    do not take them.
    """
    shares = {
        route: max(gradients[route][0].mean() for gradients in seen.values())
        for route in objectives.ROUTES
    }
    by_point = "; ".join(
        f"through {route}: "
        + ", ".join(f"{percent(of[route][0].mean())} at the {at}" for at, of in seen.items())
        for route in objectives.ROUTES
    )
    if shares["logits"] > ZERO_GRADIENT_SHARE:
        meaning = (
            f"{percent(shares['logits'])} of the examples have an exactly zero gradient, even "
            f"through the logits: no gradient attack measures robustness here ({by_point})."
        )
        return judged("zero_gradients", shares["logits"], ZERO_GRADIENT_SHARE, meaning, AUTOATTACK)
    measured = shares["probabilities"]
    meaning = f"Exactly zero gradients {by_point}."
    if measured > ZERO_GRADIENT_SHARE:
        meaning = (
            f"{percent(measured)} of the examples have an exactly zero gradient through the "
            "model's softmax: an FGSM number got that way is not robustness. Attacks through "
            f"the logits are not stopped by it ({by_point})."
        )
    threshold = ZERO_GRADIENT_SHARE
    return judged("zero_gradients", measured, threshold, meaning, AUTOATTACK, beyond=WARNING)


def nonfinite_gradients(seen):
    """Share of the images with an infinite gradient or NaN: a fault through logits."""
    shares = {
        route: max(gradients[route][1].mean() for gradients in seen.values())
        for route in objectives.ROUTES
    }
    meaning = " and ".join(f"{percent(shares[route])} through {route}" for route in shares)
    meaning = f"Gradients with an infinite value or NaN: {meaning}."
    beyond = FAULT if shares["logits"] > 0 else WARNING
    return judged("nonfinite_gradients", max(shares.values()), 0.0, meaning, CARLINI, beyond)


def rough_loss(task, logits, radius, bounds, generator):
    """Σ|m(x + noise) − m(x)| / Σ|m(x)|, m the margin, over uniform noise of a small radius."""
    margin = np.asarray(objectives.margin(task.labels, logits), "float64")
    if not (np.isfinite(margin).all() and np.abs(margin).any()):
        return not_applicable("rough_loss", "The logits are not finite, or all the same.", PINTOR)
    changes = []
    for _ in range(ROUGH_DRAWS):
        noisy = _noisy(task, radius, bounds, generator)
        found = task.replace(images=noisy, logits=None).predict().logits
        changes.append(np.abs(np.asarray(objectives.margin(task.labels, found)) - margin))
    measured = np.nan_to_num(np.mean(changes) / np.abs(margin).mean(), nan=1e9, posinf=1e9)
    meaning = (
        f"Noise of ±{radius:.2g} a pixel changes the margin by {percent(measured)} of its size"
        + (": gradients do not say where the loss goes." if measured > ROUGHNESS else ".")
    )
    return judged("rough_loss", measured, ROUGHNESS, meaning, PINTOR, beyond=WARNING)


def _noisy(task, radius, bounds, generator):
    noise = generator.uniform(-radius, radius, task.images.shape)
    return np.clip(task.images + noise.astype(task.images.dtype), *bounds)


def _gradients(task):
    """For each route whether a gradient of CE is exactly zero, and not finite: bool `(n,)`."""
    step = compiled(task.model, ("diagnostics",), _build_gradients)
    found = in_batches(step, task.images, task.labels, task.batch_size)
    found = [part.astype(bool) for part in found]
    return dict(zip(objectives.ROUTES, zip(found[::2], found[1::2], strict=True), strict=True))


def _build_gradients(model):
    import tensorflow as tf

    def step(images, labels):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            values = {
                "logits": objectives.get("ce").through(
                    "logits", labels, logits_of(model(), images)
                ),
                "probabilities": _published_ce(model(), images, labels),
            }
        results = []
        for route in objectives.ROUTES:
            gradient = tape.gradient(values[route], images, unconnected_gradients="zero")
            pixels = tf.reshape(gradient, (tf.shape(images)[0], -1))
            results.append(tf.reduce_all(pixels == 0, axis=1))
            results.append(~tf.reduce_all(tf.math.is_finite(pixels), axis=1))
        return tuple(tf.cast(result, tf.int32) for result in results)

    return step


def _published_ce(model, images, labels):
    """CE of the probabilities that the model itself returns, in its own precision, clipped."""
    outputs = model(images, training=False)
    if classifier_output(model).kind == "logits":
        outputs = ops.softmax(outputs)
    return information.cross_entropy(
        labels, information.log_probabilities(ops.cast(outputs, "float32"))
    )
