"""What a result holds besides accuracies, so that pictures need no model.

Each measurement is made once, on a trained model, and kept in the realization's file; one
that an older file lacks is made from the saved model.
"""

import json

import numpy as np

from hr_keras import datasets, evaluation
from hr_keras._core import information
from hr_keras._core.files import write_atomically
from hr_keras.attacks import FGSM
from hr_keras.attacks.objectives import ROUTES
from hr_keras.audit import load

# Orders at which the divergence is kept; the tightest bound of a range is read off it.
UPPER_ALPHAS = (
    1.01, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8,
    2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 100.0,
)  # fmt: skip
LOWER_ALPHAS = (2.1, 2.25, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0)
LABEL_SMOOTHING = 0.1
_PART = 16_384  # images


def measure(protocol, model, data):
    """Every measurement of a trained model, as a dict that JSON can hold.

    Args:
        protocol: the `Protocol` that the model was trained by.
        model: a Keras classifier.
        data: a `datasets.Dataset`; its training images may be uint8.

    Returns:
        `{"confusion": …, "terms": …}`, see `confusion` and `terms`; the latter for each split.
    """
    alphas = sorted({*UPPER_ALPHAS, protocol.alpha})
    return {
        "confusion": confusion(protocol, model, data.test),
        "terms": {name: terms(model, *split, alphas) for name, split in data._asdict().items()},
    }


def confusion(protocol, model, split):
    """Semi-empirical confusion matrices under the CE attack, for each route and ε.

    Costs a forward pass of the clean images, and for each route and ε > 0 two forward and a
    backward pass: the adversarial images of all ε at once, from one gradient, would be the most
    memory that a realization holds.

    Returns:
        A list of `through, attack, epsilon, matrix`; in `matrix`, rows are decisions and
        columns true classes, a class without images has a column of `None`.
    """
    clean = _confusion(model, *split) if 0 in protocol.epsilons else None
    return [
        {
            "through": through,
            "attack": "ce",
            "epsilon": epsilon,
            "matrix": _attacked_confusion(model, split, epsilon, through) if epsilon else clean,
        }
        for through in ROUTES
        for epsilon in protocol.epsilons
    ]


def _attacked_confusion(model, split, epsilon, through):
    return _confusion(model, FGSM(epsilon, "ce", through)(model, *split), split.labels)


def _confusion(model, images, labels):
    return _rows(evaluation.confusion_matrix(model, images, labels))


def _rows(matrix):
    """Lists for JSON: nine decimals, so that a column still sums to 1 within 1e-8."""
    return [[None if np.isnan(v) else round(v, 9) for v in row] for row in matrix.tolist()]


def terms(model, images, labels, alphas=UPPER_ALPHAS):
    """The terms of Proposition 1 for the empirical distribution of some data.

    Args:
        model: a Keras classifier.
        images: `(n, ...)`, uint8 or in [0, 1].
        labels: class numbers `(n,)`.
        alphas: orders of the divergence.

    Returns:
        A dict: `examples`, `classes`, `error` P_e, `uncertainty` P_u, `entropy` H in nats,
        `divergence`: pairs `[α, R]` for `alphas`, in nats. `smoothed` is about the same
        images with soft labels, (1 − s)·label + s/M: `label_smoothing` s, `error`, and
        `reversed_divergence`: pairs `[α, R']` for `LOWER_ALPHAS`, see `bounds.lower_bound`.
    """
    log_q = _log_probabilities(model, images)
    classes = log_q.shape[-1]
    decisions = log_q.argmax(axis=-1)
    soft = (1 - LABEL_SMOOTHING) * np.eye(classes)[labels] + LABEL_SMOOTHING / classes
    return {
        "examples": len(labels),
        "classes": classes,
        "error": float(np.mean(decisions != labels)),
        "uncertainty": float(np.mean(-np.expm1(log_q.max(axis=-1)))),
        "entropy": float(np.mean(information.conditional_entropy(log_q))),
        "divergence": [[alpha, _divergence(labels, log_q, alpha)] for alpha in alphas],
        "smoothed": {
            "label_smoothing": LABEL_SMOOTHING,
            "error": float(1 - np.mean(soft[np.arange(len(soft)), decisions])),
            "reversed_divergence": [
                [alpha, _reversed_divergence(soft, log_q, alpha)] for alpha in LOWER_ALPHAS
            ],
        },
    }


def _log_probabilities(model, images):
    """Those of `evaluation`, of so many images at once that their float32 form stays small."""
    parts = [images[first : first + _PART] for first in range(0, len(images), _PART)]
    return np.concatenate(
        [evaluation.log_probabilities(model, datasets.to_unit_interval(part)) for part in parts]
    )


def _divergence(labels, log_q, alpha):
    """R = α·D_α(p_XY‖p_XŶ)."""
    exponents = information.renyi_exponent(labels, log_q, alpha)
    return _log_mean_exp(exponents) / (alpha - 1)


def _reversed_divergence(labels, log_q, alpha):
    """R' = (α − 1)·D_(α−1)(p_XŶ‖p_XY)."""
    exponents = information.reversed_renyi_exponent(labels, log_q, alpha - 1)
    return _log_mean_exp(exponents) / (alpha - 2)


def _log_mean_exp(exponents):
    exponents = np.asarray(exponents)
    return float(information.log_mean_exp(exponents, np.ones_like(exponents)))


def completed(protocol, result, part, folder, data_dir=None):
    """A result that holds a measurement.

    Where it is missing, it is made from the saved model and kept in the result's file.

    Args:
        protocol: the `Protocol` of the run folder.
        result: of `realization.run`.
        part: a key of what `measure` returns.
        folder: the run folder, which may hold the model.
        data_dir: where tensorflow-datasets has its data.

    Raises:
        ValueError: if neither the measurement nor the model is there.
    """
    if part in result:
        return result
    model = saved_model(result, folder, repr(part))
    data = datasets.load(protocol.dataset, protocol.validation, result["seed"], data_dir)
    result = {**result, **measure(protocol, model, data)}
    write_atomically(folder / f"{stem(result)}.json", result_json(result))
    return result


def stem(result):
    """Name of a result's file and of its model's, without the ending."""
    return f"realization-{result['index']}-{result['loss']}"


def saved_model(result, folder, missing):
    """The trained model of a result.

    Args:
        result: of `realization.run`.
        folder: the run folder.
        missing: what it is needed for, in words.

    Raises:
        ValueError: if it is not there.
    """
    path = folder / f"{stem(result)}.keras"
    if not path.exists():
        raise ValueError(
            f"{stem(result)}.json does not hold {missing}, and the model that it could be made "
            f"from, {path}, is not there. Put the model there, or delete "
            f"{folder / stem(result)}.json to train it again."
        )
    return load.load_model(path)


def result_json(result):
    """A realization's result as its file has it."""
    return json.dumps(result, indent=1, allow_nan=False) + "\n"
