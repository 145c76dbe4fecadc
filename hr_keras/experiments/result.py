"""What is kept of one trained model: typed values, and their JSON."""

import dataclasses
import json
from typing import Any

from hr_keras._core.decode import decode
from hr_keras.experiments.protocol import Split

# Of a history: ‖∂L/∂weights‖ of the losses of these methods, whatever trains the weights.
GRADIENT_KEYS = {name: f"gradient_norm_{name}" for name in ("ce", "hr")}


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Accuracy of one model under one attack.

    Args:
        split: `"test"` or `"validation"`.
        attack: `"none"`, `"fgsm_ce"`, `"fgsm_hr"`, or a name of `attacks.ATTACK_NAMES`.
        through: Route of the gradient, `"logits"` or `"probabilities"`; `"none"` without attack.
        epsilon: Size of the attack; 0 without attack.
        examples: How many examples of the split, the first.
        accuracy: Share of them that is classified correctly.
        zero_gradient_share: Share of them whose gradient is exactly zero; `None` where the attack
            does not tell.
    """

    split: Split
    attack: str
    through: str
    epsilon: float
    examples: int
    accuracy: float
    zero_gradient_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Semi-empirical confusion matrix of one model under one attack, on the test split.

    Args:
        attack: As in `Accuracy`.
        through: As in `Accuracy`.
        epsilon: As in `Accuracy`.
        matrix: `matrix[ŷ][y]` is p(ŷ|y); `None` for a class y without images.
    """

    attack: str
    through: str
    epsilon: float
    matrix: tuple[tuple[float | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class ErrorTerms:
    """Terms of Proposition 1 for one model on one split.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        examples: How many.
        classes: How many.
        error: P_e, share of wrong decisions.
        uncertainty: P_u, one minus the mean largest probability.
        entropy: H in nats.
        divergence: Pairs (α, R), R in nats.
        label_smoothing: s of the soft labels (1 − s)·label + s/M of the next two.
        smoothed_error: P_e for these labels.
        reversed_divergence: Pairs (α, R'), R' in nats; see `error_bounds.lower_bound`.
    """

    split: str
    examples: int
    classes: int
    error: float
    uncertainty: float
    entropy: float
    divergence: tuple[tuple[float, float], ...]
    label_smoothing: float
    smoothed_error: float
    reversed_divergence: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How certain one model is on the test split, and what PGD leaves of its accuracy.

    Args:
        examples: How many test images.
        mean_confidence: Mean of the largest probability.
        median_logit_gap: Median of the largest logit minus the second largest.
        high_logit_gap: 90 % quantile of it.
        log_loss: Mean of −log q(y), the negative log-likelihood, in nats.
        calibration_error: Expected calibration error, 15 bins.
        pgd: Pairs (ε, accuracy) under PGD on the margin, 20 steps.
        pgd_examples: How many test images PGD is made on, the first.
    """

    examples: int
    mean_confidence: float
    median_logit_gap: float
    high_logit_gap: float
    log_loss: float
    calibration_error: float
    pgd: tuple[tuple[float, float], ...]
    pgd_examples: int


@dataclasses.dataclass(frozen=True)
class ScaledAccuracy:
    """Accuracy of one model under FGSM with CE after its logits are multiplied by a factor.

    Args:
        factor: c.
        wanted_confidence: Mean confidence that c was chosen for; `None` for a c of the grid.
        mean_confidence: With the multiplied logits.
        through: As in `Accuracy`.
        epsilon: As in `Accuracy`.
        examples: How many test images, the first.
        accuracy: Share of them that is classified correctly.
        zero_gradient_share: Share of them whose gradient is exactly zero.
    """

    factor: float
    wanted_confidence: float | None
    mean_confidence: float
    through: str
    epsilon: float
    examples: int
    accuracy: float
    zero_gradient_share: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One trained model and everything measured on it.

    Args:
        method: Name of the method that trained it, see `methods.METHODS`.
        realization: Number of the repetition, from 0.
        seed: Seed of split, initial weights and data order.
        history: One list for each key of Keras' logs, one value for each epoch; `None` on epochs
            without a value.
        accuracies: Clean and under attack.
        confusions: On the test split; empty if the protocol evaluates on the validation split.
        error_terms: For each split; empty as `confusions`.
        seconds: Time for training and measuring.
        versions: What it was made with, see `hr_keras._core.runtime.collect_versions`.
        confidence: On the test split; `None` if it was never measured.
        saturation: For each factor, route and ε; empty until `hr-keras saturation` measures it.
    """

    method: str
    realization: int
    seed: int
    history: dict[str, list[float | None]]
    accuracies: tuple[Accuracy, ...]
    confusions: tuple[Confusion, ...]
    error_terms: tuple[ErrorTerms, ...]
    seconds: float
    versions: dict[str, Any]
    confidence: Confidence | None = None
    saturation: tuple[ScaledAccuracy, ...] = ()

    def to_json(self) -> str:
        """Returns the result as a JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Result":
        """Returns the result of a JSON text that `to_json` wrote.

        Raises:
            ValueError: If a part is missing, unknown or of another type.
        """
        try:
            values = json.loads(text)
            if isinstance(values, dict):  # saved before these were measured, without the model
                values = {"confidence": None, "saturation": []} | values
            result: Result = decode(cls, values, "it")
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if len({len(values) for values in result.history.values()}) > 1:
            raise ValueError("`history` must hold lists of one length")
        return result
