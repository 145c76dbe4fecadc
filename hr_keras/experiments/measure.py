"""What is measured on a trained model, once, so that nothing that draws needs the model."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from hr_keras import datasets, evaluation, training
from hr_keras._core import information
from hr_keras._core.checks import check_epsilons
from hr_keras.attacks import FGSM
from hr_keras.attacks.objectives import ROUTES
from hr_keras.attacks.worst_case import check_attack_name, make_attack
from hr_keras.audit.load import load_model
from hr_keras.datasets import Dataset, Split
from hr_keras.experiments.protocol import ATTACK_OBJECTIVES, Protocol
from hr_keras.experiments.result import Accuracy, Confusion, ErrorTerms, Result
from hr_keras.experiments.run_folder import RunFolder

# Orders at which the divergence is kept; the tightest bound of a range is read off it.
UPPER_ALPHAS = (
    1.01, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8,
    2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 100.0,
)  # fmt: skip
LOWER_ALPHAS = (2.1, 2.25, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0)
LABEL_SMOOTHING = 0.1
_PART = 16_384  # images
_NO_ATTACK: dict[str, Any] = {"attack": "none", "through": "none", "epsilon": 0.0}


def measure_fgsm(protocol: Protocol, model: keras.Model, split: Split) -> tuple[Accuracy, ...]:
    """Computes accuracy without attack and under FGSM, for each objective, route and ε.

    Args:
        protocol: The protocol that the model was trained by.
        model: A Keras classifier.
        split: Its images in [0, 1].

    Returns:
        One `Accuracy` without attack, and one for each route, objective and ε > 0.
    """
    shared: dict[str, Any] = {"split": protocol.evaluated_on, "examples": len(split.images)}
    epsilons = protocol.attack_epsilons
    found: list[Accuracy] = []
    for through in ROUTES:
        swept = evaluation.sweep(model, *split, ATTACK_OBJECTIVES, (0.0, *epsilons), through)
        if not found:
            clean = swept.accuracy[ATTACK_OBJECTIVES[0], 0.0]
            found.append(Accuracy(**_NO_ATTACK, accuracy=clean, **shared))
        found += [
            Accuracy(
                attack=f"fgsm_{objective}",
                through=through,
                epsilon=epsilon,
                accuracy=swept.accuracy[objective, epsilon],
                zero_gradient_share=swept.zero_gradient_share[objective],
                **shared,
            )
            for objective in ATTACK_OBJECTIVES
            for epsilon in epsilons
        ]
    return tuple(found)


def measure_confusions(
    protocol: Protocol, model: keras.Model, split: Split
) -> tuple[Confusion, ...]:
    """Computes the semi-empirical confusion matrix without attack and under FGSM with CE.

    Costs one forward pass of the clean images, and two forward passes and one backward pass for
    each route and ε > 0. The images of all ε at once would need less, and much memory.

    Args:
        protocol: The protocol that the model was trained by.
        model: A Keras classifier.
        split: Its images in [0, 1].

    Returns:
        One `Confusion` without attack, and one for each route and ε > 0.
    """
    found = [Confusion(**_NO_ATTACK, matrix=_confusion_rows(model, *split))]
    for through in ROUTES:
        for epsilon in protocol.attack_epsilons:
            adversarial = FGSM(epsilon, "ce", through)(model, *split)
            rows = _confusion_rows(model, adversarial, split.labels)
            found.append(Confusion("fgsm_ce", through, epsilon, rows))
    return tuple(found)


def _confusion_rows(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> tuple[tuple[float | None, ...], ...]:
    """Nine decimals, so that a column still sums to 1 within 1e-8."""
    matrix = evaluation.confusion_matrix(model, images, labels)
    return tuple(
        tuple(None if np.isnan(value) else round(value, 9) for value in row)
        for row in matrix.tolist()
    )


def measure_error_terms(
    model: keras.Model, split: str, images: np.ndarray, labels: np.ndarray, alphas: Iterable[float]
) -> ErrorTerms:
    """Computes the terms of Proposition 1 for the empirical distribution of some data.

    Args:
        model: A Keras classifier.
        split: Name of the split.
        images: `(n, ...)`, uint8 or in [0, 1].
        labels: Integers `(n,)`.
        alphas: Orders of the divergence.

    Returns:
        The terms.
    """
    log_q = _log_probabilities(model, images)
    classes = log_q.shape[-1]
    decisions = log_q.argmax(axis=-1)
    soft = (1 - LABEL_SMOOTHING) * np.eye(classes)[labels] + LABEL_SMOOTHING / classes
    return ErrorTerms(
        split=split,
        examples=len(labels),
        classes=classes,
        error=float(np.mean(decisions != labels)),
        uncertainty=float(np.mean(-np.expm1(log_q.max(axis=-1)))),
        entropy=float(np.mean(information.conditional_entropy(log_q))),
        divergence=tuple((alpha, _divergence(labels, log_q, alpha)) for alpha in alphas),
        label_smoothing=LABEL_SMOOTHING,
        smoothed_error=float(1 - np.mean(soft[np.arange(len(soft)), decisions])),
        reversed_divergence=tuple(
            (alpha, _reversed_divergence(soft, log_q, alpha)) for alpha in LOWER_ALPHAS
        ),
    )


def measure_all_error_terms(
    protocol: Protocol, model: keras.Model, data: Dataset
) -> tuple[ErrorTerms, ...]:
    """Computes the terms of Proposition 1 for each split; see `measure_error_terms`.

    Args:
        protocol: The protocol that the model was trained by; its α is one of the orders.
        model: A Keras classifier.
        data: Its training images may be uint8.
    """
    alphas = sorted({*UPPER_ALPHAS, protocol.alpha})
    return tuple(
        measure_error_terms(model, name, split.images, split.labels, alphas)
        for name, split in data._asdict().items()
    )


def _log_probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Takes a part of the images at a time: in float32 they are four times as large."""
    parts = [images[first : first + _PART] for first in range(0, len(images), _PART)]
    return np.concatenate(
        [evaluation.log_probabilities(model, datasets.to_unit_interval(part)) for part in parts]
    )


def _divergence(labels: np.ndarray, log_q: np.ndarray, alpha: float) -> float:
    """R = α·D_α(p_XY‖p_XŶ)."""
    return _log_mean_exp(information.renyi_exponent(labels, log_q, alpha)) / (alpha - 1)


def _reversed_divergence(labels: np.ndarray, log_q: np.ndarray, alpha: float) -> float:
    """R' = (α − 1)·D_(α−1)(p_XŶ‖p_XY)."""
    exponents = information.reversed_renyi_exponent(labels, log_q, alpha - 1)
    return _log_mean_exp(exponents) / (alpha - 2)


def _log_mean_exp(exponents: np.ndarray) -> float:
    exponents = np.asarray(exponents)
    return float(information.log_mean_exp(exponents, np.ones_like(exponents)))


def load_trained_model(folder: RunFolder, method: str, realization: int) -> keras.Model:
    """Loads the trained model of a result, in Keras' safe mode.

    Args:
        folder: A run folder.
        method: Name of the method.
        realization: Number of the realization.

    Raises:
        ValueError: If the model is missing or damaged.
    """
    path = folder.model_path(method, realization)
    if not path.exists():
        raise ValueError(
            f"{path} is missing, and a stronger attack needs the trained model. Put it there, or "
            f"delete {folder.result_path(method, realization)} to train it again."
        )
    return load_model(path)


def measure_attack(
    folder: RunFolder,
    attack: str,
    examples: int | None = None,
    data_dir: str | pathlib.Path | None = None,
    epsilons: Iterable[float] = (),
) -> None:
    """Attacks the trained models of a run folder, and adds the accuracies to their results.

    A model whose result has this attack at this ε on as many examples is not attacked again. The
    devices of the protocol's strategy share the examples. With several workers all of them must
    make this call, and the chief writes.

    Args:
        folder: A run folder whose models are trained.
        attack: A name of `attacks.ATTACK_NAMES`.
        examples: How many test images, the first; `None` for all.
        data_dir: Folder of the data sets, see `datasets.load`.
        epsilons: Sizes of the attack, greater than 0; by default each of the protocol.

    Raises:
        ValueError: For an unknown attack or a size that is not greater than 0, or if a model is
            missing.
    """
    check_attack_name(attack)
    sizes = check_epsilons(tuple(epsilons) or folder.protocol.epsilons)
    if epsilons and min(sizes) <= 0:
        raise ValueError(f"The size of an attack must be greater than 0. Received: {epsilons}")
    strategy = training.get_strategy(folder.protocol.strategy)
    training.from_chief(0, strategy)  # the chief has written all results
    results = folder.results()
    training.from_chief(0, strategy)  # all have read them
    for result in results:
        size = result.accuracies[0].examples
        count = min(examples or size, size)
        known = {(one.attack, one.examples, one.epsilon) for one in result.accuracies}
        missing = [one for one in sizes if one > 0 and (attack, count, one) not in known]
        if missing:
            found = _add_attack(folder, result, attack, count, missing, data_dir)
            if training.is_chief(strategy):
                folder.write_result(found)


def _add_attack(
    folder: RunFolder,
    result: Result,
    attack: str,
    examples: int,
    epsilons: list[float],
    data_dir: str | pathlib.Path | None,
) -> Result:
    protocol = folder.protocol
    with training.get_strategy(protocol.strategy).scope():
        model = load_trained_model(folder, result.method, result.realization)
    data = datasets.load(protocol.dataset, protocol.validation, result.seed, data_dir)
    images, labels = (array[:examples] for array in data.test)
    known = {(one.attack, one.examples) for one in result.accuracies}
    found: list[Accuracy] = []
    for epsilon in epsilons:
        robust = evaluation.robust_accuracy(model, images, labels, make_attack(attack, epsilon))
        if not found and ("none", len(images)) not in known:
            found.append(
                Accuracy("test", **_NO_ATTACK, examples=len(images), accuracy=robust.clean)
            )
        found.append(Accuracy("test", attack, "logits", epsilon, len(images), robust.worst_case))
    return dataclasses.replace(result, accuracies=(*result.accuracies, *found))
