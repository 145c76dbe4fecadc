"""What a classifier gets right, clean and under attack."""

from dataclasses import dataclass

import numpy as np

from hr_keras._core.logits import check_backend, classifier_output, logits_of
from hr_keras.attacks import objectives as objectives_module
from hr_keras.attacks._attack import (
    Task,
    check_batch_size,
    check_bounds,
    check_epsilons,
    check_labels,
    check_route,
    compiled,
    in_batches,
    is_correct,
    prepare,
)
from hr_keras.attacks._perturbation import linf_direction, perturb
from hr_keras.attacks.fgsm import compute_gradients
from hr_keras.attacks.worst_case import check_attacks


@dataclass(frozen=True)
class Sweep:
    """FGSM over objectives × ε, example by example.

    Attributes:
        objectives: names of the objectives.
        epsilons: ε values, as asked for.
        through: route of the gradient, `"logits"` or `"probabilities"`.
        correct: bool `(objectives, epsilons, n)`: whether the attacked example is still
            classified correctly. A prediction that is not finite is not correct.
        zero_gradient: bool `(objectives, n)`: whether the gradient is exactly zero in
            every pixel, so that the attack returns its input.
    """

    objectives: tuple
    epsilons: tuple
    through: str
    correct: np.ndarray
    zero_gradient: np.ndarray

    @property
    def accuracy(self):
        """Accuracy for each (objective, ε), a dict."""
        return {
            (objective, epsilon): float(self.correct[i, j].mean())
            for i, objective in enumerate(self.objectives)
            for j, epsilon in enumerate(self.epsilons)
        }

    @property
    def zero_gradient_share(self):
        """Share of the examples whose gradient is exactly zero, for each objective, a dict."""
        shares = self.zero_gradient.mean(axis=1)
        return dict(zip(self.objectives, map(float, shares), strict=True))


def sweep(
    model,
    images,
    labels,
    objectives=("ce", "hr"),
    epsilons=(0.0, 0.1, 0.25),
    through="logits",
    bounds=(0.0, 1.0),
    batch_size=256,
    jit_compile=False,
):
    """Accuracy under FGSM for every objective and ε, and the share of zero gradients.

    Costs one forward pass, one backward pass for each objective and one forward pass for
    each (objective, ε > 0); the accuracy at ε = 0 comes from the first. Adversarial images
    never leave the compiled step, memory is that of one batch, and a second call with the
    same model, objectives and batch shape compiles nothing, whatever its ε.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` floating point, inside `bounds`.
        labels: class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`, of which
            the most probable class counts as the true one.
        objectives: `"ce"`, `"hr"`, Keras losses or callables; see `attacks.FGSM`.
        epsilons: ε values, each at least 0.
        through: `"logits"` (exact) or `"probabilities"` (as published).
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.
        jit_compile: compile the step with XLA.

    Returns:
        A `Sweep`.

    Raises:
        ValueError: if an argument is not as described.

    Example:
        >>> result = evaluation.sweep(model, x_test, y_test)
        >>> result.accuracy["ce", 0.1], result.zero_gradient_share["ce"]
    """
    check_backend()
    found = tuple(objectives_module.get(objective) for objective in _as_tuple(objectives))
    names = tuple(objective.name for objective in found)
    _check_distinct("objectives", names)
    values = check_epsilons(epsilons)
    _check_distinct("epsilons", values)
    bounds, through = check_bounds(bounds), check_route(through)
    images, labels = prepare(model, images, labels, bounds)
    step = compiled(
        model,
        ("sweep", found, through, bounds),
        lambda model: _build_sweep(model, found, through, bounds),
        jit_compile,
    )
    positive = [epsilon for epsilon in values if epsilon > 0]
    clean, attacked, zero = in_batches(
        step, images, labels, check_batch_size(batch_size), np.asarray(positive, "float64")
    )
    columns = iter(np.moveaxis(attacked.astype(bool), 0, -1))  # (ε > 0, objectives, n)
    unattacked = np.broadcast_to(clean, (len(found), len(clean)))
    correct = [next(columns) if epsilon > 0 else unattacked for epsilon in values]
    return Sweep(names, values, through, np.stack(correct, axis=1), zero.T.astype(bool))


@dataclass(frozen=True)
class RobustAccuracy:
    """What several attacks leave of a classifier, example by example.

    Attributes:
        correct: bool `(n,)`: whether the clean example is classified correctly.
        withstood: name of the attack → bool `(n,)`: correct, and still under this attack.
    """

    correct: np.ndarray
    withstood: dict

    @property
    def clean(self):
        """Accuracy without an attack."""
        return float(self.correct.mean())

    @property
    def per_attack(self):
        """Name of the attack → accuracy that it alone leaves, a dict."""
        return {name: float(still.mean()) for name, still in self.withstood.items()}

    @property
    def robust(self):
        """bool `(n,)`: whether the example withstood every attack."""
        return np.logical_and.reduce([self.correct, *self.withstood.values()])

    @property
    def worst_case(self):
        """Accuracy left by the worst attack for each example: at most that of any one attack."""
        return float(self.robust.mean())


def robust_accuracy(model, images, labels, attacks, batch_size=256):
    """Accuracy under each of several attacks, and under the worst of them for each example.

    Costs one forward pass, and for each attack what it costs for the examples that are
    classified correctly. Each is run on all of these, so that their accuracies can be
    compared; where only the worst case matters, one `attacks.WorstCase` of them is cheaper.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` floating point, inside the bounds of the attacks.
        labels: class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`, of which
            the most probable class counts as the true one.
        attacks: an attack or several, of different names and the same `bounds`, none targeted.
        batch_size: examples in one compiled step; it replaces that of the attacks.

    Returns:
        A `RobustAccuracy`: `.clean`, `.per_attack`, `.worst_case`, `.robust`.

    Raises:
        ValueError: if an argument is not as described.

    Example:
        >>> attacks = [PGD(0.1, "margin"), standard(0.1)]
        >>> result = evaluation.robust_accuracy(model, x_test, y_test, attacks)
        >>> result.clean, result.per_attack["pgd_margin_0.1"], result.worst_case
    """
    check_backend()
    attacks = check_attacks(attacks)
    _check_distinct("attacks", tuple(attack.name for attack in attacks))
    batch_size = check_batch_size(batch_size)
    task = Task.of(model, images, labels, attacks[0].bounds, batch_size).predict()
    correct = is_correct(task.logits, task.labels)
    rows = np.flatnonzero(correct)
    withstood = {attack.name: correct.copy() for attack in attacks}
    for attack in attacks if len(rows) else ():
        withstood[attack.name][rows] = ~attack.attempt(task.select(rows)).fooled
    return RobustAccuracy(correct, withstood)


def _build_sweep(model, objectives, through, bounds):
    import tensorflow as tf

    def step(images, labels, epsilons):
        logits, found = compute_gradients(model(), images, labels, objectives, through)
        found = tf.stack(found)
        zero = tf.reduce_all(found == 0, axis=range(2, found.ndim))
        zero = tf.transpose(tf.cast(zero, tf.int32))  # oneDNN complains of a boolean transpose

        steps = linf_direction(found)

        def attacked(cell):
            epsilon = tf.cast(epsilons[cell // len(objectives)], images.dtype)
            adversarial = perturb(images, steps[cell % len(objectives)], epsilon, bounds)
            return tf.cast(is_correct(logits_of(model(), adversarial), labels), tf.int32)

        cells = tf.range(tf.size(epsilons) * len(objectives))
        # One after the other: in parallel the cells would multiply the memory of a batch.
        results = tf.map_fn(attacked, cells, fn_output_signature=tf.int32, parallel_iterations=1)
        by_cell = tf.reshape(results, (-1, len(objectives), tf.shape(images)[0]))
        return is_correct(logits, labels), tf.transpose(by_cell, (2, 0, 1)), zero

    return step


def log_probabilities(model, images, batch_size=256):
    """A classifier's soft decisions, as exact as its logits: nothing is clipped or saturates.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` floating point.
        batch_size: examples in one compiled step.

    Returns:
        `(n, classes)` log-probabilities, a float64 array: the log-softmax of the logits.

    Raises:
        ValueError: for a model that is no classifier.

    Example:
        >>> predicted = evaluation.log_probabilities(model, x_test).argmax(axis=-1)
    """
    images = np.asarray(images)
    classifier_output(model, images)
    step = compiled(
        model, ("logits",), lambda model: lambda images, labels: (logits_of(model(), images),)
    )
    unused = np.zeros(len(images), "int32")
    (logits,) = in_batches(step, images, unused, check_batch_size(batch_size))
    return _log_softmax(logits.astype("float64"))


def _log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def confusion_matrix(model, images, labels, batch_size=256):
    """Semi-empirical confusion matrix: the mean soft decision on the images of each class.

    C[ŷ, y] = p(ŷ|y) = Σ_i p_i(y) q(ŷ|x_i) / Σ_i p_i(y)

    Rows are the classifier's decisions ŷ, columns the true classes y. "Semi-empirical": the
    images are a sample, the decision is the whole softmax and not its largest entry alone.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` floating point, adversarial or not.
        labels: class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`.
        batch_size: examples in one compiled step.

    Returns:
        A float64 array `(classes, classes)`. Each column sums to 1; that of a class without
        images is NaN.

    Raises:
        ValueError: if an argument is not as described.

    Source: "A novel loss to train DNNs", section 3.

    Example:
        >>> adversarial = FGSM(0.1)(model, x_test, y_test)
        >>> matrix = evaluation.confusion_matrix(model, adversarial, y_test)
        >>> np.linalg.norm(np.eye(10) - matrix)  # 0: always right, and certain of it
    """
    probabilities = np.exp(log_probabilities(model, images, batch_size))
    classes = probabilities.shape[-1]
    labels = check_labels(np.asarray(labels), len(probabilities), classes)
    weights = np.eye(classes)[labels] if labels.ndim == 1 else labels.astype("float64")
    with np.errstate(invalid="ignore"):
        return probabilities.T @ weights / weights.sum(axis=0)


def _as_tuple(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _check_distinct(argument, values):
    if not values or len(set(values)) < len(values):
        raise ValueError(
            f"`{argument}` must hold at least one value and none twice. Received: {values}"
        )
