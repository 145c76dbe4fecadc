"""What an experiment is: a frozen value that is written next to its results."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Literal, get_args

from hr_keras import datasets
from hr_keras._core.checks import (
    STRATEGIES,
    StrategyName,
    check_alpha,
    check_choice,
    check_count,
    check_epsilon,
)
from hr_keras._core.decode import decode
from hr_keras.experiments.methods import check_methods
from hr_keras.experiments.protocol_checks import (
    check_attack_sizes,
    check_label_noise,
    check_learning_rate,
    check_learning_rates,
    check_own_rates,
    check_schedule,
)

Model = Literal["mnist_cnn", "resnet8"]
Optimizer = Literal["sgd", "adam"]
Split = Literal["test", "validation"]

MODELS: tuple[str, ...] = get_args(Model)
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SPLITS: tuple[str, ...] = get_args(Split)

# What FGSM maximises in the paper's table. These are attacks, and no methods of training.
ATTACK_OBJECTIVES = ("ce", "hr")

# The paper's data sets by name, in the order of the columns of Table 1.
_PAPER_DATASETS = {"mnist": "MNIST", "mnist10k": "MNIST", "cifar10": "CIFAR-10",
                   "svhn_cropped": "SVHN"}  # fmt: skip
# What titles call the data sets.
_DATA_TITLES = {"mnist": "MNIST", "mnist10k": "MNIST (10,000 digits)",
                "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
                "svhn_cropped": "SVHN"}  # fmt: skip
# The paper's protocol for each of its data sets.
PAPER_PRESETS = {"MNIST": "paper-mnist", "CIFAR-10": "paper-cifar10", "SVHN": "paper-svhn"}

# What may change in a run folder: it does not determine how one model is trained.
# (The rate of a method that has trained may not; `RunFolder.create` sees to it.)
MAY_CHANGE = ("realizations", "methods", "data_label", "learning_rates")

# Saved results are older than these. Where they change nothing they are not written either.
LATER: dict[str, Any] = {"label_noise": 0.0, "learning_rates": ()}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One experiment: train by each method, several times, and attack with FGSM.

    Args:
        preset: Name of the preset that it comes from.
        dataset: A name or an `.npz` path for `datasets.load`.
        model: `"mnist_cnn"` or `"resnet8"`.
        alpha: Order of the Rényi divergence of the HR loss, greater than 1.
        epochs: Passes over the training split.
        batch_size: Training examples in a step, over all replicas.
        optimizer: `"sgd"` (without momentum) or `"adam"`, with Keras' defaults.
        learning_rate: Of the optimizer, at the start.
        schedule: Pairs `(epoch, factor)`. After so many epochs the learning rate is the one at
            the start times `factor`, until the next pair.
        mean_image: Whether the model first subtracts the mean of the training images.
        epsilons: Sizes of FGSM, in units of pixels in [0, 1].
        attack_every: The validation split is attacked after every so many epochs.
        validation: Share of the training data that is the validation split.
        seed: Determines split, initial weights and data order, together with the number of the
            realization. It is the same for every method, so that their results are paired.
        realizations: How many independent repetitions. This may grow in a run folder.
        strategy: Name for `training.get_strategy`.
        evaluated_on: Split that the trained models are evaluated on: `"test"`, or
            `"validation"` for the search for α, which never uses a test image.
        dataset_sha256: SHA-256 of the data set's file, where it is one: other content under the
            same name is another experiment.
        data_label: What tables and figures call the data set; `None` for its name. If it is
            the paper's name of a data set, or begins with one and a comma ("CIFAR-10,
            JPEG-recompressed"), results are shown beside the paper's. It may change in a run
            folder.
        methods: Names of methods, see `methods.METHODS`. This may grow in a run folder.
        train_epsilon: ε of the attack in adversarial training, in L∞ and units of pixels in
            [0, 1]. Other methods ignore it.
        train_steps: Steps of that attack (`fgsm_rs` makes one).
        label_noise: Share of the labels of the training and of the validation split that are
            replaced by another class, drawn by the seed. Test labels stay as they are.
        learning_rates: Pairs `(method, learning rate)`, or a mapping, of methods with a learning
            rate of their own in place of `learning_rate`. This may grow in a run folder.

    Raises:
        ValueError: For a value out of range.
    """

    preset: str
    dataset: str = "mnist10k"
    model: Model = "mnist_cnn"
    alpha: float = 1.6
    epochs: int = 15
    batch_size: int = 100
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.01
    schedule: tuple[tuple[int, float], ...] = ()
    mean_image: bool = False
    epsilons: tuple[float, ...] = (0.0, 0.1, 0.25)
    attack_every: int = 1
    validation: float = 0.1
    seed: int = 0
    realizations: int = 3
    strategy: StrategyName = "auto"
    evaluated_on: Split = "test"
    dataset_sha256: str | None = None
    data_label: str | None = None
    methods: tuple[str, ...] = ("ce", "hr")
    train_epsilon: float = 0.1
    train_steps: int = 7
    label_noise: float = 0.0
    learning_rates: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilons", check_attack_sizes(self.epsilons))
        object.__setattr__(self, "schedule", check_schedule(self.schedule))
        object.__setattr__(self, "methods", check_methods(self.methods))
        object.__setattr__(self, "label_noise", check_label_noise(self.label_noise))
        object.__setattr__(self, "learning_rates", check_learning_rates(self.learning_rates))
        check_own_rates(self.methods, self.learning_rates)
        check_alpha(self.alpha)
        check_epsilon(self.train_epsilon)
        for name in ("epochs", "batch_size", "attack_every", "realizations", "train_steps"):
            check_count(name, getattr(self, name))
        check_learning_rate(self.learning_rate)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` must be at least 0 and below 2³¹. Received: {self.seed}")
        if not 0 < self.validation < 1:
            raise ValueError(f"`validation` must be in (0, 1). Received: {self.validation}")
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        label = self.data_label
        if label is not None and not (label.isprintable() and 0 < len(label.strip()) <= 80):
            raise ValueError(
                f"`data_label` must be a line of at most 80 characters. Received: {label!r}"
            )

    @property
    def data_name(self) -> str:
        """The data set in columns: `data_label`, or its name, or the name of its file."""
        return self.data_label or self.dataset_name

    @property
    def data_title(self) -> str:
        """The data set in titles: `data_label`, or its published name, or the name of its file."""
        return self.data_label or _DATA_TITLES.get(self.dataset, self.dataset_name)

    @property
    def paper_dataset(self) -> str | None:
        """The paper's name of the data set that this one is compared with, if there is one."""
        if self.data_label is None:
            return _PAPER_DATASETS.get(self.dataset)
        name = self.data_label.partition(",")[0]
        return name if name in PAPER_PRESETS else None

    @property
    def name(self) -> str:
        """Data set, preset and what differs from the preset: a name for the run folder."""
        usual = dataclasses.replace(
            PRESETS[self.preset], dataset=self.dataset, dataset_sha256=self.dataset_sha256
        )
        differences = [f"{name}-{getattr(self, name)}" for name in usual.differences(self)]
        return "_".join([self.dataset_name, self.preset, *differences])

    @property
    def dataset_name(self) -> str:
        """The data set's name; that of a file without its folder and ending."""
        return pathlib.PurePath(self.dataset).stem

    @property
    def attack_epsilons(self) -> tuple[float, ...]:
        """The sizes of FGSM that are greater than 0."""
        return tuple(epsilon for epsilon in self.epsilons if epsilon > 0)

    def find_learning_rate(self, method: str) -> float:
        """Returns the learning rate at the start of a method: its own, or that of all."""
        return dict(self.learning_rates).get(method, self.learning_rate)

    def differences(self, other: "Protocol") -> list[str]:
        """Returns the names of the values that differ.

        Those of `MAY_CHANGE` are left out.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name not in MAY_CHANGE]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def to_json(self) -> str:
        """Returns the protocol as a JSON text, without values of `LATER` that change nothing."""
        values = dataclasses.asdict(self)
        for name, usual in LATER.items():
            if values[name] == usual:
                del values[name]
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Protocol":
        """Returns the protocol of a JSON text that `to_json` wrote.

        Raises:
            ValueError: If a value is missing, unknown, of another type or out of range.
        """
        try:
            values = json.loads(text)
            if isinstance(values, dict):
                values = LATER | values
            protocol: Protocol = decode(cls, values, "it")
            check_choice("preset", protocol.preset, PRESETS)
        except ValueError as error:
            raise ValueError(f"This is not a protocol of this version: {error}") from error
        return protocol


_CHOICES = {
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "evaluated_on": SPLITS,
    "strategy": STRATEGIES,
}


# Shows the effect of the loss within minutes. It is not the paper's protocol.
_QUICK = Protocol("quick")

# The paper's protocols, each with the data set that it is meant for.
_MNIST = Protocol(
    "paper-mnist",
    dataset="mnist",
    epochs=1000,
    learning_rate=0.001,
    attack_every=10,
    realizations=5,
)
# The paper names no optimizer and no schedule here: these are those of Keras' CIFAR-10 example.
_SVHN = dataclasses.replace(
    _MNIST,
    preset="paper-svhn",
    dataset="svhn_cropped",
    model="resnet8",
    epochs=200,
    batch_size=128,
    optimizer="adam",
    schedule=((80, 0.1), (120, 0.01), (160, 0.001), (180, 0.0005)),
    train_epsilon=8 / 255,
)
_CIFAR10 = dataclasses.replace(_SVHN, preset="paper-cifar10", dataset="cifar10", mean_image=True)

PRESETS: dict[str, Protocol] = {
    protocol.preset: protocol for protocol in (_QUICK, _MNIST, _CIFAR10, _SVHN)
}
"""The protocols by name: the quick one and those of the paper."""


def from_preset(name: str, **changes: Any) -> Protocol:
    """Returns a preset with some values changed.

    Args:
        name: One of `PRESETS`.
        changes: Arguments of `Protocol`; `None` keeps the preset's value.

    Raises:
        ValueError: For an unknown preset or a value out of range.

    Example:

    ```python
    from hr_keras.experiments.protocol import from_preset

    protocol = from_preset("quick", realizations=5, seed=1)
    ```
    """
    return change_protocol(PRESETS[check_choice("preset", name, PRESETS)], **changes)


def change_protocol(protocol: Protocol, **changes: Any) -> Protocol:
    """Returns a protocol with some values changed.

    Args:
        protocol: A `Protocol`.
        changes: Arguments of `Protocol`; `None` keeps a value. The content of a data set that
            is a file is read again. `learning_rates` are added to those that there are.

    Raises:
        ValueError: For a value out of range, an unknown data set or a file that is missing.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if "learning_rates" in changes:
        rates = dict(protocol.learning_rates) | dict(
            check_learning_rates(changes["learning_rates"])
        )
        changes["learning_rates"] = tuple(rates.items())
    if "dataset" in changes:
        changes = _find_dataset(protocol, datasets.check_name(changes["dataset"])) | changes
        changes["dataset"] = os.path.normpath(changes["dataset"])
    return dataclasses.replace(protocol, **changes)


def _find_dataset(protocol: Protocol, name: str) -> dict[str, str | None]:
    """What is known about a data set: the content of its file, and how it is called."""
    if not name.endswith(".npz"):
        label = protocol.data_label if name == protocol.dataset else None
        return {"dataset_sha256": None, "data_label": label}
    sha256 = hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()
    is_same = sha256 == protocol.dataset_sha256
    label = protocol.data_label if is_same else datasets.recognize(name)
    return {"dataset_sha256": sha256, "data_label": label}
