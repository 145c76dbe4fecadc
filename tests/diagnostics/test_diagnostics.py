"""A zoo of broken defences, each to be found out under its name, and honest models."""

import keras
import numpy as np
import pytest
from attack_cases import right
from keras import layers, ops
from test_evaluation import counted, counting_model

from hr_keras import HRLoss, diagnostics
from hr_keras.attacks import PGD, Noise, Square, _perturbation
from hr_keras.diagnostics import attack_checks
from hr_keras.diagnostics.finding import find_tolerance
from hr_keras.diagnostics.model_checks import collapsed

EPSILON = 0.1
NAMES = {
    "probabilities_output", "zero_gradients", "no_gradient", "nonfinite_gradients",
    "randomized_forward", "not_monotone", "chance_not_reached", "single_step_stronger",
    "gradient_free_stronger", "not_converged", "loss_still_rising", "silent_success",
    "rough_loss", "collapsed",
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
        import tensorflow as tf

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
    return digits.test.images[:120], digits.test.labels[:120]


@pytest.fixture(scope="module")
def honest():
    """One model for all that differ in their weights alone: its attacks are compiled once."""
    return perceptron()


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
    findings = diagnostics.check(model, *test, epsilon, **options)
    assert {finding.name for finding in findings} == NAMES
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


def test_a_classifier_trained_on_ce_is_honest(honest, trained, test):
    honest.set_weights(trained)
    findings = check(honest, test)
    assert wrong(findings) == {}
    assert findings["collapsed"].measured > 0.8


def test_a_classifier_trained_on_adversarial_examples_is_honest(honest, train, test):
    keras.utils.set_random_seed(0)
    model = perceptron()
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    attack = PGD(EPSILON, n_iter=7, stop_early=False)
    for _ in range(6):
        for first in range(0, len(train[0]), 100):
            images, labels = (array[first : first + 100] for array in train)
            model.train_on_batch(attack(model, images, labels), labels)
    honest.set_weights(model.get_weights())
    findings = check(honest, test)
    assert wrong(findings) == {}
    assert "withstand PGD" in findings["loss_still_rising"].meaning


def test_an_honest_classifier_in_l2(honest, trained, test):
    honest.set_weights(trained)
    assert wrong(check(honest, test, epsilon=1.0, norm="l2")) == {}


def test_logits_times_1000(honest, trained, test):
    *rest, weights, bias = trained
    honest.set_weights([*rest, 1000 * weights, 1000 * bias])
    findings = check(honest, test)
    assert wrong(findings) == {"zero_gradients": "warning"}
    assert "% of the examples have an exactly zero gradient through the model's softmax" in (
        findings["zero_gradients"].meaning
    )


def test_hr_trained_until_its_softmax_saturates(honest, train, test):
    honest.set_weights(fitted(HRLoss(1.6), train, epochs=15, learning_rate=0.03))
    assert wrong(check(honest, test)) == {"zero_gradients": "warning"}


def test_a_collapsed_classifier(honest, trained, test):
    honest.set_weights([0 * weight for weight in trained])
    assert wrong(check(honest, test))["collapsed"] == "fault"


def zoo():
    """Name → the model, what it is to be found out for, and with what verdict."""
    return {
        "softmax in float16": (
            perceptron(after=[Function(lambda z: ops.softmax(ops.cast(z, "float16")))]),
            "probabilities_output",
            "warning",
        ),
        "probabilities of no softmax": (
            perceptron(after=[Function(lambda z: ops.exp(z) / ops.sum(ops.exp(z), -1)[:, None])]),
            "probabilities_output",
            "warning",
        ),
        "quantised input": (
            perceptron(before=[Function(lambda x: ops.round(x * 7) / 7)]),
            "no_gradient",
            "fault",
        ),
        "step activation": (
            perceptron(hidden=lambda x: ops.cast(x > 0.5, "float32")),
            "no_gradient",
            "fault",
        ),
        "dropout left on": (
            perceptron(between=[DropoutLeftOn(0.3)]),
            "randomized_forward",
            "fault",
        ),
        "random resize": (perceptron(before=[RandomResize()]), "randomized_forward", "fault"),
        "saturated ReLU head": (
            perceptron(after=[layers.ReLU(max_value=1.0)]),
            "zero_gradients",
            "fault",
        ),
    }


@pytest.mark.parametrize("name", zoo())
def test_the_zoo(name, trained, test):
    model, finding, verdict = zoo()[name]
    model.set_weights(trained)
    findings = check(model, test)
    assert findings[finding].verdict == verdict
    if finding == "no_gradient":  # and what a user most wants to be told
        assert findings["gradient_free_stronger"].verdict == "fault"


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
    finding = check(model, test)["randomized_forward"]
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
    assert wrong(check(model, test))["rough_loss"] == "warning"


def test_gradients_that_vanish_at_a_random_start_only(trained, test):
    """Whoever attacks from a random start sees none; the clean images have one each."""

    def stored(x):  # not stored: a pixel that is no multiple of 1/255
        exact = ops.abs(x * 255 - ops.round(x * 255)) < 1e-3
        whole = ops.all(exact, axis=(1, 2, 3), keepdims=True)
        return ops.where(whole, x, ops.stop_gradient(x))

    model = perceptron(before=[Function(stored)])
    model.set_weights(trained)
    finding = check(model, test)["zero_gradients"]
    assert finding.verdict == "fault"
    assert "0 % at the clean" in finding.meaning


def test_a_square_root_without_a_slope_at_zero(trained, test):
    """Black pixels: the gradient of √x is infinite there, and NaN behind a ReLU."""
    model = perceptron(before=[Function(ops.sqrt)])
    model.set_weights(trained)
    findings = check(model, test)
    assert findings["nonfinite_gradients"].verdict == "fault"
    assert findings["nonfinite_gradients"].measured == 1


def test_a_wrinkled_loss_leads_pgd_astray(trained, test):
    """A fine ripple in the pixels: its slope is 20 times that of what it lies on."""
    model = perceptron(before=[Function(lambda x: x + 0.02 * ops.sin(1000 * x))])
    model.set_weights(trained)
    found = wrong(check(model, test))
    assert found["gradient_free_stronger"] == "fault"


def carried_over(trained, test):
    """The finding on a network of steps, which has no gradient, attacked from one that has."""
    model, other = perceptron(hidden=lambda x: ops.cast(x > 0.5, "float32")), perceptron()
    for each in (model, other):
        each.set_weights(trained)
    return check(model, test, others=[other])["gradient_free_stronger"]


def test_examples_carried_over_are_stronger_than_a_masked_gradient(trained, test):
    """Those of the same network with a gradient."""
    finding = carried_over(trained, test)
    assert finding.verdict == "fault"
    assert "transfer" in finding.meaning


def test_examples_carried_over_count_by_themselves(trained, test, monkeypatch):
    """Where noise and Square are too weak to see that the gradient is masked."""
    for attack in (Noise, Square):
        powerless = lambda _, attack=attack, **options: attack(0.0, **options)  # noqa: E731
        monkeypatch.setattr(attack_checks, attack.__name__, powerless)
    finding = carried_over(trained, test)
    assert finding.verdict == "fault"
    assert finding.measured > 0.1
    assert "noise on 0 %, Square on 0 %, transfer on " in finding.meaning


class Downhill(PGD):
    """Right in its first step alone."""

    def find_direction(self, state, gradient):
        return super().find_direction(state, gradient if self.n_iter == 1 else -gradient)


class Hesitant(PGD):
    """Steps that together go nowhere near the border, from the image on."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "random_start": False, "step_size": 0.01})


class Fickle(PGD):
    """Its random numbers decide, once for all steps, whether it moves an example."""

    def find_direction(self, state, gradient):
        direction, memory = super().find_direction(state, gradient)
        moves = _perturbation.uniform(state.keys, 1, (1, 1, 1)) < 0.5
        return ops.where(moves, direction, 0.0), memory


class Forgetful(PGD):
    def perturb(self, task):
        return super().perturb(task)._replace(images=task.images)


class AfraidOfHeights(PGD):
    """Makes no step where ε is greater than 0.15."""

    def __init__(self, epsilon, *arguments, **options):
        small = {} if epsilon < 0.15 else {"step_size": 1e-9, "random_start": False}
        super().__init__(epsilon, *arguments, **{**options, **small})


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (Downhill, {"single_step_stronger": "fault", "chance_not_reached": "fault",
                    "gradient_free_stronger": "fault"}),
        (Hesitant, {"not_converged": "warning", "loss_still_rising": "warning"}),
        (Forgetful, {"silent_success": "fault"}),
        (AfraidOfHeights, {"not_monotone": "fault", "chance_not_reached": "fault"}),
    ],
)  # fmt: skip
def test_a_broken_attack_is_found_out(broken, expected, honest, trained, test, monkeypatch):
    """On an honest model: it is the attack that these checks judge."""
    monkeypatch.setattr(attack_checks, "PGD", broken)
    honest.set_weights(trained)
    assert expected.items() <= wrong(check(honest, test)).items()


def test_an_attack_that_hangs_on_luck_is_found_out_by_another_attempt(
    honest, trained, test, monkeypatch
):
    """More steps of the same attempt do nothing for the half that has had no luck."""
    monkeypatch.setattr(attack_checks, "PGD", Fickle)
    honest.set_weights(trained)
    finding = check(honest, test)["not_converged"]
    assert finding.verdict == "warning"
    assert finding.measured > 0.1
    assert "Twice the steps fool the model on another 0 % of the examples" in finding.meaning


def test_the_same_seed_gives_the_same_findings(honest, trained, test):
    honest.set_weights(trained)
    first, second = (diagnostics.check(honest, *test, EPSILON, seed=3) for _ in range(2))
    assert first == second


def test_the_budget_of_passes_is_kept():
    """Where next to nothing is fooled: the dearest that it gets. The second time, in no trace."""
    model, (images, labels) = counting_model(), right(30)
    diagnostics.check(model, images, labels, 1e-6)
    findings, cost = counted(lambda: diagnostics.check(model, images, labels, 1e-6))
    assert "100 % of the examples withstand PGD" in findings[-1].meaning
    assert 300 < cost["backward"] <= 5 + 360
    assert cost["forward"] - cost["backward"] <= 30 + 600
    assert cost["traces"] == 3  # eager passes: the output's dtype, and twice for randomness


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
        ({"labels": np.full(120, 10)}, "class numbers from 0 to 9"),
        ({"images": np.zeros((120, 28, 28, 1), "uint8")}, "floating point"),
    ],
)
def test_bad_input(honest, test, changes, message):
    arguments = {"images": test[0], "labels": test[1], "epsilon": EPSILON, **changes}
    with pytest.raises(ValueError, match=message):
        diagnostics.check(honest, **arguments)
