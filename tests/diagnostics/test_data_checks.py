"""What diagnostics say of outputs, pixel ranges, batch-mates and labels, on models in any form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from hr_keras.attacks import Task
from hr_keras.diagnostics.data_checks import (
    batch_dependent,
    epsilon_size,
    labels_from_model,
    nonfinite_outputs,
    pixel_range,
)
from hr_keras.diagnostics.model_checks import find_in_model

BOUNDS = (0.0, 1.0)


class Function(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def classifier(*tail, before=()):
    return keras.Sequential([keras.Input((4, 4, 1)), *before, *tail])


def task_of(model, n=40, bounds=BOUNDS, labels=None):
    images = np.random.default_rng(0).uniform(*bounds, (n, 4, 4, 1)).astype("float32")
    if labels is None:
        labels = np.asarray(model(images)).argmax(axis=-1)
    return Task.of(model, images, labels, bounds, 256).predict()


ENDS = {
    "tf.nn.softmax": lambda: [layers.Flatten(), layers.Dense(3), Function(tf.nn.softmax)],
    "softmax, reshape": lambda: [
        layers.Flatten(), layers.Dense(3), layers.Softmax(), layers.Reshape((3,))
    ],
    "softmax, cast": lambda: [
        layers.Flatten(), layers.Dense(3), layers.Softmax(),
        Function(lambda p: tf.cast(p, "float16")),
    ],
    "convolutions, flatten": lambda: [layers.Conv2D(3, 4, activation="softmax"), layers.Flatten()],
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_a_softmax_in_any_form(end):
    findings = find_in_model(task_of(classifier(*ENDS[end]())), 0.1, BOUNDS, seed=0)
    assert {one.name for one in findings if one.verdict == "fault"} <= {"collapsed"}
    assert "softmax" in findings[0].meaning


def test_weights_that_are_nan_are_a_finding():
    model = classifier(layers.Flatten(), layers.Dense(3, activation="softmax"))
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    task = task_of(model, labels=np.arange(40) % 3)
    found = nonfinite_outputs(task.logits)
    assert (found.verdict, found.measured) == ("fault", 1)
    verdicts = {one.name: one.verdict for one in find_in_model(task, 0.1, BOUNDS, seed=0)}
    assert verdicts["nonfinite_gradients"] == "fault"
    assert labels_from_model(task.labels, task.logits).verdict == "ok"


@pytest.mark.parametrize(("made_for", "given"), [((0, 255), (0, 1)), ((0, 1), (0, 255))])
def test_pixels_of_another_range(made_for, given):
    """Two classes: whether the mean is above that of the range, whatever the range."""
    middle = sum(made_for) / 2
    model = classifier(
        layers.GlobalAveragePooling2D(),
        Function(lambda mean: tf.concat([middle - mean, mean - middle], axis=-1)),
    )
    images = np.random.default_rng(0).random((40, 4, 4, 1)).astype("float32")
    labels = (images.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    for bounds, verdict in ((given, "fault"), (made_for, "ok")):
        scaled = images * bounds[1]
        found = pixel_range(Task.of(model, scaled, labels, bounds, 256).predict(), bounds)
        assert found.verdict == verdict
        assert (f"--bounds {made_for[0]} {made_for[1]}" in found.meaning) == (verdict == "fault")


@pytest.mark.parametrize(
    ("radius", "bounds", "verdict"),
    [(0.5, (0, 1), "ok"), (0.6, (0, 1), "warning"), (1, (0, 1), "fault"), (8, (0, 255), "ok")],
)
def test_an_epsilon_of_the_size_of_the_pixel_range(radius, bounds, verdict):
    assert epsilon_size(radius, bounds).verdict == verdict


class InTrainingMode(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True)


class AnyNumber(layers.Layer):
    def call(self, inputs):
        return inputs + tf.random.normal(tf.shape(inputs))


@pytest.mark.parametrize(
    ("layer", "verdict"),
    [
        (InTrainingMode, "fault"),
        (layers.BatchNormalization, "ok"),
        (AnyNumber, "not applicable"),
    ],
)
def test_decisions_that_depend_on_the_batch(layer, verdict):
    task = task_of(classifier(layer(), layers.Flatten(), layers.Dense(3)))
    found = batch_dependent(task, seed=0)
    assert found.verdict == verdict
    assert ("other images in its batch" in found.meaning) == (verdict == "fault")


@pytest.mark.parametrize(
    ("certainty", "error", "verdict"), [(0.5, 0, "warning"), (0.5, 1, "ok"), (0.999, 0, "ok")]
)
def test_labels_that_are_the_decisions(certainty, error, verdict):
    logits = np.tile(np.log([certainty + 1e-6, 1 - certainty]), (40, 1))
    labels = np.zeros(40, int)
    labels[:error] = 1
    assert labels_from_model(labels, logits).verdict == verdict
