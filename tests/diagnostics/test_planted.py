"""The binarization test: planted adversarial examples, and the features they are planted in."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import right
from keras import layers, ops

from hr_keras._core.logits import classifier_output, features_of
from hr_keras.attacks import PGD, Task
from hr_keras.diagnostics import planted
from hr_keras.diagnostics.planted import INNER_POINTS, RIDGE, attack_finds_planted
from hr_keras.models import attack_view

EPSILON = 0.1


class Quantise(layers.Layer):
    def call(self, x):
        return ops.round(16 * x) / 16


def network(*before):
    """A network of 60 features without training: planting needs none."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            *before,
            layers.Flatten(),
            layers.Dense(60, "tanh"),
            layers.Dense(4, "softmax"),
        ]
    )


def task_of(model, n=24):
    images = np.random.default_rng(1).uniform(0.3, 0.7, (n, 6, 6, 3)).astype("float32")
    return Task.of(model, images, np.zeros(n, int), (0, 1), 256)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_honest_network_passes_and_masked_gradients_fail(norm):
    attack = PGD(EPSILON if norm == "linf" else 1.0, "ce", n_iter=20, norm=norm)
    honest = attack_finds_planted(attack, task_of(network()))
    assert (honest.verdict, honest.measured) == ("ok", 0)
    assert "PGD finds 100 %" in honest.meaning
    assert honest == attack_finds_planted(attack, task_of(network()))  # and so again
    masked = attack_finds_planted(attack, task_of(network(Quantise())))
    assert masked.verdict == "fault"
    assert masked.measured > 0.9
    assert "misses adversarial examples that exist" in masked.meaning
    assert "Zimmermann et al. 2022" in masked.source
    assert "threshold is ours" in masked.source


def test_an_attack_that_does_nothing_fails():
    attack = PGD(EPSILON, "ce", n_iter=1, step_size=1e-6, random_start=False)
    assert attack_finds_planted(attack, task_of(network())).measured == 1


def test_a_view_that_mends_the_gradient_passes():
    """BPDA, and a second input that travels with each example."""
    inner = network(Quantise(name="quantise"))
    image, gain = keras.Input((6, 6, 3), name="image"), keras.Input((1,), name="gain")
    logits = layers.Dense(4)(layers.Multiply()([inner(image), gain]))
    model = keras.Model([image, gain], logits)
    task = task_of(inner)
    gains = np.random.default_rng(0).uniform(1, 2, (len(task.images), 1)).astype("float32")
    view = attack_view(inner, straight_through="quantise")
    attack = PGD(1.0, "ce", n_iter=20, norm="l2")
    assert attack_finds_planted(attack, task.replace(model=view)).verdict == "ok"
    view = attack_view(model, attacked_input="image", straight_through="quantise", eot=2)
    both = Task.of(view, (task.images, gains), task.labels, (0, 1), 256)
    assert attack_finds_planted(attack, both).source == planted.ZIMMERMANN


def test_what_cannot_be_planted_is_said():
    constant = network(layers.Rescaling(0.0))
    finding = attack_finds_planted(PGD(EPSILON), task_of(constant))
    assert finding.verdict == "not applicable"
    assert "0 of 24 examples" in finding.meaning
    nan = network(layers.Rescaling(float("nan")))
    assert attack_finds_planted(PGD(EPSILON), task_of(nan)).verdict == "not applicable"
    fixed = keras.Input(batch_shape=(8, 12))
    model = keras.Model(fixed, layers.Dense(3)(fixed))
    task = Task.of(model, np.zeros((8, 12), "float32"), np.zeros(8, int), (0, 1), 8)
    assert attack_finds_planted(PGD(EPSILON), task).verdict == "not applicable"


def test_only_the_first_examples_are_used(monkeypatch):
    monkeypatch.setattr(planted, "MOST_EXAMPLES", 12)
    attack, task = PGD(EPSILON, "ce", n_iter=5), task_of(network())
    assert attack_finds_planted(attack, task).meaning.startswith("In 12 models")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_are_in_the_ball_and_the_planted_one_on_its_border(norm):
    attack = PGD(EPSILON, norm=norm, bounds=(-1, 2))
    image = np.full((6, 6, 3), 0.5)
    points = planted._draw_points(attack, image, np.random.default_rng(0))
    moves = (points - image).reshape(len(points), -1)
    order = np.inf if norm == "linf" else 2
    sizes = np.linalg.norm(moves, ord=order, axis=1)
    assert sizes[0] == 0
    assert sizes[: 1 + INNER_POINTS].max() <= 0.95 * EPSILON + 1e-9
    assert sizes[1 + INNER_POINTS] == pytest.approx(EPSILON)
    assert sizes.max() <= EPSILON + 1e-9
    near = planted._draw_points(PGD(0.9, norm=norm), image, np.random.default_rng(0))
    assert near.min() >= 0
    assert near.max() <= 1


@pytest.mark.parametrize("features", [5, 300])
def test_the_readout_is_fishers_discriminant(features):
    """The formula with a matrix of the features, where the code has one of the points."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(1 + INNER_POINTS + 1 + 20, features))
    points[1 + INNER_POINTS] += 3
    readout, at_random = planted._train_readout(points)
    inner, other = points[: 1 + INNER_POINTS], points[1 + INNER_POINTS]
    centred = inner - inner.mean(axis=0)
    covariance = centred.T @ centred / len(inner)
    ridge = RIDGE * np.mean(centred**2) * np.eye(features)
    expected = np.linalg.solve(covariance + ridge, other - inner.mean(axis=0))
    cosine = expected @ readout[:-1] / np.linalg.norm(expected) / np.linalg.norm(readout[:-1])
    assert cosine == pytest.approx(1, abs=1e-5)
    margins = points @ readout[:-1] + readout[-1]
    assert margins[1 + INNER_POINTS] > 0 > margins[: 1 + INNER_POINTS].max()
    outermost = margins[: 1 + INNER_POINTS].max()
    assert -outermost / (margins[1 + INNER_POINTS] - outermost) == pytest.approx(0.9, abs=1e-4)
    assert at_random == (margins[2 + INNER_POINTS :] > 0).any()


FEATURES = {
    "softmax": lambda dense: [dense, layers.Softmax()],
    "scaled": lambda dense: [dense, layers.Rescaling(20.0, offset=1.0)],
    "reshaped": lambda dense: [dense, layers.Reshape((3, 1)), layers.Flatten(), layers.Softmax()],
}


@pytest.mark.parametrize("make", FEATURES.values(), ids=FEATURES)
def test_features_are_what_the_last_dense_layer_takes(make):
    hidden = layers.Dense(7, "relu")
    model = keras.Sequential([keras.Input((12,)), hidden, *make(layers.Dense(3))])
    images = np.random.default_rng(0).random((5, 12), dtype="float32")
    found = tf.function(lambda x: features_of(model, x))(tf.constant(images))
    np.testing.assert_allclose(found, hidden(images), rtol=1e-6)


def test_logits_are_the_features_of_a_model_without_a_last_dense_layer():
    model = keras.Sequential([keras.Input((12,)), layers.Dense(3), layers.Activation("tanh")])
    images, _ = right(5)
    images = images.reshape(5, 12)
    assert classifier_output(model).kind == "logits"
    found = tf.function(lambda x: features_of(model, x))(tf.constant(images))
    np.testing.assert_allclose(found, model(images), rtol=1e-6)
