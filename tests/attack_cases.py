"""Attacks, models and data that several tests of attacks use."""

import keras
import numpy as np
from conftest import linear_model

from hr_keras.attacks import APGD, FAB, PGD, MomentumPGD, Noise, Square

UNBOUNDED = (-1e3, 1e3)
NORMS = ("linf", "l2")
MODEL = linear_model(1.0)


ATTACKS = {
    "pgd": lambda epsilon, **k: PGD(epsilon, "margin", n_iter=5, **k),
    "mifgsm": lambda epsilon, **k: MomentumPGD(epsilon, n_iter=5, **k),
    "apgd": lambda epsilon, **k: APGD(epsilon, n_iter=8, **k),
    "apgd_dlr": lambda epsilon, **k: APGD(epsilon, "dlr", n_iter=8, **k),
    "apgd_t": lambda epsilon, **k: APGD(epsilon, "targeted_dlr", n_iter=8, **k),
    "fab": lambda epsilon, **k: FAB(epsilon, n_iter=5, **k),
    "square": lambda epsilon, **k: Square(epsilon, n_queries=30, **k),
    "noise": lambda epsilon, **k: Noise(epsilon, n_draws=10, **k),
}


def images_and_labels(n=40, shape=(2, 2, 3), classes=3):
    generator = np.random.default_rng(1)
    images = generator.uniform(0.3, 0.7, size=(n, *shape)).astype("float32")
    return images, generator.integers(classes, size=n)


def right(n=60, model=MODEL, seed=1):
    """Images in the middle of the pixel range, with the labels that the model gives them."""
    images = np.random.default_rng(seed).uniform(0.2, 0.8, (n, 2, 2, 3)).astype("float32")
    return images, np.asarray(model(images)).argmax(axis=-1)


def fooled(model, images, labels):
    return np.asarray(model(images)).argmax(axis=-1) != labels


def distances(model, images, labels, norm):
    """Distance of each image to the decision boundary of a linear model, in float64."""
    kernel, bias = (weight.astype("float64") for weight in model.get_weights())
    logits = images.reshape(len(images), -1).astype("float64") @ kernel + bias
    rows = np.arange(len(images))
    nearest = np.full(len(images), np.inf)
    for k in range(kernel.shape[1]):
        w = kernel[:, [k]] - kernel[:, labels]
        size = np.abs(w).sum(axis=0) if norm == "linf" else np.sqrt((w**2).sum(axis=0))
        gap = logits[rows, labels] - logits[:, k]
        with np.errstate(invalid="ignore"):
            nearest = np.where(labels == k, nearest, np.minimum(nearest, gap / size))
    return nearest


class Wavy:
    """Two layers on 3 pixels, logits and ∂ℓ/∂x in NumPy: steps overshoot, so they are halved."""

    def __init__(self):
        generator = np.random.default_rng(5)
        self.first = 4 * generator.normal(size=(3, 8))
        self.second = generator.normal(size=(8, 4))

    def keras_model(self):
        model = keras.Sequential(
            [
                keras.Input((3,), dtype="float64"),
                keras.layers.Dense(8, keras.ops.sin, dtype="float64"),
                keras.layers.Dense(4, dtype="float64"),
            ]
        )
        model.set_weights([self.first, np.zeros(8), self.second, np.zeros(4)])
        return model

    def logits(self, x):
        """Logits `(4,)` and their gradients `(3, 4)`."""
        hidden = x @ self.first
        return np.sin(hidden) @ self.second, self.first @ (np.cos(hidden)[:, None] * self.second)

    def log_odds(self, x, label):
        logits, slopes = self.logits(x)
        others = np.delete(logits, label)
        value = np.log(np.exp(others).sum()) - logits[label]
        output = np.exp(logits) / np.exp(others).sum()
        output[label] = -1.0
        return value, slopes @ output


def into_ball(x, image, epsilon, norm):
    delta = x - image
    if norm == "linf":
        delta = np.clip(delta, -epsilon, epsilon)
    else:
        delta = delta * min(1, epsilon / max(np.linalg.norm(delta), 1e-300))
    return np.clip(image + delta, 0, 1)


def steepest(gradient, norm):
    return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)
