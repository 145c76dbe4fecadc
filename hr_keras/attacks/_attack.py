"""What all attacks share: a value that is called, and the task that it works on."""

import abc
import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from hr_keras._core.logits import check_backend, logits_of
from hr_keras.attacks._batches import compiled, in_batches, like
from hr_keras.attacks._checks import check_batch_size, check_bounds, prepare


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
