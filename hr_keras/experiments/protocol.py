"""What an experiment *is*: a frozen value that is written beside its results."""

import dataclasses
import difflib
import hashlib
import json
import os
import pathlib

from hr_keras import datasets, distribution, inputs

MODELS = ("mnist_cnn", "resnet8")
LOSSES = ("ce", "hr")


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
        learning_rate: of SGD, without momentum.
        epsilons: FGSM sizes, in units of pixels in [0, 1].
        attack_every: the validation split is attacked after every so many epochs.
        validation: share of the training data that is the validation split.
        seed: determines split, initial weights and data order, with the number of the
            realization; the same for CE and HR, so that the two are paired.
        realizations: how many independent repetitions.
        strategy: `distribution.get_strategy` name.
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
    learning_rate: float = 0.01
    epsilons: tuple = (0.0, 0.1, 0.25)
    attack_every: int = 1
    validation: float = 0.1
    seed: int = 0
    realizations: int = 3
    strategy: str = "auto"
    dataset_sha256: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "epsilons", tuple(map(float, self.epsilons)))
        inputs.check_alpha(self.alpha)
        for name in ("epochs", "batch_size", "attack_every", "realizations"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"`learning_rate` must be > 0. Received: {self.learning_rate}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` must be at least 0 and below 2³¹. Received: {self.seed}")
        if not 0 < self.validation < 1:
            raise ValueError(f"`validation` must be in (0, 1). Received: {self.validation}")
        distribution.check_name(self.strategy)
        if self.model not in MODELS:
            raise ValueError(f"`model` must be one of {MODELS}. Received: {self.model!r}")

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
        """The protocol that `to_json` wrote; a ValueError for anything else."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the protocol is not one of this version: {error}") from error

    def differences(self, other):
        """Names of what differs, apart from the number of realizations, which may grow."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "realizations"]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


PRESETS = {
    # Shows the effect of the loss within minutes; not the paper's protocol.
    "quick": Protocol(preset="quick"),
    # The paper's MNIST protocol, on whichever data set is asked for.
    "paper": Protocol(
        preset="paper", epochs=1000, learning_rate=0.001, attack_every=10, realizations=5
    ),
}


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
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`preset` must be one of {tuple(PRESETS)}.{hint} Received: {name!r}")
    changes = {key: value for key, value in changes.items() if value is not None}
    if "dataset" in changes:
        dataset = datasets.check_name(changes["dataset"])
        if dataset.endswith(".npz"):
            content = pathlib.Path(dataset).read_bytes()
            changes["dataset_sha256"] = hashlib.sha256(content).hexdigest()
            dataset = os.path.normpath(dataset)
        changes["dataset"] = dataset
    return dataclasses.replace(PRESETS[name], **changes)
