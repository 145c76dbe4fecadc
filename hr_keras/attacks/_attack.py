"""`Attack`: a frozen value that attacks a model when it is called."""

import abc
import dataclasses
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from hr_keras._core.checks import Bounds, check_batch_size, check_bounds, check_epsilons
from hr_keras._core.compiled import Same, compiled
from hr_keras._core.logits import check_backend
from hr_keras.attacks._task import Outcome, Task, are_inside, is_correct, match_type


@dataclass(frozen=True)
class Attack(abc.ABC):
    """Attacks a model when it is called: base class of all attacks, which are frozen values.

    ```
    attack(model, images, labels)  →  adversarial images
    ```

    A subclass is a frozen dataclass that implements `perturb`. Change an attack by
    `dataclasses.replace`; with `name=None` the copy gets the default name.

    Args:
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to *reach*. The objective is then minimised.
            Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. On a CPU that was about half as fast.
            Default `False`.
        name: Name in logs and tables. Default: the name of the class.

    Raises:
        ValueError: If an argument is not as described, or the backend is not TensorFlow.

    Example:
        ```python
        from dataclasses import dataclass

        from hr_keras.attacks import Attack, Outcome


        @dataclass(frozen=True)
        class Invert(Attack):
            def perturb(self, task):
                return Outcome(sum(self.bounds) - task.images, fooled=None)


        negatives = Invert()(model, images, labels)
        ```
    """

    _: KW_ONLY
    bounds: Bounds = (0.0, 1.0)
    targeted: bool = False
    batch_size: int = 256
    jit_compile: bool = False
    name: str = None  # type: ignore[assignment]  # always a string after `__post_init__`

    # Arguments of compiled code, or of no influence on it.
    _NOT_COMPILED: ClassVar[set[str]] = {"name", "epsilon", "seed", "n_restarts", "batch_size"}

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

    def __call__(self, model: keras.Model, images: Any, labels: Any, first_index: int = 0) -> Any:
        """Makes adversarial images.

        Args:
            model: A Keras classifier. The attack uses the logits behind a final softmax or sigmoid;
                with one output z (two classes, labels 0 and 1) these are (0, z).
            images: `(n, ...)` floating point, inside `bounds`; NumPy or tensor. For a model of
                several inputs see `models.attack_view`.
            labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`: the
                true labels, or with `targeted=True` the classes to reach.
            first_index: Index of the first image, at least 0. The random numbers of an example
                depend on its index and on the seed of the attack: number the batches of a
                stream through, or all of them get the same noise. Default 0.

        Returns:
            Images of the type, shape and dtype of `images`.

        Raises:
            ValueError: If images or labels are not as described.
        """
        task = Task.of(model, images, labels, self.bounds, self.batch_size, first_index)
        return match_type(model, self.run(task).images, images)

    def sweep(
        self, model: keras.Model, images: Any, labels: Any, epsilons: Any, first_index: int = 0
    ) -> Any:
        """Makes adversarial images at several ε, in place of the attack's own.

        All pairs of an example and an ε are attacked together.

        Args:
            model: A Keras classifier.
            images: `(n, ...)`, as in a call.
            labels: As in a call.
            epsilons: ε values, each at least 0.
            first_index: As in a call.

        Returns:
            `(len(epsilons), n, ...)`, of the type and dtype of `images`.

        Raises:
            ValueError: If an argument is not as described.
        """
        sizes = check_epsilons(epsilons)
        task = Task.of(model, images, labels, self.bounds, self.batch_size, first_index).predict()
        n = len(task.images)
        pairs = task.select(np.tile(np.arange(n), len(sizes)))
        pairs = pairs.replace(epsilons=np.repeat(np.array(sizes, "float64"), n))
        found = self.run(pairs).images
        return match_type(model, found.reshape(len(sizes), *task.images.shape), images)

    def run(self, task: Task) -> Outcome:
        """Attacks like `perturb`, and checks that its images are in the bounds and the ball.

        Raises:
            ValueError: If `perturb` returned something else.
        """
        outcome = self.perturb(task)
        images = np.asarray(outcome.images, task.images.dtype)
        epsilon = getattr(self, "epsilon", None)  # not all attacks have a size
        sizes = None if epsilon is None else task.find_epsilons(epsilon)
        # Of the balls that contain those of other norms the smallest.
        norm = "l2" if getattr(self, "norm", None) == "l2" else "linf"
        _check_adversarial(self.name, images, task.images, self.bounds, norm, sizes)
        return outcome._replace(images=images)

    def attempt(self, task: Task) -> Outcome:
        """Attacks like `run`, and finds `fooled` by a forward pass of the images returned.

        What `perturb` says of `fooled` is not relied on: the pass is in other batches than those
        of the attack, and if the model draws random numbers the mean of several passes decides.
        """
        outcome = self.run(task)
        logits = task.replace(images=outcome.images, logits=None).find_mean_logits()
        return outcome._replace(fooled=self.is_fooled(logits, task.labels))

    def is_fooled(self, logits: Any, labels: Any) -> Any:
        """Finds which examples are not classified as the label (if targeted: are), `(n,)`."""
        correct = is_correct(logits, labels)
        return correct if self.targeted else ~correct

    @abc.abstractmethod
    def perturb(self, task: Task) -> Outcome:
        """Attacks the examples of a task, each independently of the others.

        A subclass with an ε uses `task.find_epsilons(self.epsilon)`.

        Args:
            task: Images, labels and the model.

        Returns:
            An `Outcome`, in the order of the task.
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


def _check_adversarial(
    name: str,
    found: np.ndarray,
    images: np.ndarray,
    bounds: Bounds,
    norm: str,
    epsilons: np.ndarray | None,
) -> None:
    """Raises a ValueError unless the images that an attack found are in the bounds and the ball.

    Args:
        name: Name of the attack.
        found: What it returned for `images`, `(n, ...)`.
        images: What it was given, `(n, ...)`.
        bounds: Lowest and highest pixel value, numbers or one for each channel.
        norm: `"linf"` or `"l2"`.
        epsilons: Size of the ball of each example `(n,)`; `None` for no ball.
    """
    if found.shape != images.shape:
        raise ValueError(
            f"Attack {name!r} must return images of shape {images.shape}. Received: {found.shape}"
        )
    rounding = 4 * float(np.spacing(np.abs(bounds).max().astype(images.dtype)))
    if not are_inside(found, bounds, rounding):
        raise ValueError(
            f"Attack {name!r} must return images inside bounds={bounds}, without NaN. "
            f"Received: values from {found.min()} to {found.max()}"
        )
    if epsilons is None:
        return
    for image, moved, epsilon in zip(images, found, epsilons, strict=True):
        change = moved.astype("float64") - image.astype("float64")
        size = np.sqrt((change**2).sum()) if norm == "l2" else np.abs(change).max()
        slack = rounding * (np.sqrt(change.size) if norm == "l2" else 1.0)
        if size > 1.0001 * epsilon + slack:
            raise ValueError(
                f"Attack {name!r} must return images at a distance of at most {epsilon} in "
                f"{norm}. Received: {size}"
            )
