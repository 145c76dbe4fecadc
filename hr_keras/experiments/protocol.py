"""What an experiment *is*: a frozen value that is written beside its results."""

import dataclasses
import difflib
import hashlib
import itertools
import json
import os
import pathlib

from hr_keras import datasets, training
from hr_keras._core import checks

MODELS = ("mnist_cnn", "resnet8")
LOSSES = ("ce", "hr")
OPTIMIZERS = ("sgd", "adam")
SPLITS = ("test", "validation")

_RENAMED = {"paper": "paper-mnist"}  # in protocols that an earlier version wrote


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One experiment of the paper's kind: train on CE and on HR, attack with FGSM.

    Attributes:
        preset: name of the preset that it comes from.
        dataset: a name or an `.npz` path for `datasets.load`.
        model: one of `MODELS`.
        alpha: order of the Rényi divergence of the HR loss, greater than 1.
        epochs: passes over the training split.
        batch_size: training examples a step, over all replicas.
        optimizer: one of `OPTIMIZERS`, with Keras' defaults: SGD is without momentum.
        learning_rate: of the optimizer, at the start.
        schedule: pairs `(epoch, factor)`: once so many epochs are done, the learning rate is
            the one at the start times `factor`, until the next pair.
        mean_image: whether the model first subtracts the mean of the training images.
        epsilons: FGSM sizes, in units of pixels in [0, 1].
        attack_every: the validation split is attacked after every so many epochs.
        validation: share of the training data that is the validation split.
        seed: determines split, initial weights and data order, with the number of the
            realization; the same for CE and HR, so that the two are paired.
        realizations: how many independent repetitions.
        strategy: `training.get_strategy` name.
        evaluated_on: one of `SPLITS`: what the results are of, in the end. `"validation"`, for
            the search for α, never looks at a test image.
        dataset_sha256: of the file, where the data set is one; results of another content
            under the same name are another experiment.

    Raises:
        ValueError: for a value out of range.
    """

    preset: str
    dataset: str = "mnist10k"
    model: str = "mnist_cnn"
    alpha: float = 1.6
    epochs: int = 15
    batch_size: int = 100
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    schedule: tuple = ()
    mean_image: bool = False
    epsilons: tuple = (0.0, 0.1, 0.25)
    attack_every: int = 1
    validation: float = 0.1
    seed: int = 0
    realizations: int = 3
    strategy: str = "auto"
    evaluated_on: str = "test"
    dataset_sha256: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "epsilons", tuple(map(float, self.epsilons)))
        object.__setattr__(self, "schedule", _checked_schedule(self.schedule))
        checks.check_alpha(self.alpha)
        for name in ("epochs", "batch_size", "attack_every", "realizations"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"`learning_rate` must be > 0. Received: {self.learning_rate}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` must be at least 0 and below 2³¹. Received: {self.seed}")
        if not 0 < self.validation < 1:
            raise ValueError(f"`validation` must be in (0, 1). Received: {self.validation}")
        training.check_strategy(self.strategy)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {known}. Received: {getattr(self, name)!r}"
                )

    def to_json(self):
        """The protocol as a JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @property
    def name(self):
        """Preset and data set, and what differs from the preset: a name for the run folder."""
        usual = dataclasses.replace(
            PRESETS[self.preset], dataset=self.dataset, dataset_sha256=self.dataset_sha256
        )
        changed = [f"{name}-{getattr(self, name)}" for name in usual.differences(self)]
        stem = pathlib.PurePath(self.dataset).stem
        return "_".join([stem, self.preset, *changed])

    @classmethod
    def from_json(cls, text):
        """The protocol that `to_json` wrote, now or earlier; a ValueError for anything else."""
        try:
            values = json.loads(text)
            values["preset"] = _RENAMED.get(values["preset"], values["preset"])
            if values["preset"] not in PRESETS:
                raise ValueError(f"there is no preset {values['preset']!r}")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the protocol is not one of this version: {error}") from error

    def differences(self, other):
        """Names of what differs, apart from the number of realizations, which may grow."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "realizations"]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


_CHOICES = {"model": MODELS, "optimizer": OPTIMIZERS, "evaluated_on": SPLITS}


def _checked_schedule(schedule):
    """Pairs `(int, float)`; a ValueError unless the epochs rise and the factors are positive."""
    try:
        pairs = tuple((int(epoch), float(factor)) for epoch, factor in schedule)
    except (TypeError, ValueError):
        pairs = ((0, 0.0),)
    epochs = [0, *(epoch for epoch, _ in pairs)]
    rising = all(a < b for a, b in itertools.pairwise(epochs))
    if not (rising and all(0 < factor < float("inf") for _, factor in pairs)):
        raise ValueError(
            "`schedule` must be pairs (epoch, factor) with rising epochs, the first at least 1, "
            f"and positive factors. Received: {schedule!r}"
        )
    return pairs


# Shows the effect of the loss within minutes; not the paper's protocol.
_QUICK = Protocol("quick")

# The paper's, each with the data set that it is meant for; any other may be asked for.
_MNIST = Protocol(
    "paper-mnist",
    dataset="mnist",
    epochs=1000,
    learning_rate=0.001,
    attack_every=10,
    realizations=5,
)
# The paper names neither optimizer nor schedule here: they are those of Keras' CIFAR-10 example.
_SVHN = dataclasses.replace(
    _MNIST,
    preset="paper-svhn",
    dataset="svhn_cropped",
    model="resnet8",
    epochs=200,
    batch_size=128,
    optimizer="adam",
    schedule=((80, 0.1), (120, 0.01), (160, 0.001), (180, 0.0005)),
)
_CIFAR10 = dataclasses.replace(_SVHN, preset="paper-cifar10", dataset="cifar10", mean_image=True)

PRESETS = {protocol.preset: protocol for protocol in (_QUICK, _MNIST, _CIFAR10, _SVHN)}


def from_preset(name, **changes):
    """A preset with some values changed; `None` leaves a value as the preset has it.

    Args:
        name: one of `PRESETS`.
        changes: attributes of `Protocol`.

    Raises:
        ValueError: for an unknown preset or a value out of range.

    Example:
        >>> protocol.from_preset("quick", realizations=5, seed=1)
    """
    if name not in PRESETS:
        nearest = [_RENAMED[name]] if name in _RENAMED else []
        nearest += difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`preset` must be one of {tuple(PRESETS)}.{hint} Received: {name!r}")
    return changed(PRESETS[name], **changes)


def changed(protocol, **changes):
    """A protocol with some values changed; `None` leaves a value as it is.

    The content of a data set that is a file is looked at again.

    Raises:
        ValueError: for a value out of range, an unknown data set or a file that is not there.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if "dataset" in changes:
        changes |= _dataset(datasets.check_name(changes["dataset"]))
    return dataclasses.replace(protocol, **changes)


def _dataset(name):
    if not name.endswith(".npz"):
        return {"dataset": name, "dataset_sha256": None}
    sha256 = hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()
    return {"dataset": os.path.normpath(name), "dataset_sha256": sha256}
