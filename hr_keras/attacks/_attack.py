"""What all attacks share: a value that is called, and the task that it works on."""

import abc
import dataclasses
import math
import numbers
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from hr_keras._core.checks import check_choice, check_count
from hr_keras._core.logits import check_backend, classifier_output, logits_of, structure
from hr_keras.attacks import objectives

_COMPILED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Attack(abc.ABC):
    """Base of the attacks: an attack is a value; calling it makes adversarial images.

    Args:
        name: what it is called in logs and tables.
        bounds: `(lowest, highest)` pixel value.
        targeted: whether labels are the classes to be *reached*; the objective is then
            minimised.
        batch_size: examples in one compiled step.
        jit_compile: compile the step with XLA. On a CPU that was about half as fast.
    """

    def __init__(self, name, bounds=(0.0, 1.0), targeted=False, batch_size=256, jit_compile=False):
        check_backend()
        if not (isinstance(name, str) and name):
            raise ValueError(f"`name` must be a string that is not empty. Received: {name!r}")
        self.name = name
        self.bounds = check_bounds(bounds)
        self.targeted = bool(targeted)
        self.batch_size = check_batch_size(batch_size)
        self.jit_compile = bool(jit_compile)

    def __call__(self, model, images, labels):
        """Adversarial images: the same type, shape and dtype as `images`.

        Args:
            model: a Keras classifier; where it ends in a softmax, the attack sees its logits.
            images: `(n, ...)` floating point, inside `bounds`; NumPy or tensor.
            labels: class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`; the
                true labels, or with `targeted=True` the classes to be reached.

        Raises:
            ValueError: if images or labels are not as described.
        """
        task = Task.of(model, images, labels, self.bounds, self.batch_size)
        return like(images, self._perturb(task).images)

    def attempt(self, task):
        """An `Outcome` whose `fooled` is known, for one more forward pass where it is not."""
        outcome = self._perturb(task)
        if outcome.fooled is not None:
            return outcome
        logits = task.replace(images=outcome.images, logits=None).predict().logits
        return outcome._replace(fooled=self.is_fooled(logits, task.labels))

    def is_fooled(self, logits, labels):
        """bool `(n,)`: not classified as the label; with `targeted=True`, classified as it."""
        correct = is_correct(logits, labels)
        return correct if self.targeted else ~correct

    @abc.abstractmethod
    def _perturb(self, task):
        """An `Outcome`; what it says of an example depends on nothing else in the task."""


class Outcome(NamedTuple):
    """What an attack made of a task.

    Attributes:
        images: `(n, ...)`.
        fooled: bool `(n,)`: whether the model was seen to be fooled; `None` where the
            attack did not look.
    """

    images: np.ndarray
    fooled: np.ndarray | None


@dataclass(frozen=True)
class Task:
    """What an attack works on; images and labels are checked.

    Attributes:
        model: a Keras classifier.
        images: `(n, ...)`, NumPy.
        labels: int32 `(n,)` or float32 `(n, classes)`.
        indices: `(n,)`: which examples these are. Random numbers depend on it, so that an
            example gets the same ones alone and among others.
        batch_size: examples in one compiled step.
        logits: `(n, classes)` of the images, or `None` where no forward pass was made.
    """

    model: keras.Model
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    batch_size: int
    logits: np.ndarray | None = None

    @classmethod
    def of(cls, model, images, labels, bounds, batch_size):
        """A task of all examples, checked by `prepare`."""
        images, labels = prepare(model, images, labels, bounds)
        return cls(model, images, labels, np.arange(len(images)), batch_size)

    def replace(self, **changes):
        """The task with other attributes."""
        return dataclasses.replace(self, **changes)

    def select(self, rows):
        """The task of some examples only."""
        logits = None if self.logits is None else self.logits[rows]
        return self.replace(
            images=self.images[rows],
            labels=self.labels[rows],
            indices=self.indices[rows],
            logits=logits,
        )

    def predict(self):
        """The task with its logits: one forward pass where they are not known."""
        if self.logits is not None:
            return self
        step = compiled(self.model, "predict", _build_predict)
        (logits,) = in_batches(step, self.images, self.labels, self.batch_size, any_size=True)
        return self.replace(logits=logits)


def _build_predict(model):
    return lambda images, labels: (logits_of(model(), images),)


def is_correct(logits, labels):
    """bool `(n,)`: the largest logit is the label's, and no logit is infinite or NaN.

    Args:
        logits: `(n, classes)`, tensor or NumPy; the result is of the same kind.
        labels: `(n,)`, or `(n, classes)`, of which the most probable class counts.
    """
    kind = np if isinstance(logits, np.ndarray) else ops
    if len(labels.shape) == 2:
        labels = kind.argmax(labels, axis=-1)
    finite = kind.all(kind.isfinite(logits), axis=-1)
    return (kind.argmax(logits, axis=-1) == labels) & finite


def compiled(model, key, build, jit_compile=False):
    """`tf.function(build(model))`, made once for each model and key, and freed with the model.

    Args:
        model: the model that the code calls; it must not be kept alive by the function
            that `build` returns, which therefore gets a weak reference to it.
        key: hashable; what else the code depends on, apart from its tensor arguments.
        build: `weak reference to the model -> function on tensors`.
        jit_compile: compile with XLA.
    """
    import tensorflow as tf

    key = (key, jit_compile, structure(model))
    functions = _COMPILED.setdefault(model, {})
    if key not in functions:
        functions[key] = tf.function(build(weakref.ref(model)), jit_compile=jit_compile)
    return functions[key]


def in_batches(step, images, labels, batch_size, *arguments, any_size=False):
    """`step(images, labels, *arguments)` over batches of one shape, results joined.

    The batches are the fewest that `batch_size` allows, of equal size; the last is filled
    up with copies of its last example, whose results are dropped.

    Args:
        step: `tf.function` returning a tuple of tensors with the examples on axis 0.
        images, labels: NumPy arrays of the same length.
        batch_size: the most examples in one step.
        arguments: NumPy arrays, the same for every batch; code is compiled for their
            rank, not their shape.
        any_size: compile once for batches of any size, rather than for this one: for
            numbers of examples that change from call to call.

    Returns:
        A list of NumPy arrays, one for each result of `step`.
    """
    import tensorflow as tf

    n = len(images)
    size = even_size(n, batch_size)
    rows = None if any_size else size
    step = step.get_concrete_function(
        *(tf.TensorSpec((rows, *array.shape[1:]), array.dtype) for array in (images, labels)),
        *(tf.TensorSpec((None,) * argument.ndim, argument.dtype) for argument in arguments),
    )
    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    results = []
    for start in range(0, n, size):
        batch = slice(start, start + size)
        padded = (_fill(array[batch], size) for array in (images, labels))
        results.append([result.numpy() for result in step(*padded, *arguments)])
    return [np.concatenate(parts)[:n] for parts in zip(*results, strict=True)]


def even_size(n, batch_size):
    """Size of the fewest batches of equal size that hold n examples."""
    return math.ceil(n / math.ceil(n / batch_size))


def _fill(array, size):
    import tensorflow as tf

    missing = size - len(array)
    if missing:
        array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return tf.convert_to_tensor(array)


def like(images, result):
    """`result` as a tensor where `images` is one."""
    import tensorflow as tf

    return tf.convert_to_tensor(result) if tf.is_tensor(images) else result


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
    return check_choice("through", through, objectives.ROUTES)


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
