"""One classifier in the forms that public models have: its audit is the same in all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from hr_keras import audit
from hr_keras.diagnostics import AttackChecks

SHAPE = (4, 4, 1)
EPSILON = 0.06
KERNEL = np.random.default_rng(3).normal(size=(16, 2))
BIAS = -KERNEL.sum(axis=0) / 2


@keras.saving.register_keras_serializable(package="test_public_forms")
class Subclassed(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.flatten, self.dense = layers.Flatten(), layers.Dense(2)

    def call(self, images):
        return tf.nn.softmax(self.dense(self.flatten(images)))


@keras.saving.register_keras_serializable(package="test_public_forms")
class Compiled(Subclassed):
    @tf.function
    def call(self, images):
        return tf.nn.softmax(self.dense(self.flatten(images)))


def dense(*before, shape=SHAPE, activation="softmax", units=2):
    return keras.Sequential(
        [keras.Input(shape), *before, layers.Flatten(), layers.Dense(units, activation)]
    )


FORMS = {
    "softmax": dense,
    "one sigmoid": lambda: dense(activation="sigmoid", units=1),
    "sigmoids": lambda: dense(activation="sigmoid"),
    "logits": lambda: dense(activation=None),
    "tf.nn.softmax": lambda: Subclassed(),
    "tf.function": lambda: Compiled(),
    "no channel": lambda: dense(shape=(4, 4)),
    "flat": lambda: dense(shape=(16,)),
    "0 to 255": lambda: dense(layers.Rescaling(1 / 255)),
    "h5": dense,
}
QUICK = ("softmax", "one sigmoid", "sigmoids")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE[:2]), "uint8")
    images[0, 0, 0] = 255
    labels = ((images.reshape(40, -1) / 255) @ KERNEL + BIAS).argmax(axis=1)
    labels[::9] = 1 - labels[::9]
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


def exact_accuracy(path, epsilon):
    """Of a linear classifier of two classes: the margin against the L1 norm of its weights."""
    with np.load(path) as arrays:
        images, labels = arrays["x_test"].reshape(40, -1) / 255, arrays["y_test"]
    normal, offset = KERNEL[:, 1] - KERNEL[:, 0], BIAS[1] - BIAS[0]
    sign = np.where(labels == 1, 1, -1)
    worst = np.clip(images - epsilon * sign[:, None] * np.sign(normal), 0, 1)
    return ((sign * (worst @ normal + offset)) > 0).mean()


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FORMS]
)
def test_the_audit_of_every_form_is_that_of_the_classifier(form, data, tmp_path, monkeypatch):
    """A single step is exact on a linear classifier. The checks that attack are left out."""
    monkeypatch.setattr(AttackChecks, "find", lambda self: [])
    model = FORMS[form]()
    model(np.zeros((1, *getattr(model, "input_shape", (None, *SHAPE))[1:]), "float32"))
    kernel, bias = KERNEL, BIAS
    if form == "one sigmoid":
        kernel, bias = KERNEL[:, 1:] - KERNEL[:, :1], BIAS[1:] - BIAS[:1]
    model.set_weights([kernel, bias])
    path = tmp_path / ("model.h5" if form == "h5" else "model.keras")
    model.save(path)
    bounds = (0, 255) if form == "0 to 255" else (0, 1)
    _, result = audit.audit_file(
        path, data, EPSILON * bounds[1], attacks="fgsm", bounds=bounds, folder=tmp_path / "audit"
    )
    for row in result.rows:
        epsilon = row.epsilon / bounds[1]
        assert row.accuracy == pytest.approx(exact_accuracy(data, epsilon)), (row.attack, epsilon)
    assert result.clean.accuracy == pytest.approx(35 / 40)
    assert 0.2 < result.find_row("fgsm").accuracy < 0.8
    faults = {one.name for one in result.findings if one.verdict == "fault"}
    assert faults <= {"rough_loss"}, faults
