"""What is timed and attacked: the paper's two networks and others, briefly trained, and images."""

import keras
import numpy as np
from keras import layers

from hr_keras import HRLoss, datasets
from hr_keras.attacks import PGD
from hr_keras.models import mnist_cnn, resnet8

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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
    settling(model).compile(keras.optimizers.Adam(1e-3), CE)
    model.fit(images[:2000], labels[:2000], batch_size=32, epochs=2, verbose=0)
    return model, images[:n], labels[:n]


def settling(model):
    """The model, with a batch normalisation whose statistics settle in few steps."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    return model


def digits(n):
    """The first `n` of the 10,000 digits, repeated where `n` is larger."""
    splits = datasets.load("mnist10k")
    images = np.concatenate([split.images for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    repeats = -(-n // len(images))
    return np.tile(images, (repeats, 1, 1, 1))[:n], np.tile(labels, repeats)[:n]


def cnn():
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(16, 4, 2, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(32, 4, 2, padding="same", activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def mlp():
    inputs = keras.Input((28, 28, 1))
    x = layers.Flatten()(inputs)
    for _ in range(2):
        x = layers.Dense(128, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def small_resnet():
    return settling(resnet8((16, 16, 3), classifier_activation=None, seed=0))


def in_colour(images):
    """Digits at half the size, padded, in three channels."""
    halved = images.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    return np.repeat(np.pad(halved, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, axis=-1)


def fit(model, images, labels, loss=CE, epochs=3):
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)


def fit_adversarially(model, images, labels, epsilon=0.1, epochs=4):
    """After an epoch without, each batch is attacked by PGD before the model learns it."""
    fit(model, images, labels, epochs=1)
    attack = PGD(epsilon, n_iter=7, stop_early=False)
    for start in np.tile(np.arange(0, len(images) - 99, 100), epochs):
        batch = slice(start, start + 100)
        model.train_on_batch(attack(model, images[batch], labels[batch]), labels[batch])


# what to build, how to train it
CLASSIFIERS = {
    "CNN, CE": (cnn, fit),
    "CNN, HR": (cnn, lambda *data: fit(*data, loss=HRLoss(1.6, from_logits=True))),
    "CNN, adversarial": (cnn, fit_adversarially),
    "MLP": (mlp, fit),
    "ResNet-8, colour": (small_resnet, lambda *data: fit(*data, epochs=6)),
}


def classifier(name, n, seed=0):
    """A trained classifier, and n test images that it gets right, with their labels."""
    data = datasets.load("mnist10k")
    build, train = CLASSIFIERS[name]
    prepare = in_colour if name.endswith("colour") else np.asarray
    keras.utils.set_random_seed(seed)
    model = build()
    train(model, prepare(data.train.images[:4000]), data.train.labels[:4000])
    images, labels = prepare(data.test.images[: 2 * n]), data.test.labels[: 2 * n]
    right = np.flatnonzero(model.predict(images, verbose=0).argmax(axis=-1) == labels)[:n]
    return model, images[right], labels[right]


def save_subject(folder, model, images, labels):
    """Writes a classifier and its images where another process can read them."""
    model.save(folder / "model.keras")
    np.savez(folder / "images.npz", images=images, labels=labels)


def load_subject(folder):
    """What `save_subject` wrote."""
    model = keras.models.load_model(folder / "model.keras", compile=False)
    with np.load(folder / "images.npz") as arrays:
        return model, arrays["images"], arrays["labels"]
