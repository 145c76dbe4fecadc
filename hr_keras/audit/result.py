"""What an audit found: typed values, and their JSON."""

import base64
import dataclasses
import itertools
import json
import pathlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hr_keras._core.checks import (
    ATTACK_NAMES,
    Bounds,
    Norm,
    check_bounds,
    check_choice,
    check_count,
    check_epsilon,
    check_norm,
)
from hr_keras._core.decode import decode
from hr_keras._core.files import Path
from hr_keras._core.finding import Finding

WORST_CASE = "worst_case"
"""Name of the row that counts an example as robust if it withstands every attack."""


@dataclasses.dataclass(frozen=True)
class AuditProtocol:
    """What was audited, and how.

    Args:
        epsilon: Size of the perturbation, in the units of the images; greater than 0.
        norm: Norm of the perturbation, `"linf"` or `"l2"`.
        attacks: Names from `attacks.ATTACK_NAMES`, at least one, none twice.
        examples: Number of examples.
        seed: Seed of the attacks, an integer ≥ 0.
        bounds: Lowest and highest pixel value, or those of each channel.
        batch_size: Examples in one compiled step.
        others: Classifiers that adversarial examples come from: names, or SHA-256 of files.
        data: Name of the data set; `None` for arrays.
        data_sha256: SHA-256 of the data set, if it is a file.
        stored_shape: Shape of an image in the data set, if the model was given another.
        split: Split of the data set whose first examples these are; `None` for arrays.

    Raises:
        ValueError: For a value out of range.
    """

    epsilon: float
    norm: Norm
    attacks: tuple[str, ...]
    examples: int
    seed: int = 0
    bounds: Bounds = (0.0, 1.0)
    batch_size: int = 256
    others: tuple[str, ...] = ()
    data: str | None = None
    data_sha256: str | None = None
    stored_shape: tuple[int, ...] | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise ValueError(
                f"`attacks` must hold at least one, and none twice. Received: {self.attacks}"
            )
        checked = {
            "epsilon": check_epsilon(self.epsilon),
            "norm": check_norm(self.norm),
            "attacks": tuple(check_choice("attack", name, ATTACK_NAMES) for name in self.attacks),
            "examples": check_count("examples", self.examples),
            "seed": check_count("seed", self.seed, lowest=0),
            "bounds": check_bounds(self.bounds),
            "batch_size": check_count("batch_size", self.batch_size),
        }
        if checked["epsilon"] == 0:
            raise ValueError("`epsilon` must be greater than 0. Received: 0")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def epsilons(self) -> tuple[float, ...]:
        """Sizes of the security curve: ε/2, ε, 1.5 ε and 2 ε."""
        return tuple(share * self.epsilon for share in (0.5, 1.0, 1.5, 2.0))


@dataclasses.dataclass(frozen=True)
class AuditedModel:
    """The model of an audit.

    Args:
        name: Its Keras name.
        output: What it returns: `"logits"`, `"softmax"` or `"probabilities"`.
        classes: Number of classes.
        parameters: Number of parameters.
        file: Name of its file; `None` for a model in memory.
        sha256: SHA-256 of the file, or `None`.
    """

    name: str
    output: str
    classes: int
    parameters: int
    file: str | None = None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class AuditedAttack:
    """An attack of an audit.

    Args:
        name: Its name.
        description: What it does, in one line.
        settings: All its arguments at ε of the protocol, from `Attack.to_config`.
    """

    name: str
    description: str
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """Accuracy under one attack.

    Args:
        attack: Name of the attack, `"none"`, or `"worst_case"`, which counts an example as
            robust if it withstands every attack.
        epsilon: Size of the attack; 0 without attack.
        accuracy: Share of the examples that is classified correctly.
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end of the interval.
        correct: Numbers of the examples that are classified correctly.
    """

    attack: str
    epsilon: float
    accuracy: float
    low: float
    high: float
    correct: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """An image as text.

    Args:
        shape: Its shape.
        dtype: Type of its pixels, always `"float32"`.
        base64: Its bytes, little endian.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32"]
    base64: str

    def __post_init__(self) -> None:
        self.decode()

    @classmethod
    def encode(cls, image: npt.ArrayLike) -> "EncodedImage":
        """Returns the text of an image."""
        pixels = np.ascontiguousarray(image, "<f4")
        return cls(pixels.shape, "float32", base64.b64encode(pixels.tobytes()).decode())

    def decode(self) -> np.ndarray:
        """Returns the image.

        Raises:
            ValueError: If the text does not fit the shape.
        """
        pixels = base64.b64decode(self.base64, validate=True)
        return np.frombuffer(pixels, "<f4").reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An example that is fooled, and what fools it.

    Args:
        example: Number of the example.
        attack: Name of the attack that fools it.
        label: Its class.
        predicted: Decision on the clean image.
        predicted_probability: Probability of this decision; `None` if it is not finite.
        adversarial: Decision on the adversarial image.
        adversarial_probability: Probability of this decision; `None` if it is not finite.
        image: The clean image.
        adversarial_image: The adversarial image.
    """

    example: int
    attack: str
    label: int
    predicted: int
    predicted_probability: float | None
    adversarial: int
    adversarial_probability: float | None
    image: EncodedImage
    adversarial_image: EncodedImage


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """An audit; texts and pictures are made from it alone.

    Args:
        protocol: What was audited, and how.
        model: The model.
        attacks: The attacks.
        rows: Accuracy without attack, and at each ε of the protocol under each attack and in the
            worst case.
        labels: Class of each example.
        predicted: Decision on each clean example.
        pictures: Up to 8 examples that are fooled at ε.
        findings: From `diagnostics.check`.
        versions: What it was made with.
        seconds: Time that it took.
    """

    protocol: AuditProtocol
    model: AuditedModel
    attacks: tuple[AuditedAttack, ...]
    rows: tuple[AuditRow, ...]
    labels: tuple[int, ...]
    predicted: tuple[int, ...]
    pictures: tuple[Picture, ...]
    findings: tuple[Finding, ...]
    versions: dict[str, Any]
    seconds: float

    def __post_init__(self) -> None:
        names = (*self.protocol.attacks, WORST_CASE)
        wanted = [("none", 0.0), *itertools.product(names, self.protocol.epsilons)]
        if sorted((row.attack, row.epsilon) for row in self.rows) != sorted(wanted):
            raise ValueError("`rows` must hold each attack of the protocol at each ε once")

    def find_row(self, attack: str, epsilon: float | None = None) -> AuditRow:
        """Returns the row of an attack at ε, by default that of the protocol; 0: no attack."""
        epsilon = self.protocol.epsilon if epsilon is None else epsilon
        wanted = (attack, epsilon) if epsilon else ("none", 0.0)
        return next(row for row in self.rows if (row.attack, row.epsilon) == wanted)

    @property
    def clean(self) -> AuditRow:
        """The row without attack."""
        return self.find_row("none", 0.0)

    def to_json(self) -> str:
        """Returns the result as a JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "AuditResult":
        """Returns the result of a JSON text that `to_json` wrote.

        Raises:
            ValueError: If a part is missing, unknown or of another type.
        """
        try:
            result: AuditResult = decode(cls, json.loads(text), "it")
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return result


def read_audit(folder: Path) -> AuditResult | None:
    """Reads the audit in a folder.

    Args:
        folder: Folder of an audit.

    Returns:
        The result, or `None` if there is no `audit.json`.

    Raises:
        ValueError: If the file is damaged or of another version.

    Example:
        ```python
        from hr_keras import audit

        if (result := audit.read_audit("runs/audit_model_mnist10k_0.1")) is not None:
            print(result.find_row("worst_case").accuracy)
        ```
    """
    path = pathlib.Path(folder) / "audit.json"
    if not path.exists():
        return None
    try:
        return AuditResult.from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not a result of this version: {error}. Delete it to do it again."
        ) from error
