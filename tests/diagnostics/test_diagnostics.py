"""A zoo of broken defences, each to be found out under its name, and honest models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import right
from keras import layers, ops
from test_evaluation import counted, counting_model

from hr_keras import HRLoss, diagnostics
from hr_keras.attacks import PGD, Noise, Square, _perturbation
from hr_keras.attacks._attack import Task
from hr_keras.diagnostics import attack_checks
from hr_keras.diagnostics.attack_checks import AttackChecks
from hr_keras.diagnostics.finding import find_tolerance
from hr_keras.diagnostics.model_checks import collapsed, find_in_model

EPSILON = 0.1
BOUNDS = (0.0, 1.0)
OF_MODEL = {
    "probabilities_output", "zero_gradients", "no_gradient", "nonfinite_gradients",
    "randomized_forward", "rough_loss", "collapsed",
}  # fmt: skip
OF_DATA = {
    "nonfinite_outputs", "pixel_range", "epsilon_size", "batch_dependent", "labels_from_model",
    "forward_pass",
}  # fmt: skip
OF_ATTACKS = {
    "not_monotone", "chance_not_reached", "single_step_stronger", "gradient_free_stronger",
    "pgd_too_weak", "not_converged", "loss_still_rising", "silent_success",
    "catastrophic_overfitting", "attack_finds_planted",
}  # fmt: skip


def perceptron(before=(), hidden="relu", between=(), after=()):
    """A small classifier of digits; `before`, `between` and `after` are what a defence adds."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *before,
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(32, activation=hidden, name="hidden"),
            *between,
            layers.Dense(10, name="logits"),
            *(after or (layers.Softmax(),)),
        ]
    )


class Function(layers.Layer):
    """A function of tensors as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


class DropoutLeftOn(layers.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


class RandomResize(layers.Layer):
    """Pads to 32 × 32 at a random place, after a resize to 24 … 30 pixels a side."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(0)

    def call(self, images):
        def resized(side):
            image = tf.image.resize(images, (side, side))
            return tf.image.resize(tf.image.pad_to_bounding_box(image, 0, 0, 30, 30), (28, 28))

        choice = keras.random.randint((), 0, 4, seed=self.generator)
        branches = [lambda side=side: resized(side) for side in (24, 26, 28, 30)]
        return tf.ensure_shape(tf.switch_case(choice, branches), images.shape)


@pytest.fixture(scope="module")
def train(digits):
    return digits.train.images[:1500], digits.train.labels[:1500]


@pytest.fixture(scope="module")
def test(digits):
    return digits.test.images[:100], digits.test.labels[:100]


class Ripple(layers.Layer):
    """Adds a fine ripple to the pixels, whose slope is 1000 times its height."""

    def build(self, _):
        self.height = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, images):
        return images + self.height * ops.sin(1000 * images)


class Rectifier(layers.Layer):
    """A ReLU, or a step, which has no gradient."""

    def build(self, _):
        self.is_step = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, values):
        step = ops.cast(values > 0.5, "float32")
        return ops.where(self.is_step > 0, step, ops.relu(values))


@pytest.fixture(scope="module")
def switched():
    """One model for all that differ in their weights alone: its attacks are compiled once."""
    return perceptron(before=[Ripple()], hidden=None, between=[Rectifier()])


@pytest.fixture
def build(switched, trained):
    """Sets weights, by default of a classifier trained on CE, and switches a defence on."""

    def build(weights=trained, height=0.0, is_step=0.0):
        for variable, value in zip(switched.trainable_variables, weights, strict=True):
            variable.assign(value)
        switched.layers[0].height.assign(height)
        switched.layers[4].is_step.assign(is_step)
        return switched

    return build


@pytest.fixture(scope="module")
def trained(train):
    """Weights of a classifier trained on CE."""
    return fitted("sparse_categorical_crossentropy", train, epochs=8)


def fitted(loss, data, epochs, learning_rate=0.003):
    keras.utils.set_random_seed(0)
    model = perceptron()
    model.compile(keras.optimizers.Adam(learning_rate), loss=loss)
    model.fit(*data, batch_size=50, epochs=epochs, verbose=0)
    return model.get_weights()


def check(model, test, epsilon=EPSILON, **options):
    found = diagnostics.check(model, *test, epsilon, **options)
    return by_name(found, OF_DATA | OF_MODEL | OF_ATTACKS)


def check_model(model, test):
    """What needs no attack: it is quick."""
    task = Task.of(model, *test, BOUNDS, 256).predict()
    return by_name(find_in_model(task, EPSILON, BOUNDS, seed=0), OF_MODEL)


def check_attacks(model, test):
    task = Task.of(model, *test, BOUNDS, 256).predict()
    return by_name(AttackChecks(task, EPSILON, "linf", BOUNDS, 0, ()).find(), OF_ATTACKS)


def by_name(findings, names):
    assert {finding.name for finding in findings} == names
    for finding in findings:
        print(finding)
        assert finding.verdict in diagnostics.VERDICTS
        assert finding.meaning.endswith((".", ")"))
        assert finding.source
        assert (finding.measured is None) == (finding.verdict == "not applicable")
    return {finding.name: finding for finding in findings}


def wrong(findings):
    return {
        name: finding.verdict
        for name, finding in findings.items()
        if finding.verdict in ("warning", "fault")
    }


def test_a_classifier_trained_on_ce_is_honest_and_so_again(build, test):
    findings = check(build(), test, seed=3)
    assert wrong(findings) == {}
    assert findings["collapsed"].measured > 0.8
    assert check(build(), test, seed=3) == findings


@pytest.mark.slow
def test_a_classifier_trained_on_adversarial_examples_is_honest(build, train, test):
    keras.utils.set_random_seed(0)
    model = perceptron()
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    attack = PGD(EPSILON, n_iter=7, stop_early=False)
    for _ in range(6):
        for first in range(0, len(train[0]), 100):
            images, labels = (array[first : first + 100] for array in train)
            model.train_on_batch(attack(model, images, labels), labels)
    findings = check(build(model.get_weights()), test)
    assert wrong(findings) == {}
    assert "withstand PGD" in findings["loss_still_rising"].meaning


@pytest.mark.slow
def test_an_honest_classifier_in_l2(build, test):
    half = [array[:50] for array in test]
    assert wrong(check(build(), half, epsilon=1.0, norm="l2")) == {}


def test_logits_times_1000(build, trained, test):
    *rest, weights, bias = trained
    findings = check(build([*rest, 1000 * weights, 1000 * bias]), test)
    found = wrong(findings)
    assert found.pop("zero_gradients") == "warning"
    assert found in ({}, {"pgd_too_weak": "warning"})  # CE sees the likeliest class alone
    assert "% of the examples have an exactly zero gradient through the model's softmax" in (
        findings["zero_gradients"].meaning
    )


@pytest.mark.slow
def test_hr_trained_until_its_softmax_saturates(build, train, test):
    weights = fitted(HRLoss(1.6), train, epochs=15, learning_rate=0.03)
    found = wrong(check(build(weights), test))
    assert found.pop("zero_gradients") == "warning"
    assert found in ({}, {"pgd_too_weak": "warning"})


def test_a_collapsed_classifier(build, trained, test):
    weights = [0 * weight for weight in trained]
    assert wrong(check(build(weights), test))["collapsed"] == "fault"


def zoo():
    """Name → what the model adds, what it is to be found out for, and with what verdict."""
    return {
        "softmax in float16": (
            {"after": [Function(lambda z: ops.softmax(ops.cast(z, "float16")))]},
            "probabilities_output",
            "warning",
        ),
        "probabilities of no softmax": (
            {"after": [Function(lambda z: ops.exp(z) / ops.sum(ops.exp(z), -1)[:, None])]},
            "probabilities_output",
            "warning",
        ),
        "quantised input": (
            {"before": [Function(lambda x: ops.round(x * 7) / 7)]},
            "no_gradient",
            "fault",
        ),
        "dropout left on": ({"between": [DropoutLeftOn(0.3)]}, "randomized_forward", "fault"),
        "random resize": ({"before": [RandomResize()]}, "randomized_forward", "fault"),
        "saturated ReLU head": (
            {"after": [layers.ReLU(max_value=1.0)]},
            "zero_gradients",
            "fault",
        ),
    }


@pytest.mark.parametrize("name", zoo())
def test_the_zoo(name, trained, test):
    added, finding, verdict = zoo()[name]
    model = perceptron(**added)
    model.set_weights(trained)
    assert check_model(model, test)[finding].verdict == verdict


@pytest.mark.slow
def test_a_quantised_input_before_a_convolution(train, test):
    """Attacks take a way of their own through a first convolution."""
    quantised = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            Function(lambda x: ops.round(x * 7) / 7),
            layers.Conv2D(8, 5, 3, activation="relu"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    keras.utils.set_random_seed(0)
    quantised.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    quantised.fit(*train, batch_size=50, epochs=6, verbose=0)
    found = wrong(check(quantised, test))
    assert (found["no_gradient"], found["gradient_free_stronger"]) == ("fault", "fault")


def test_randomness_that_compiled_code_freezes(trained, test):
    """Drawn by NumPy: tracing keeps one draw, which every pass and every attack then sees."""
    generator = np.random.default_rng(0)
    model = perceptron(
        before=[Function(lambda x: x + 0.3 * generator.normal(size=x.shape[1:]).astype("float32"))]
    )
    model.set_weights(trained)
    finding = check_model(model, test)["randomized_forward"]
    assert finding.verdict == "fault"
    assert "a single draw" in finding.meaning


def test_who_is_right_has_not_collapsed():
    """Few images; or many of one class, which is then said as often as it should be, or more."""
    two = np.eye(2, dtype="float32")[[0, 1] * 4]
    assert collapsed(np.array([0, 1] * 4), two).verdict == "not applicable"
    assert collapsed(np.array([0, 1] * 20), np.tile(two, (5, 1))).verdict == "ok"
    labels = np.array([0] * 96 + [1] * 4)
    assert collapsed(labels, np.eye(2)[[0] * 97 + [1] * 3]).verdict == "ok"
    assert collapsed(labels, np.eye(2)[[0] * 100]).verdict == "fault"


def test_a_loss_that_jumps_is_rough(trained, test):
    """Noise of a tenth of ε moves every pixel to another of 200 levels of a sawtooth."""
    model = perceptron(before=[Function(lambda x: x + 2 * (20 * x - ops.floor(20 * x)))])
    model.set_weights(trained)
    assert wrong(check_model(model, test))["rough_loss"] == "warning"


def test_gradients_that_vanish_at_a_random_start_only(trained, test):
    """Whoever attacks from a random start sees none; the clean images have one each."""

    def stored(x):  # not stored: a pixel that is no multiple of 1/255
        exact = ops.abs(x * 255 - ops.round(x * 255)) < 1e-3
        whole = ops.all(exact, axis=(1, 2, 3), keepdims=True)
        return ops.where(whole, x, ops.stop_gradient(x))

    model = perceptron(before=[Function(stored)])
    model.set_weights(trained)
    finding = check_model(model, test)["zero_gradients"]
    assert finding.verdict == "fault"
    assert "0 % at the clean" in finding.meaning


def test_a_square_root_without_a_slope_at_zero(trained, test):
    """Black pixels: the gradient of √x is infinite there, and NaN behind a ReLU."""
    model = perceptron(before=[Function(ops.sqrt)])
    model.set_weights(trained)
    finding = check_model(model, test)["nonfinite_gradients"]
    assert (finding.verdict, finding.measured) == ("fault", 1)


def test_a_wrinkled_loss_leads_pgd_astray(build, test):
    """The slope of the ripple is 20 times that of what it lies on: APGD and Square get past it."""
    assert wrong(check(build(height=0.02), test)) == {"pgd_too_weak": "warning"}


def test_a_network_of_steps(build, test):
    found = wrong(check(build(is_step=1.0), test))
    assert found["no_gradient"] == "fault"
    assert found["gradient_free_stronger"] == "fault"  # what a user most wants to know


def test_examples_carried_over_count_by_themselves(build, trained, test, monkeypatch):
    """Those of the same network with a gradient, where noise and Square are too weak."""
    for attack in (Noise, Square):
        powerless = lambda _, attack=attack, **options: attack(0.0, **options)  # noqa: E731
        monkeypatch.setattr(attack_checks, attack.__name__, powerless)
    other = perceptron()
    other.set_weights(trained)
    finding = check(build(is_step=1.0), test, others=[other])["gradient_free_stronger"]
    assert finding.verdict == "fault"
    assert finding.measured > 0.1
    assert "noise on 0 %, Square on 0 %, transfer on " in finding.meaning


class Broken(PGD):
    """PGD with a fault; a variable says which, so that all are compiled once.

    - downhill: right in its first step alone;
    - hesitant: steps that together go nowhere near the border, from the image on;
    - fickle: random numbers decide, once for all steps, whether it moves an example;
    - afraid of heights: makes no step where ε is greater than 0.15;
    - forgetful: returns the image, whatever it saw.
    """

    fault = tf.Variable("")

    def is_afraid(self, state):
        return (self.fault == "afraid of heights") & (state.epsilon > 0.15)

    def start(self, state):
        stays = (self.fault == "hesitant") | self.is_afraid(state)
        return state._replace(point=rows_where(stays, state.image, super().start(state).point))

    def find_direction(self, state, gradient):
        uphill = (self.fault != "downhill") | (self.n_iter == 1)
        direction, memory = super().find_direction(state, ops.where(uphill, gradient, -gradient))
        direction *= ops.where(self.fault == "hesitant", 0.01 / self.default_step_size(), 1.0)
        moves = _perturbation.uniform(state.keys, 1, (1, 1, 1))[:, 0, 0, 0] < 0.5
        stays = ((self.fault == "fickle") & ~moves) | self.is_afraid(state)
        return rows_where(stays, ops.zeros_like(direction), direction), memory

    def perturb(self, task):
        outcome = super().perturb(task)
        return outcome._replace(images=task.images) if self.fault == "forgetful" else outcome


def rows_where(chosen, first, second):
    return ops.where(ops.reshape(chosen, (-1, 1, 1, 1)), first, second)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", {}),
        ("downhill", {"single_step_stronger": "fault", "chance_not_reached": "fault",
                      "pgd_too_weak": "warning"}),
        ("hesitant", {"not_converged": "warning", "loss_still_rising": "warning"}),
        ("fickle", {"not_converged": "warning"}),
        ("forgetful", {"silent_success": "fault"}),
        ("afraid of heights", {"not_monotone": "fault", "chance_not_reached": "fault"}),
    ],
)  # fmt: skip
def test_a_broken_attack_is_found_out(fault, expected, build, test, monkeypatch):
    """On an honest model: it is the attack that these checks judge."""
    monkeypatch.setattr(attack_checks, "PGD", Broken)
    Broken.fault.assign(fault)
    findings = check_attacks(build(), test)
    found = wrong(findings)
    assert expected.items() <= found.items()
    assert fault or found == {}
    if fault == "fickle":  # more steps of the same attempt do nothing for who has had no luck
        finding = findings["not_converged"]
        assert finding.measured > 0.1
        assert "Twice the steps fool the model on another 0 % of the examples" in finding.meaning


def test_the_budget_of_passes_is_kept():
    """Where next to nothing is fooled: the dearest that it gets. The second time, in no trace."""
    model, (images, labels) = counting_model(), right(30)
    diagnostics.check(model, images, labels, 1e-6)
    findings, cost = counted(lambda: diagnostics.check(model, images, labels, 1e-6))
    assert "100 % of the examples withstand PGD" in findings[-2].meaning
    assert 400 < cost["backward"] <= 5 + 560 + 40
    in_small_batches = 30 + 5 + 30  # calls for 30 images, of one and of seven; features of each
    assert cost["forward"] - cost["backward"] <= 34 + in_small_batches + 600 + 16  # the last verify
    assert cost["traces"] == 4  # eager for the output's dtype, for randomness twice, for the graph


@pytest.mark.parametrize(
    ("share", "n", "expected"), [(0.005, 1000, 0.005), (0.005, 100, 0.015), (0.02, 10, 0.15)]
)
def test_one_example_is_no_difference(share, n, expected):
    assert find_tolerance(share, n) == pytest.approx(expected)
    assert 1 / n < find_tolerance(share, n) or share > 1 / n


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0}, "`epsilon` must be greater than 0"),
        ({"epsilon": -1}, "`epsilon` must be a finite number"),
        ({"norm": "l1"}, "`norm`"),
        ({"seed": -1}, "`seed`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"bounds": (1, 0)}, "`bounds`"),
        ({"images": np.zeros((1, 28, 28, 1), "float32"), "labels": [0]}, "at least two"),
        ({"labels": np.full(100, 10)}, "class numbers from 0 to 9"),
        ({"images": np.zeros((100, 28, 28, 1), "uint8")}, "floating point"),
    ],
)
def test_bad_input(switched, test, changes, message):
    arguments = {"images": test[0], "labels": test[1], "epsilon": EPSILON, **changes}
    with pytest.raises(ValueError, match=message):
        diagnostics.check(switched, **arguments)
