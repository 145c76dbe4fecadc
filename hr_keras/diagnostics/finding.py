"""What a check found, and which differences count."""

import numpy as np

from hr_keras._core.checks import Bounds as Bounds
from hr_keras._core.finding import Finding as Finding
from hr_keras._core.finding import Verdict as Verdict
from hr_keras.attacks import Task

AUTOATTACK = (
    "Croce & Hein 2020, 'Reliable evaluation of adversarial robustness with an ensemble of "
    "diverse parameter-free attacks', and the checks in its code"
)
CARLINI = "Carlini et al. 2019, 'On Evaluating Adversarial Robustness'"
ATHALYE = "Athalye, Carlini & Wagner 2018, 'Obfuscated Gradients Give a False Sense of Security'"
PINTOR = "Pintor et al. 2022, 'Indicators of Attack Failure'"


def judge(
    name: str,
    measured: float,
    threshold: float,
    meaning: str,
    source: str,
    above: Verdict = "fault",
) -> Finding:
    """Returns a finding that is `"ok"` up to the threshold and `above` otherwise."""
    verdict = above if measured > threshold else "ok"
    return Finding(name, float(measured), float(threshold), verdict, meaning, source)


def not_applicable(name: str, meaning: str, source: str) -> Finding:
    """Returns the finding of a check that has nothing to measure here."""
    return Finding(name, None, None, "not applicable", meaning, source)


def find_tolerance(share: float, n: int) -> float:
    """Returns the largest difference between two accuracies that does not count yet.

    Args:
        share: The difference of accuracy that does not matter.
        n: Number of examples. A single example never counts.
    """
    return max(share, 1.5 / n)


def find_chance_level(classes: int, n: int) -> float:
    """Returns what guessing reaches on n examples: 1/classes plus three standard errors."""
    return 1 / classes + 3 * (1 / classes * (1 - 1 / classes) / n) ** 0.5


def predict_logits(task: Task, images: np.ndarray) -> np.ndarray:
    """Returns the logits of other images of a task, in one forward pass."""
    return np.asarray(task.replace(images=images, logits=None).predict().logits)


def find_largest_difference(passes: np.ndarray) -> float:
    """Returns the largest difference of a logit between passes, as a share of their range.

    Args:
        passes: `(passes, n, classes)`.
    """
    passes = np.nan_to_num(passes.astype("float64"), posinf=0.0, neginf=0.0)
    spread = np.ptp(passes[0], axis=-1).mean()
    return float(np.ptp(passes, axis=0).max() / max(spread, 1e-12))


def format_percent(share: float) -> str:
    """Formats a share: `73 %`, `0.4 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == round(value) else f"{value:.2g} %"
