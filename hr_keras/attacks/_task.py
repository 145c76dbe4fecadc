"""What attacks work on and what they make: tasks, outcomes, states, and checks of the data."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import keras
import numpy as np
from keras import ops

from hr_keras._core.attack_view import join_inputs, split_inputs, with_attacked
from hr_keras._core.checks import Bounds, check_count
from hr_keras._core.compiled import compiled, in_batches
from hr_keras._core.examples import as_array
from hr_keras._core.logits import classifier_output, logits_of
from hr_keras._core.passes import single_pass
from hr_keras._core.pixel_bounds import for_pixels
from hr_keras._core.validation_data import check_image_shape

# Forward passes that decide what a model that draws random numbers predicts.
_PASSES = 10


class Outcome(NamedTuple):
    """Holds what an attack made of a task.

    Args:
        images: Adversarial images, `(n, ...)`.
        fooled: Whether the model was seen to be fooled, bool `(n,)`. `None` if the attack did
            not check. `Attack.attempt` verifies it.
    """

    images: np.ndarray
    fooled: np.ndarray | None


@dataclass(frozen=True)
class Task:
    """Holds checked images and labels for an attack to work on; made by `Task.of`.

    Args:
        model: A Keras classifier.
        images: `(n, ...)`, NumPy.
        labels: int32 `(n,)` or float32 `(n, classes)`.
        indices: Which examples these are, `(n,)`. Random numbers depend on it, so that an
            example gets the same ones alone and among others.
        batch_size: Examples in one compiled step.
        logits: Logits of the images, `(n, classes)`. Default `None`: not computed yet.
        epsilons: ε of each example, float64 `(n,)`. Default `None`: ε of the attack.
        others: The other inputs of a model of several, see `models.attack_view`, `(n, ...)` each.
    """

    model: keras.Model
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    batch_size: int
    logits: np.ndarray | None = None
    epsilons: np.ndarray | None = None
    others: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(
        cls,
        model: Any,
        images: Any,
        labels: Any,
        bounds: Any,
        batch_size: int,
        first_index: int = 0,
    ) -> Self:
        """Makes a task of all examples, checked by `prepare`; numbered from `first_index`."""
        first_index = check_count("first_index", first_index, lowest=0)
        images, others = split_inputs(model, images)
        images, labels = prepare(model, images, labels, bounds, first_index)
        indices = np.arange(len(images)) + first_index
        return cls(model, images, labels, indices, batch_size, others=others)

    @property
    def inputs(self) -> Any:
        """What the model takes: the images, with the other inputs if it has some."""
        return join_inputs(self.model, self.images, self.others)

    def replace(self, **changes: Any) -> Self:
        """Returns the task with other attributes."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: Any) -> Self:
        """Returns the task of some examples only."""
        per_example = ("images", "labels", "indices", "logits", "epsilons")
        parts = {name: getattr(self, name) for name in per_example}
        chosen = {k: None if v is None else v[rows] for k, v in parts.items()}
        return self.replace(**chosen, others=tuple(other[rows] for other in self.others))

    def predict(self) -> Self:
        """Returns the task with its logits; see `find_logits`."""
        return self.replace(logits=self.find_logits())

    def find_logits(self) -> np.ndarray:
        """Returns logits `(n, classes)`: `logits`, or if it is `None`, by one forward pass."""
        if self.logits is not None:
            return self.logits
        step = compiled(self.model, "predict", build_predict)
        (logits,) = in_batches(
            step,
            self.images,
            self.labels,
            self.batch_size,
            per_example=self.others,
            any_size=True,
        )
        return logits

    def find_mean_logits(self) -> np.ndarray:
        """Returns logits like `find_logits`, of a model that draws random numbers by the mean.

        ```
        log 1/k Σ_k softmax(z_k), k = 10 forward passes
        ```
        """
        if not classifier_output(self.model).is_random or single_pass(self.model)[1] > 1:
            return self.find_logits()
        fresh = self.replace(logits=None)
        passes = (ops.softmax(fresh.find_logits()) for _ in range(_PASSES))
        with np.errstate(divide="ignore"):
            return np.log(np.mean([np.asarray(one) for one in passes], axis=0))

    def find_epsilons(self, epsilon: float) -> np.ndarray:
        """Returns ε of each example, float64 `(n,)`: `epsilons`, or `epsilon` if it is `None`."""
        if self.epsilons is not None:
            return self.epsilons
        return np.full(len(self.images), epsilon, "float64")


class State(NamedTuple):
    """Holds the state of an attack between two steps: tensors with the examples on axis 0.

    Args:
        image: What is attacked, `(n, ...)`.
        label: Its label, `(n,)` or `(n, classes)`.
        target: The class to reach, int32 `(n,)`; 0 if the attack has no targets.
        restart: Which restart this is, int32 `(n,)`.
        keys: Keys of random numbers, uint32 `(n, 2)`.
        epsilon: ε of each example, float64 `(n,)`; see `IterativeAttack.sizes`.
        point: The image that the next step evaluates, `(n, ...)`.
        best: The first fooling image, or the one of the highest score, `(n, ...)`.
        score: Score of `best`, float64 `(n,)`.
        steps: Steps made, int32 `(n,)`.
        fooled: Whether `best` fools the model, bool `(n,)`.
        memory: What else an attack keeps from step to step: a tensor, or a NamedTuple of some.
            Default `()`: nothing.
        others: The other inputs of a model of several, see `models.attack_view`, `(n, ...)` each.
    """

    image: Any
    label: Any
    target: Any
    restart: Any
    keys: Any
    epsilon: Any
    point: Any
    best: Any
    score: Any
    steps: Any
    fooled: Any
    memory: Any = ()
    others: Any = ()


def build_predict(model_ref: Any) -> Any:
    """Returns `(images, labels, *others) -> (logits,)`, to be compiled; labels are not used."""

    def predict(images: Any, labels: Any, *others: Any) -> tuple[Any]:
        return (logits_of(model_ref(), join_inputs(model_ref(), images, others)),)

    return predict


def is_correct(logits: Any, labels: Any) -> Any:
    """Finds where the largest logit is the label's and no logit is infinite or NaN, `(n,)`.

    Args:
        logits: `(n, classes)`, tensor or NumPy; the result is of the same kind.
        labels: `(n,)`, or `(n, classes)`, of which the most probable class counts.
    """
    kind: Any = np if isinstance(logits, np.ndarray) else ops
    if len(labels.shape) == 2:
        labels = kind.argmax(labels, axis=-1)
    finite = kind.all(kind.isfinite(logits), axis=-1)
    return (kind.argmax(logits, axis=-1) == labels) & finite


def match_type(model: keras.Model, result: np.ndarray, images: Any) -> Any:
    """Returns `result` in the form of `images`: a tensor, a byte order, with other inputs."""
    import tensorflow as tf

    attacked, _ = split_inputs(model, images)
    if tf.is_tensor(attacked):
        result = tf.convert_to_tensor(result)
    elif isinstance(attacked, np.ndarray):
        result = result.astype(attacked.dtype, copy=False)
    return with_attacked(model, images, result)


def prepare(
    model: keras.Model,
    images: Any,
    labels: Any,
    bounds: Bounds,
    first_index: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Checks images `(n, ...)` and labels, and returns them as `Task` holds them.

    Messages count examples from `first_index`.

    Raises:
        ValueError: For empty data; images that are not floating point, not finite or outside
            `bounds`; labels of the wrong shape or out of range; soft labels that are negative
            or do not sum to 1 within 1e-3; a model that is no classifier.
    """
    images, labels = as_array(images), np.asarray(labels)
    check_image_shape(model, images, "`images`")
    check_images(images, bounds, first_index)
    output = classifier_output(model, images)
    if not keras.backend.is_float_dtype(output.input_dtype):
        raise ValueError(
            "A gradient attack needs a model of floating-point images. "
            f"Received: model {model.name!r} with input dtype {output.input_dtype}"
        )
    return images, check_labels(labels, len(images), output.num_classes, first_index)


def check_images(images: np.ndarray, bounds: Bounds, first_index: int = 0) -> None:
    """Raises a ValueError unless images are floating point, at least one, and in `bounds`."""
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"`images` must have shape (n, ...), n ≥ 1. Received: {images.shape}")
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":
        raise ValueError(
            "`images` must be floating point: an attack moves pixels by fractions. Received: "
            f"dtype {images.dtype}. Convert them to float32, with pixels in bounds={bounds}"
        )
    if not (are_inside(images, bounds) and all(map(np.isfinite, (images.min(), images.max())))):
        ones = (images[k : k + 1] for k in range(len(images)))
        good = [are_inside(one, bounds) and bool(np.isfinite(one).all()) for one in ones]
        raise ValueError(
            f"`images` must lie inside bounds={bounds}, without NaN. Received: values from "
            f"{images.min()} to {images.max()}, the first in example "
            f"{first_index + good.index(False)}"
        )


def are_inside(images: np.ndarray, bounds: Bounds, slack: float = 0.0) -> bool:
    # in the precision of the images: 0.1 in float64 is not 0.1 in float32
    low, high = (np.asarray(end, images.dtype) for end in for_pixels(bounds, images.shape[1:]))
    lowest, highest = images.min(axis=0), images.max(axis=0)
    return bool((low - slack <= lowest).all() and (highest <= high + slack).all())


def check_labels(labels: np.ndarray, n: int, classes: int, first_index: int = 0) -> np.ndarray:
    """Returns labels as int32 `(n,)` or float32 `(n, classes)`, or raises a ValueError."""
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"`labels` must be numbers. Received: dtype {labels.dtype}")
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape == (n, classes):
        labels = labels.astype("float32")
        sums = labels.sum(axis=-1)
        good = (labels >= 0).all(axis=-1) & np.isclose(sums, 1.0, atol=1e-3)
        if not good.all():
            raise ValueError(
                "Soft labels must not be negative and must sum to 1. Received: smallest "
                f"{labels.min()}, sums from {sums.min()} to {sums.max()}, the first of example "
                f"{first_index + int(np.argmin(good))}"
            )
        return labels / sums[:, None]
    if labels.shape != (n,):
        raise ValueError(
            f"`labels` must have shape ({n},), ({n}, 1) or ({n}, {classes}). "
            f"Received: {labels.shape}"
        )
    good = (labels == np.floor(labels)) & (labels >= 0) & (labels < classes)
    if not good.all():
        raise ValueError(
            f"`labels` must be class numbers from 0 to {classes - 1}. "
            f"Received: from {labels.min()} to {labels.max()}, dtype {labels.dtype}, the first of "
            f"example {first_index + int(np.argmin(good))}"
        )
    return labels.astype("int32")


def select(chosen: Any, first: Any, second: Any) -> Any:
    """Returns `first` where `chosen` `(n,)`, else `second`, both `(n, ...)`."""
    return ops.where(ops.reshape(chosen, (-1,) + (1,) * (len(first.shape) - 1)), first, second)


def take(state: State, chosen: np.ndarray) -> State:
    """Returns the state of the examples that are `chosen`, bool `(n,)`."""
    import tensorflow as tf

    (rows,) = np.nonzero(chosen)
    return tf.nest.map_structure(lambda value: tf.gather(value, rows), state)
