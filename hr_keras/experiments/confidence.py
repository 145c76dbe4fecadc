"""How certain a trained model is, and what FGSM as published makes of a larger logit scale."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator

import keras
import numpy as np

from hr_keras import datasets, evaluation
from hr_keras._core import information
from hr_keras.attacks import PGD
from hr_keras.attacks.objectives import ROUTES
from hr_keras.datasets import Split
from hr_keras.experiments.logit_scale import find_logits_layer
from hr_keras.experiments.measure import load_trained_model
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.result import Confidence, ScaledAccuracy
from hr_keras.experiments.run_folder import RunFolder

FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
CONFIDENCES = (0.9, 0.99, 0.999)
_PGD_EXAMPLES = 100  # seconds for each model: `hr-keras table --attack` takes more


def measure_confidence(protocol: Protocol, model: keras.Model, split: Split) -> Confidence:
    """Measures how certain a model is, and its accuracy under PGD on the first 100 images.

    Args:
        protocol: The protocol that the model was trained by; gives each ε.
        model: A Keras classifier.
        split: Its images in [0, 1].
    """
    log_q = evaluation.log_probabilities(model, split.images)
    highest = np.sort(log_q, axis=-1)[:, -2:]
    median, high = np.quantile(highest[:, 1] - highest[:, 0], (0.5, 0.9))
    images, labels = (array[:_PGD_EXAMPLES] for array in split)
    return Confidence(
        examples=len(log_q),
        mean_confidence=compute_mean_confidence(log_q),
        median_logit_gap=float(median),
        high_logit_gap=float(high),
        log_loss=float(-log_q[np.arange(len(log_q)), split.labels].mean()),
        calibration_error=compute_calibration_error(log_q, split.labels),
        pgd=tuple(_attack_with_pgd(protocol, model, images, labels)),
        pgd_examples=len(images),
    )


def _attack_with_pgd(
    protocol: Protocol, model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[float, float]]:
    for epsilon in protocol.attack_epsilons:
        attack = PGD(epsilon, "margin", n_iter=20)
        yield epsilon, evaluation.robust_accuracy(model, images, labels, attack).worst_case


def compute_mean_confidence(log_q: np.ndarray, factor: float = 1.0) -> float:
    """Computes the mean of the largest probability, after the logits are multiplied.

    Args:
        log_q: `(n, classes)` log-probabilities.
        factor: Of the logits.
    """
    scaled = np.asarray(information.log_probabilities(factor * log_q, from_logits=True))
    return float(np.exp(scaled.max(axis=-1)).mean())


def compute_calibration_error(log_q: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Computes the expected calibration error: Σ_b n_b/n · |accuracy_b − confidence_b|.

    Args:
        log_q: `(n, classes)` log-probabilities.
        labels: Class numbers `(n,)`.
        bins: Of the largest probability, of equal width, each with its upper end.

    References:
        - Guo et al. 2017, "On Calibration of Modern Neural Networks"
    """
    confidence = np.exp(log_q.max(axis=-1))
    correct = log_q.argmax(axis=-1) == labels
    numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(numbers, correct - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def find_factor(log_q: np.ndarray, confidence: float) -> float | None:
    """Finds the factor of the logits that gives a mean confidence.

    Args:
        log_q: `(n, classes)` log-probabilities.
        confidence: Between 1/classes and 1.

    Returns:
        The factor; `None` if none from 1e-4 to 1e6 gives that confidence.
    """
    from scipy.optimize import brentq

    def excess(log_factor: float) -> float:
        return compute_mean_confidence(log_q, math.exp(log_factor)) - confidence

    low, high = math.log(1e-4), math.log(1e6)
    if not excess(low) < 0 < excess(high):
        return None
    return math.exp(brentq(excess, low, high))


def measure_saturation(
    folder: RunFolder, examples: int | None = None, data_dir: str | pathlib.Path | None = None
) -> None:
    """Attacks the trained models of a run folder at several scales of their logits.

    FGSM with CE through each route, at each of `FACTORS` and where the mean confidence is each of
    `CONFIDENCES`. The accuracies are added to the results. A model whose result has them on as
    many examples already is not attacked again.

    Args:
        folder: A run folder whose models are trained.
        examples: How many test images, the first; `None` for as many as before, or all.
        data_dir: Folder of the data sets, see `datasets.load`.

    Raises:
        ValueError: If a model is missing, or its logits come from another layer than a `Dense`.
    """
    protocol, results = folder.protocol, folder.results()
    before = [result.saturation[0].examples for result in results if result.saturation]
    for result in results:
        size = result.accuracies[0].examples
        count = min(examples or max(before, default=size), size)
        if result.saturation and result.saturation[0].examples == count:
            continue
        model = load_trained_model(folder, result.method, result.realization)
        test = datasets.load(protocol.dataset, protocol.validation, result.seed, data_dir).test
        split = Split(*(array[:count] for array in test))
        found = tuple(_attack_scaled(protocol, model, split))
        folder.write_result(dataclasses.replace(result, saturation=found))


def _attack_scaled(
    protocol: Protocol, model: keras.Model, split: Split
) -> Iterator[ScaledAccuracy]:
    """The weights change and the layers do not, so nothing is compiled for another factor."""
    log_q = evaluation.log_probabilities(model, split.images)
    layer = find_logits_layer(model)
    weights = layer.get_weights()
    wanted: list[tuple[float | None, float | None]] = [(factor, None) for factor in FACTORS]
    wanted += [(find_factor(log_q, confidence), confidence) for confidence in CONFIDENCES]
    epsilons = protocol.attack_epsilons
    for factor, confidence in wanted:
        if factor is None:
            continue
        layer.set_weights([factor * array for array in weights])
        for through in ROUTES:
            swept = evaluation.sweep(model, *split, ("ce",), epsilons, through)
            for epsilon in epsilons:
                yield ScaledAccuracy(
                    factor=factor,
                    wanted_confidence=confidence,
                    mean_confidence=compute_mean_confidence(log_q, factor),
                    through=through,
                    epsilon=epsilon,
                    examples=len(split.images),
                    accuracy=swept.accuracy["ce", epsilon],
                    zero_gradient_share=swept.zero_gradient_share["ce"],
                )
