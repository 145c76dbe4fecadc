"""What is timed and attacked: the paper's two networks, briefly trained, and their images."""

import keras
import numpy as np

from hr_keras import datasets
from hr_keras.models import mnist_cnn, resnet8


def subject(name, n):
    """A classifier that ends in logits, `n` images and labels; the digits repeat beyond 10,000.

    Two epochs over 2,000 digits: right more often than not, and not saturated, so that every
    library has a gradient to take the sign of.
    """
    images, labels = digits(max(n, 2000))
    keras.utils.set_random_seed(0)
    if name == "ResNet-8":
        images = np.tile(np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))), (1, 1, 1, 3))
        model = resnet8(images.shape[1:], classifier_activation=None, seed=0)
    else:
        model = mnist_cnn(images.shape[1:], classifier_activation=None, seed=0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # its statistics would not settle in so few steps
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(images[:2000], labels[:2000], batch_size=32, epochs=2, verbose=0)
    return model, images[:n], labels[:n]


def digits(n):
    """The first `n` of the 10,000 digits, repeated where `n` is larger."""
    splits = datasets.load("mnist10k")
    images = np.concatenate([split.images for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    repeats = -(-n // len(images))
    return np.tile(images, (repeats, 1, 1, 1))[:n], np.tile(labels, repeats)[:n]
