"""The data of a protocol, and the `tf.data` pipelines that feed `fit`."""

import math
import pathlib

import numpy as np
import tensorflow as tf

from hr_keras import datasets
from hr_keras.datasets import Dataset, Split
from hr_keras.experiments.protocol import Protocol

_LABEL_NOISE = 1  # apart from what else is drawn by the same seed


def load_data(protocol: Protocol, seed: int, data_dir: str | pathlib.Path | None = None) -> Dataset:
    """Loads the data of a protocol.

    Training images keep their stored type: they take most of the memory. The test split is
    `None` where the protocol evaluates on the validation split.

    Args:
        protocol: A `Protocol`.
        seed: Determines the validation split, and which labels are wrong.
        data_dir: Folder of the data sets, see `datasets.load`.
    """
    data = datasets.load(protocol.dataset, protocol.validation, seed, data_dir, dtype=None)
    data = add_label_noise(data, protocol.label_noise, seed)
    data = data._replace(validation=_decode(data.validation))
    if protocol.evaluated_on == "test":
        return data._replace(test=_decode(data.test))
    return data._replace(test=None)  # type: ignore[arg-type]  # out of reach


def add_label_noise(data: Dataset, share: float, seed: int) -> Dataset:
    """Replaces labels of the training and validation splits by another class, each as likely.

    Args:
        data: Its test split is returned as it is.
        share: Of the labels of each split, in [0, 1). So many are wrong, rounded.
        seed: Determines which.

    Raises:
        ValueError: If no label is left of the last class, which a model would then not have.
    """
    if share == 0:
        return data
    generator = np.random.default_rng([seed, _LABEL_NOISE])
    train, validation = (
        Split(split.images, _replace_labels(split.labels, share, data.num_classes, generator))
        for split in (data.train, data.validation)
    )
    noisy = Dataset(train, validation, data.test)
    if noisy.num_classes != data.num_classes:
        raise ValueError(
            f"With `label_noise` {share:g} and seed {seed} no label of class "
            f"{data.num_classes - 1} is left. Choose another seed, or more data."
        )
    return noisy


def _replace_labels(
    labels: np.ndarray, share: float, classes: int, generator: np.random.Generator
) -> np.ndarray:
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    found = labels.copy()
    found[chosen] += generator.integers(1, classes, len(chosen), labels.dtype)
    return found % classes


def _decode(split: Split) -> Split:
    return Split(datasets.to_unit_interval(split.images), split.labels)


def count_steps(split: Split, batch_size: int) -> int:
    """Returns the number of batches in an epoch, the last of which may be short."""
    return math.ceil(len(split.images) / batch_size)


def compute_mean_image(images: np.ndarray) -> np.ndarray:
    """Returns the mean image in [0, 1], float64, of images that may be uint8."""
    mean = images.mean(axis=0, dtype="float64")
    return mean / 255 if images.dtype == "uint8" else mean


def make_training_batches(
    split: Split, batch_size: int, seed: int, first_epoch: int, epochs: int
) -> tf.data.Dataset:
    """Makes the batches of the epochs `first_epoch` … `epochs` − 1, each in a different order.

    The order depends on (seed, epoch) alone, so that resumed training sees the same batches.
    (`fit` on arrays, after `set_random_seed`, uses one order in all epochs.)

    Args:
        split: Its images may be uint8: they stay so until their batch is made.
        batch_size: Examples in a batch; the last batch of an epoch may be short.
        seed: Of the order.
        first_epoch: Number of the first epoch.
        epochs: Number of the epoch after the last.

    Returns:
        A data set of `(images, labels)`, images in [0, 1].
    """
    images, labels = map(tf.constant, split)
    # Captured, not a constant of the graph: TensorFlow would turn the division into a product
    # with 1/255, whose last bits differ.
    highest_pixel = tf.constant(255.0)

    def make_order(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=key)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    def make_batch(chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.gather(images, chosen)
        if pixels.dtype == tf.uint8:
            pixels = tf.cast(pixels, "float32") / highest_pixel
        return pixels, tf.gather(labels, chosen)

    epochs_to_do = tf.data.Dataset.range(first_epoch, epochs)
    return _without_tuner(epochs_to_do.flat_map(make_order).map(make_batch).prefetch(2))


def make_validation_batches(split: Split) -> tf.data.Dataset:
    """Makes batches of a split in order; Keras would make a tuned data set of arrays."""
    return _without_tuner(tf.data.Dataset.from_tensor_slices(tuple(split)).batch(256))


def _without_tuner(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turns TensorFlow's tuner off: there is nothing to tune, and it costs time.

    Its thread sleeps up to a minute, and whoever ends an iterator may have to wait until it
    wakes: 10 epochs of 15 s ended after 20.5 s.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
