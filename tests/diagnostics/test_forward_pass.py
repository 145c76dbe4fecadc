"""A model that moves its images before it decides: published defences of this kind hide a gap."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model
from keras import layers

from hr_keras import diagnostics
from hr_keras.attacks import PGD, Task
from hr_keras.diagnostics.attack_checks import AttackChecks
from hr_keras.diagnostics.forward_pass import find_inner_models, forward_pass

BOUNDS = (-10.0, 10.0)


class AntiAdversary(keras.Model):
    """Moves its input towards its own decision (Alfarra et al. 2022), then classifies it."""

    def __init__(self, network, steps=2, size=0.3):
        super().__init__()
        self.network, self.steps, self.size = network, steps, size

    def call(self, images):
        decision = tf.argmax(self.network(images), axis=-1)
        moved = images
        for _ in range(self.steps if not tf.executing_eagerly() else 0):
            logits = self.network(moved)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(decision, logits)
            moved = moved - self.size * tf.sign(tf.gradients(ce, moved)[0])
        return self.network(moved)


class Repeating(layers.Layer):
    """Moves its images by the weights of a network, without differentiating it."""

    def __init__(self, network, steps, in_a_loop):
        super().__init__()
        self.network, self.steps, self.in_a_loop = network, steps, in_a_loop

    def call(self, images):
        def move(images):
            return images + 0.01 * keras.ops.mean(self.network(images))

        if self.in_a_loop:
            return tf.while_loop(
                lambda k, _: k < self.steps, lambda k, x: (k + 1, move(x)), (0, images)
            )[1]
        for _ in range(self.steps):
            images = tf.function(move)(images)
        return images


def sequence(*hidden):
    return keras.Sequential([layers.Reshape((4, 3)), *hidden, layers.Flatten(), layers.Dense(3)])


def attention():
    inputs = keras.Input((2, 2, 3))
    x = layers.Reshape((4, 3))(inputs)
    x = layers.MultiHeadAttention(2, 4)(x, x) + layers.SeparableConv1D(3, 2, padding="same")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def repeating(steps, in_a_loop=False):
    network = linear_model(1.0, None)
    return keras.Sequential([Repeating(network, steps, in_a_loop), network])


class Branching(layers.Layer):
    def call(self, images):
        return tf.cond(tf.reduce_mean(images) > 0, lambda: images, lambda: 2 * images)


def task_of(model, n=30):
    images = np.random.default_rng(1).normal(size=(n, 2, 2, 3)).astype("float32")
    labels = np.asarray(linear_model(1.0)(images)).argmax(axis=-1)
    model(images[:1])
    return Task.of(model, images, labels, BOUNDS, 256).predict()


@pytest.mark.parametrize(
    ("make", "verdict", "words"),
    [
        (lambda: AntiAdversary(linear_model(1.0, None)), "warning", "optimises the image"),
        (lambda: keras.Sequential([Branching(), linear_model(1.0)]), "warning", "the branch"),
        (lambda: repeating(5), "warning", "uses its weights 6 times"),
        (lambda: repeating(2, in_a_loop=True), "warning", "in a loop"),
        (lambda: repeating(1), "ok", "0 operations"),
        (lambda: linear_model(1.0), "ok", "0 operations"),
        (lambda: sequence(layers.LSTM(4, return_sequences=True)), "ok", "0 operations"),
        (lambda: sequence(layers.LSTM(4, unroll=True)), "ok", "0 operations"),
        (attention, "ok", "0 operations"),
    ],
)
def test_gradients_branches_and_repeats_in_the_forward_pass(make, verdict, words):
    found = forward_pass(task_of(make()))
    assert found.verdict == verdict
    assert words in found.meaning


def test_classifiers_inside_a_model():
    network = linear_model(1.0, None)
    features = keras.Sequential([keras.Input((2, 2, 3)), layers.Flatten(), layers.Dense(5)])
    head = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    images = task_of(network).images
    assert find_inner_models(AntiAdversary(network), images) == (network,)
    assert find_inner_models(keras.Sequential([features, head]), images) == ()


def test_transfer_from_the_network_behind_an_anti_adversary(monkeypatch):
    """The model undoes what leads away from its decision; the network behind it does not."""
    model = AntiAdversary(linear_model(1.0, None))
    task = task_of(model)
    inner = find_inner_models(model, task.images)
    checks = AttackChecks(task, 0.5, "linf", BOUNDS, 0, inner)
    transfer = {"transfer": checks._gradient_free_attacks()["transfer"]}
    monkeypatch.setattr(AttackChecks, "_gradient_free_attacks", lambda _: transfer)
    found = checks._gradient_free_stronger(checks.correct)
    assert found.verdict == "fault"
    assert "transfer on " in found.meaning
    assert "masked" in found.meaning


def test_a_check_transfers_from_the_models_it_is_given_and_from_those_inside(monkeypatch):
    network, other = linear_model(1.0, None), linear_model(2.0, None)
    model = AntiAdversary(network)
    task, seen = task_of(model), []
    monkeypatch.setattr(AttackChecks, "find", lambda checks: seen.append(checks.others) or [])
    for model_checks in ("find_in_data", "find_in_model"):
        monkeypatch.setattr(diagnostics, model_checks, lambda *_: [])
    diagnostics.check(model, task.images, task.labels, 0.1, bounds=BOUNDS, others=(other,))
    assert seen == [(other, network)]


def test_what_apgd_fools_too_is_not_masked(monkeypatch):
    """PGD fools none. APGD, Square and noise fool the same examples: no gradient is masked."""
    task = task_of(linear_model(1.0))
    checks = AttackChecks(task, 1e-6, "linf", BOUNDS, 0, ())

    def attack(_, attack, robust):
        return robust if isinstance(attack, PGD) else robust & (np.arange(30) < 18)

    monkeypatch.setattr(AttackChecks, "_attack", attack)
    verdicts = {one.name: one.verdict for one in checks.find()}
    assert verdicts["pgd_too_weak"] == "warning"
    assert verdicts["gradient_free_stronger"] == "ok"


def test_a_weak_pgd_is_not_called_masked():
    """A stronger attack along the gradient fools a third of the examples: 60 % are left of 90."""
    task = task_of(linear_model(1.0))
    checks = AttackChecks(task, 0.1, "linf", BOUNDS, 0, ())
    weak, strong = np.arange(30) < 27, np.arange(30) < 18
    found = checks._pgd_too_weak(weak, strong)
    assert (found.verdict, found.measured) == ("warning", pytest.approx(0.3))
    assert "PGD is too weak here" in found.meaning
    assert "masked" not in found.meaning
    assert checks._pgd_too_weak(weak, weak).verdict == "ok"
