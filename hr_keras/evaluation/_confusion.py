"""Soft decisions of a classifier, and their mean for each class."""

from typing import Any

import keras
import numpy as np

from hr_keras._core.attack_view import gather_inputs, split_inputs
from hr_keras._core.checks import check_batch_size
from hr_keras._core.compiled import compiled, in_batches
from hr_keras._core.examples import KEYS, Chunk, Examples, Keys, Preprocess, as_array
from hr_keras._core.logits import classifier_output
from hr_keras.attacks._task import build_predict, check_labels
from hr_keras.evaluation._chunks import show_progress
from hr_keras.evaluation._spread import spread

__all__ = ["confusion_matrix", "log_probabilities"]


def log_probabilities(model: keras.Model, images: Any, batch_size: int = 256) -> np.ndarray:
    """Computes a classifier's soft decisions from its logits: nothing is clipped or saturates.

    ```
    log q_k = z_k − log Σ_j exp(z_j)
    ```

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point.
        batch_size: Examples in one compiled step. Default 256.

    Returns:
        Log-probabilities, float64 `(n, classes)`, in nats.

    Raises:
        ValueError: If the model is no classifier.

    Example:
        ```python
        from hr_keras import evaluation

        predicted = evaluation.log_probabilities(model, x_test).argmax(axis=-1)
        ```
    """
    attacked, others = split_inputs(model, images)
    return _log_probabilities(model, as_array(attacked), others, check_batch_size(batch_size))


def _log_probabilities(
    model: keras.Model,
    images: np.ndarray,
    others: tuple[np.ndarray, ...],
    batch_size: int,
    fill: bool = False,
) -> np.ndarray:
    classifier_output(model, images)
    step = compiled(model, "predict", build_predict)
    unused = np.zeros(len(images), "int32")
    (found,) = in_batches(step, images, unused, batch_size, per_example=others, fill=fill)
    logits = found.astype("float64")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def confusion_matrix(
    model: keras.Model,
    images: Any,
    labels: Any = None,
    batch_size: int = 256,
    *,
    preprocess: Preprocess = None,
    keys: Keys = KEYS,
    progress: bool = False,
) -> np.ndarray:
    """Computes the semi-empirical confusion matrix: mean soft decisions for each class.

    ```
    C[ŷ, y] = p(ŷ|y) = Σ_i p_i(y) q(ŷ|x_i) / Σ_i p_i(y)
    ```

    Rows are the classifier's decisions ŷ, columns the true classes y. "Semi-empirical": the
    images are a sample, but the decision is the whole softmax, not its largest entry alone.

    Under a `tf.distribute` strategy that the model was built in, examples are spread over its
    devices, with the same result. With several workers, every worker must make this call; if one
    ends, the others raise a `tf.errors.UnavailableError` within a minute.

    Args:
        model: A Keras classifier.
        images: `(n, ...)` floating point, adversarial or not; or a batched
            `tf.data.Dataset` or `keras.utils.PyDataset` of (images, labels), of which a few batches
            are in memory. Whole numbers in a dataset, such as uint8, become float32.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`. `None` for a
            dataset.
        batch_size: Examples in one compiled step. Default 256.
        preprocess: Function from a batch of images to a batch of images. Default `None`.
        keys: Names of images and labels if the elements of a dataset are dicts. Default
            `("image", "label")`.
        progress: Whether to show a progress bar with the time left. Default `False`.

    Returns:
        Float64 `(classes, classes)`. Each column sums to 1; that of a class without images is
        NaN.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - "A novel loss to train DNNs", section 3

    Example:
        ```python
        from hr_keras import evaluation
        from hr_keras.attacks import FGSM

        adversarial = FGSM(0.1)(model, x_test, y_test)
        matrix = evaluation.confusion_matrix(model, adversarial, y_test)
        distance = np.linalg.norm(np.eye(10) - matrix)  # 0: always right, and certain of it
        ```
    """
    batch_size = check_batch_size(batch_size)

    def add_up(chunk: Chunk) -> dict[str, np.ndarray]:
        attacked, others = split_inputs(model, chunk.images)
        _check_finite(attacked, chunk.first_index)
        log_q = _log_probabilities(model, attacked, others, batch_size, not chunk.is_whole)
        probabilities, classes = np.exp(log_q), log_q.shape[-1]
        found = check_labels(chunk.labels, len(log_q), classes, chunk.first_index)
        weights = np.eye(classes)[found] if found.ndim == 1 else found.astype("float64")
        return {"sums": probabilities.T @ weights, "totals": weights.sum(axis=0)}

    examples = Examples.of(gather_inputs(model, images), labels, preprocess, keys)
    sums: Any = 0.0
    totals: Any = 0.0
    with show_progress(progress) as show:
        for chunk, found in spread(add_up, examples.read(batch_size), model):
            sums = sums + found["sums"]
            totals = totals + found["totals"]
            show(chunk)
    with np.errstate(invalid="ignore"):
        matrix: np.ndarray = sums / totals
    return matrix


def _check_finite(images: np.ndarray, first_index: int) -> None:
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            "`images` must be finite. Received: an infinite value or NaN, the first in example "
            f"{first_index + int(np.argmin(finite))}"
        )
