"""What all attacks share: a value that is called, and the task that it works on."""

import abc
import dataclasses
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple, Self

import keras
import numpy as np
from keras import ops

from hr_keras._core.checks import check_bounds as check_bounds
from hr_keras._core.checks import check_count as check_count
from hr_keras._core.checks import check_epsilon as check_epsilon
from hr_keras._core.checks import check_epsilons as check_epsilons
from hr_keras._core.compiled import Same
from hr_keras._core.compiled import compiled as compiled
from hr_keras._core.compiled import in_batches as in_batches
from hr_keras._core.logits import check_backend, classifier_output, logits_of
from hr_keras.attacks.objectives import check_route as check_route


class Outcome(NamedTuple):
    """What an attack made of a task.

    Attributes:
        images: Adversarial images, `(n, ...)`.
        fooled: Whether the model was seen to be fooled, bool `(n,)`. `None` if the attack did
            not look.
    """

    images: np.ndarray
    fooled: np.ndarray | None


@dataclass(frozen=True)
class Task:
    """Checked images and labels for an attack to work on.

    Attributes:
        model: A Keras classifier.
        images: `(n, ...)`, NumPy.
        labels: int32 `(n,)` or float32 `(n, classes)`.
        indices: Which examples these are, `(n,)`. Random numbers depend on it, so that an
            example gets the same ones alone and among others.
        batch_size: Examples in one compiled step.
        logits: `(n, classes)` of the images, or `None` if there was no forward pass yet.
        epsilons: ε of each example, float64 `(n,)`, or `None`: the attack's own.
    """

    model: keras.Model
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    batch_size: int
    logits: np.ndarray | None = None
    epsilons: np.ndarray | None = None

    @classmethod
    def of(cls, model: Any, images: Any, labels: Any, bounds: Any, batch_size: int) -> Self:
        """Makes a task of all examples, checked by `prepare`."""
        images, labels = prepare(model, images, labels, bounds)
        return cls(model, images, labels, np.arange(len(images)), batch_size)

    def replace(self, **changes: Any) -> Self:
        """Returns the task with other attributes."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: Any) -> Self:
        """Returns the task of some examples only."""
        per_example = ("images", "labels", "indices", "logits", "epsilons")
        parts = {name: getattr(self, name) for name in per_example}
        return self.replace(**{k: None if v is None else v[rows] for k, v in parts.items()})

    def predict(self) -> Self:
        """Returns the task with its logits: one forward pass if they are not known."""
        if self.logits is not None:
            return self
        step = compiled(self.model, "predict", _build_predict)
        (logits,) = in_batches(step, self.images, self.labels, self.batch_size, any_size=True)
        return self.replace(logits=logits)

    def find_epsilons(self, epsilon: float) -> np.ndarray:
        """Returns ε of each example, float64 `(n,)`: `epsilons`, or `epsilon` if it is `None`."""
        if self.epsilons is not None:
            return self.epsilons
        return np.full(len(self.images), epsilon, "float64")


@dataclass(frozen=True)
class Attack(abc.ABC):
    """Base class of the attacks. An attack is a frozen value; calling it attacks a model.

    A subclass is a frozen dataclass that implements `perturb`. Change an attack by
    `dataclasses.replace`; with `name=None` the copy gets the default name.

    Args:
        bounds: `(lowest, highest)` pixel value.
        targeted: Whether labels are the classes to *reach*. The objective is then minimised.
        batch_size: Examples in one compiled step.
        jit_compile: Whether to compile with XLA. On a CPU that was about half as fast.
        name: Name in logs and tables.
    """

    _: KW_ONLY
    bounds: tuple[float, float] = (0.0, 1.0)
    targeted: bool = False
    batch_size: int = 256
    jit_compile: bool = False
    name: str = None  # type: ignore[assignment]  # always a string after `__post_init__`

    # Arguments of compiled code, or of no influence on it.
    _NOT_COMPILED: ClassVar = {"name", "epsilon", "seed", "n_restarts", "batch_size"}

    def __post_init__(self) -> None:
        check_backend()
        name = self.default_name() if self.name is None else self.name
        if not (isinstance(name, str) and name):
            raise ValueError(f"`name` must be a string that is not empty. Received: {name!r}")
        self._normalise(
            name=name,
            bounds=check_bounds(self.bounds),
            targeted=bool(self.targeted),
            batch_size=check_batch_size(self.batch_size),
            jit_compile=bool(self.jit_compile),
        )

    def _normalise(self, **values: Any) -> None:
        """Sets fields; for `__post_init__` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def default_name(self) -> str:
        """Returns the name that an attack has if none is given."""
        return type(self).__name__.lower()

    def to_config(self) -> dict[str, Any]:
        """Returns all arguments and the name of the class, as a dict that JSON can hold."""
        fields = [field.name for field in dataclasses.fields(self) if field.init]
        values = {name: _to_json(getattr(self, name)) for name in fields}
        return {"attack": type(self).__name__, **values}

    def __call__(self, model: keras.Model, images: Any, labels: Any) -> Any:
        """Makes adversarial images.

        Args:
            model: A Keras classifier. If it ends in a softmax, the attack uses its logits.
            images: `(n, ...)` floating point, inside `bounds`; NumPy or tensor.
            labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`: the
                true labels, or with `targeted=True` the classes to reach.

        Returns:
            Images of the type, shape and dtype of `images`.

        Raises:
            ValueError: If images or labels are not as described.
        """
        task = Task.of(model, images, labels, self.bounds, self.batch_size)
        return match_type(self.perturb(task).images, images)

    def sweep(self, model: keras.Model, images: Any, labels: Any, epsilons: Any) -> Any:
        """Makes adversarial images at several ε, in place of the attack's own.

        All pairs of an example and an ε are attacked together.

        Args:
            model: A Keras classifier.
            images: `(n, ...)`, as in a call.
            labels: As in a call.
            epsilons: ε values, each at least 0.

        Returns:
            `(len(epsilons), n, ...)`, of the type and dtype of `images`.

        Raises:
            ValueError: If an argument is not as described.
        """
        sizes = check_epsilons(epsilons)
        task = Task.of(model, images, labels, self.bounds, self.batch_size).predict()
        n = len(task.images)
        pairs = task.select(np.tile(np.arange(n), len(sizes)))
        pairs = pairs.replace(epsilons=np.repeat(np.array(sizes, "float64"), n))
        found = self.perturb(pairs).images
        return match_type(found.reshape(len(sizes), *task.images.shape), images)

    def attempt(self, task: Task) -> Outcome:
        """Returns an `Outcome` with `fooled`: one more forward pass if it is not known."""
        outcome = self.perturb(task)
        if outcome.fooled is not None:
            return outcome
        logits = task.replace(images=outcome.images, logits=None).predict().logits
        return outcome._replace(fooled=self.is_fooled(logits, task.labels))

    def is_fooled(self, logits: Any, labels: Any) -> Any:
        """Finds which examples are not classified as the label (if targeted: are), `(n,)`."""
        correct = is_correct(logits, labels)
        return correct if self.targeted else ~correct

    @abc.abstractmethod
    def perturb(self, task: Task) -> Outcome:
        """Attacks the examples of a task, each independently of the others.

        A subclass with an ε uses `task.find_epsilons(self.epsilon)`.
        """

    def compiled(self, model: keras.Model, part: str) -> Any:
        """Returns the `tf.function` that `_build_{part}` makes, compiled once for a model.

        It is built by a copy without the arguments of compiled code and never by the attack
        itself, so that attacks that differ in these arguments only share it.
        """
        values = {k: v for k, v in vars(self).items() if k not in self._NOT_COMPILED}
        attack = object.__new__(type(self))
        vars(attack).update(values)
        key = (type(self), part, *((name, _hashable(values[name])) for name in sorted(values)))
        return compiled(model, key, getattr(attack, f"_build_{part}"), self.jit_compile)


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return Same(value)
    return value


def _to_json(value: Any) -> Any:
    if isinstance(value, Attack):
        return value.to_config()
    if isinstance(value, (tuple, list)):
        return [_to_json(part) for part in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return getattr(value, "name", None) or getattr(value, "__name__", None) or repr(value)


def _build_predict(model_ref: Any) -> Any:
    return lambda images, labels: (logits_of(model_ref(), images),)


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


def match_type(result: np.ndarray, images: Any) -> Any:
    """Returns `result` as a tensor if `images` is one."""
    import tensorflow as tf

    return tf.convert_to_tensor(result) if tf.is_tensor(images) else result


def prepare(
    model: keras.Model, images: Any, labels: Any, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Checks images `(n, ...)` and labels, and returns them in NumPy.

    Labels become int32 `(n,)` or float32 `(n, classes)`.

    Raises:
        ValueError: For empty data; images that are not floating point, not finite or outside
            `bounds`; labels of the wrong shape or out of range; soft labels that are negative
            or do not sum to 1 within 1e-3; a model that is no classifier.
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


def check_images(images: np.ndarray, bounds: tuple[float, float]) -> None:
    """Raises a ValueError unless images are floating point, at least one, and in `bounds`."""
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


def check_labels(labels: np.ndarray, n: int, classes: int) -> np.ndarray:
    """Returns labels as int32 `(n,)` or float32 `(n, classes)`, or raises a ValueError."""
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


def check_batch_size(batch_size: Any) -> int:
    """Returns the batch size, or raises a ValueError unless it is a positive integer."""
    return check_count("batch_size", batch_size)
