"""Models as users have them: several outputs and inputs, random passes, preprocessing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import ATTACKS, images_and_labels
from conftest import linear_model
from keras import layers, ops

from hr_keras import audit, evaluation
from hr_keras._core.logits import classifier_output, logits_of
from hr_keras.attacks import FGSM, PGD, State, Transfer, objectives
from hr_keras.attacks.fgsm import compute_gradients
from hr_keras.diagnostics import model_checks
from hr_keras.models import attack_view, logits_model, with_preprocessing

IMAGES, LABELS = images_and_labels()
PRIORS = np.random.default_rng(3).random((len(IMAGES), 3), dtype="float32")
EPSILON = 0.05


@pytest.fixture(scope="module")
def plain():
    return linear_model(1.0)


def two_outputs(plain, form):
    """The second output is that of `plain`."""
    inputs = keras.Input((2, 2, 3))
    other, dense = layers.Dense(4, "softmax", name="colour"), layers.Dense(3)
    flat = layers.Flatten()(inputs)
    outputs = [other(flat), layers.Softmax(name="kind")(dense(flat))]
    dense.set_weights(plain.get_weights())
    names = ("colour", "kind")
    return keras.Model(
        inputs, dict(zip(names, outputs, strict=True)) if form == "dict" else outputs
    )


def two_inputs(plain, form):
    """The logits of `plain` plus five times the second input."""
    image, prior = keras.Input((2, 2, 3), name="image"), keras.Input((3,), name="prior")
    dense = layers.Dense(3)
    logits = layers.Add()([dense(layers.Flatten()(image)), layers.Rescaling(5.0)(prior)])
    dense.set_weights(plain.get_weights())
    inputs = {"prior": prior, "image": image} if form == "dict" else [image, prior]
    return keras.Model(inputs, layers.Softmax()(logits))


@pytest.mark.parametrize(("form", "output"), [("dict", "kind"), ("list", "kind"), ("list", 1)])
def test_a_chosen_output_is_attacked_like_a_model_that_has_no_other(plain, form, output):
    view = attack_view(two_outputs(plain, form), output=output)
    assert classifier_output(view)[:2] == ("softmax", 3)
    np.testing.assert_allclose(view(IMAGES), plain(IMAGES), rtol=1e-6)
    attack = ATTACKS["pgd"](EPSILON)
    expected = attack(plain, IMAGES, LABELS)
    np.testing.assert_allclose(attack(view, IMAGES, LABELS), expected, atol=1e-6)
    before = logits_model(view)(IMAGES).numpy()
    view.set_weights([1000 * weight for weight in view.get_weights()])  # logits behind the softmax
    np.testing.assert_allclose(logits_model(view)(IMAGES), 1000 * before, rtol=1e-4)


class TestSeveralInputs:
    @pytest.fixture(scope="class")
    def view(self, plain):
        return attack_view(two_inputs(plain, "dict"), attacked_input="image")

    @staticmethod
    def one_by_one(call):
        """A slow reference: for each example a model of one input, with its prior in the bias."""
        model = linear_model(1.0)
        kernel, bias = model.get_weights()
        found = []
        for k, prior in enumerate(PRIORS):
            model.set_weights([kernel, bias + 5 * prior])
            found.append(call(model, IMAGES[k : k + 1], LABELS[k : k + 1], k))
        return np.concatenate(found)

    @pytest.mark.parametrize("form", ["dict", "list"])
    def test_the_other_input_goes_with_its_example_and_is_not_changed(self, plain, form):
        view = attack_view(two_inputs(plain, form), attacked_input="image")
        inputs = {"image": IMAGES, "prior": PRIORS} if form == "dict" else (IMAGES, PRIORS)
        names = ("fab", "square") if form == "dict" else ("pgd",)
        for make in (*(ATTACKS[name] for name in names), FGSM):
            attack = make(EPSILON, batch_size=16)
            found = attack(view, inputs, LABELS)
            assert type(found) is type(inputs)
            image, prior = (found["image"], found["prior"]) if form == "dict" else found
            expected = self.one_by_one(lambda *case, attack=attack: attack(*case))
            np.testing.assert_allclose(image, expected, atol=1e-6)
            assert prior is PRIORS

    def test_evaluation_is_that_of_one_model_for_each_example(self, view):
        inputs = {"image": IMAGES, "prior": PRIORS}
        attacks = [ATTACKS["square"](EPSILON)]
        result = evaluation.robust_accuracy(view, inputs, LABELS, attacks, batch_size=16)
        expected = self.one_by_one(
            lambda model, images, labels, k: (
                evaluation.robust_accuracy(model, images, labels, attacks, first_index=k).robust
            )
        )
        np.testing.assert_array_equal(result.robust, expected)
        assert 0 < result.worst_case < result.clean < 1
        swept = evaluation.sweep(view, inputs, LABELS, epsilons=(0.0, EPSILON), batch_size=16)
        expected = self.one_by_one(
            lambda model, images, labels, _: np.moveaxis(
                evaluation.sweep(model, images, labels, epsilons=(0.0, EPSILON)).correct, -1, 0
            )
        )
        np.testing.assert_array_equal(np.moveaxis(swept.correct, -1, 0), expected)
        soft = self.one_by_one(lambda model, images, *_: model(images).numpy())
        found = np.exp(evaluation.log_probabilities(view, inputs, batch_size=16))
        np.testing.assert_allclose(found, soft, atol=1e-6)

    def test_a_sweep_returns_inputs_for_every_epsilon(self, view):
        inputs = {"image": tf.constant(IMAGES), "prior": PRIORS}
        for attack in (FGSM(0.1), PGD(0.1, n_iter=2)):
            found = attack.sweep(view, inputs, LABELS, (0.0, EPSILON))
            assert tf.is_tensor(found["image"])
            np.testing.assert_array_equal(found["image"][0], IMAGES)
            np.testing.assert_array_equal(found["prior"], [PRIORS, PRIORS])

    def test_transfer_from_a_model_of_one_input(self, view, plain):
        source = PGD(EPSILON, n_iter=2, stop_early=False)
        found = Transfer(source, plain)(view, {"image": IMAGES, "prior": PRIORS}, LABELS)
        made = source(plain, IMAGES, LABELS)
        moved = (found["image"] != IMAGES).any(axis=(1, 2, 3))
        assert moved.any()
        np.testing.assert_allclose(found["image"][moved], made[moved], atol=1e-6)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (IMAGES, r"dict with the inputs \['image', 'prior'\]"),
            ({"image": IMAGES}, r"Received: \['image'\]"),
            ({"image": IMAGES, "prior": PRIORS[:-1]}, "'prior' must have shape"),
            ((IMAGES, PRIORS[:, :2]), "'prior' must have shape"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused(self, view, images, message):
        with pytest.raises(ValueError, match=message):
            FGSM(0.1)(view, images, LABELS)


class Shift(layers.Layer):
    """Adds random numbers, the same to the whole batch."""

    def __init__(self, size=0.3):
        super().__init__()
        self.generator = keras.random.SeedGenerator(7)
        self.size = size

    def call(self, x):
        return x + self.size * keras.random.normal(ops.shape(x)[1:], seed=self.generator)


class TestRandomModels:
    @pytest.fixture(scope="class")
    def noisy(self):
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [
                keras.Input((2, 2, 3)),
                Shift(),
                layers.Flatten(),
                layers.Dense(8, "tanh", kernel_initializer=keras.initializers.RandomNormal(0, 1)),
                layers.Dense(3, "softmax"),
            ]
        )

    @staticmethod
    def rewind(noisy):
        noisy.layers[0].generator.state.assign([0, 7])

    def single_passes(self, noisy, count):
        """A slow reference: logits, log-odds and their gradients of one pass after another."""
        self.rewind(noisy)
        found = []
        for _ in range(count):
            with tf.GradientTape() as tape:
                images = tf.constant(IMAGES)
                tape.watch(images)
                logits = logits_of(noisy, images)
                value = objectives.get("ce").surrogate(LABELS, logits)
            found.append((logits.numpy(), value.numpy(), tape.gradient(value, images).numpy()))
        return map(np.array, zip(*found, strict=True))

    def test_the_gradient_is_the_mean_of_those_of_single_passes(self, noisy):
        view = attack_view(noisy, eot=4)
        logits, _, gradients = self.single_passes(noisy, 4)
        assert gradients.std(axis=0).max() > 0.01
        mean = np.log(np.mean(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=0))

        @tf.function
        def found(images):
            return compute_gradients(view, images, LABELS, [objectives.get("ce")], "logits")

        self.rewind(noisy)
        seen, (gradient,) = found(tf.constant(IMAGES))
        np.testing.assert_allclose(seen, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gradient, gradients.mean(axis=0), rtol=1e-4, atol=1e-6)
        self.rewind(noisy)
        np.testing.assert_allclose(view(IMAGES), mean, rtol=1e-4, atol=1e-5)

    def test_each_step_of_an_attack_uses_this_mean(self, noisy):
        """The first step of PGD in L2 is along the mean gradient of its first passes."""
        view = attack_view(noisy, eot=4)
        attack = PGD(0.1, norm="l2", n_iter=2, random_start=False, stop_early=False, step_size=1.0)

        @tf.function
        def step(images):
            none = tf.zeros(len(IMAGES), tf.int32)
            sizes = tf.fill([len(IMAGES)], tf.constant(0.1, tf.float64))
            fixed = (images, tf.constant(LABELS), none, none, none, sizes)
            state = State(*fixed, images, images, sizes - np.inf, none, none > 0)
            state = attack.step(view, state)
            return state.point, state.score

        _, values, gradients = self.single_passes(noisy, 4)
        step.get_concrete_function(tf.TensorSpec(IMAGES.shape))
        self.rewind(noisy)
        point, score = step(tf.constant(IMAGES))
        mean = gradients.mean(axis=0)
        sizes = np.linalg.norm(mean.reshape(len(mean), -1), axis=1)
        expected = IMAGES + 0.1 * mean / sizes[:, None, None, None]
        np.testing.assert_allclose(point, expected, atol=1e-5)
        np.testing.assert_allclose(score, values.mean(axis=0), rtol=1e-4)

    def test_one_pass_is_the_model_itself(self, noisy):
        view = attack_view(noisy, eot=1)
        self.rewind(noisy)
        expected = noisy(IMAGES).numpy()
        self.rewind(noisy)
        np.testing.assert_allclose(view(IMAGES), expected, rtol=1e-6)

    def test_a_model_that_is_not_random_is_attacked_as_before(self, plain):
        view = attack_view(plain, eot=3)
        for name in ("pgd", "square"):
            attack = ATTACKS[name](EPSILON)
            expected = attack(plain, IMAGES, LABELS)
            np.testing.assert_allclose(attack(view, IMAGES, LABELS), expected, atol=1e-5)


@keras.saving.register_keras_serializable()
class Quantise(layers.Layer):
    """Rounds to eighths: its gradient is zero."""

    def call(self, x):
        return ops.round(8 * x) / 8


class TestStraightThrough:
    @pytest.fixture(scope="class")
    def quantised(self, plain):
        inputs = keras.Input((2, 2, 3))
        inner = keras.Sequential([layers.Identity(name="nothing"), Quantise(name="quantise")])
        return keras.Model(inputs, plain(inner(inputs)))

    def test_the_forward_pass_is_exact(self, quantised):
        view = attack_view(quantised, straight_through="quantise")
        images = IMAGES.copy()
        images[0] = 0.0
        np.testing.assert_array_equal(view(images), quantised(images))
        np.testing.assert_array_equal(view.predict(images, verbose=0), quantised.predict(images))

    def test_the_gradient_is_that_behind_the_layer(self, quantised, plain):
        layer = quantised.layers[1].layers[1]
        assert (FGSM(0.1)(quantised, IMAGES, LABELS) == IMAGES).all()
        view = attack_view(quantised, straight_through=layer)
        assert "call" not in vars(layer)
        rounded = np.round(8 * IMAGES) / 8
        step = FGSM(0.1)(plain, rounded, LABELS) - rounded
        np.testing.assert_allclose(FGSM(0.1)(view, IMAGES, LABELS) - IMAGES, step, atol=1e-6)
        # nothing about the model itself has changed
        assert (FGSM(0.1)(quantised, IMAGES, LABELS) == IMAGES).all()

    def test_a_layer_that_fails_is_put_back(self, plain):
        class Fails(Quantise):
            fails = False

            def call(self, x):
                if self.fails:
                    raise RuntimeError("broken")
                return super().call(x)

        layer = Fails()
        model = keras.Sequential([keras.Input((2, 2, 3)), layer, *plain.layers])
        view = attack_view(model, straight_through=[layer])
        layer.fails = True
        with pytest.raises(RuntimeError, match="broken"):
            view(IMAGES)
        assert "call" not in vars(layer)


def test_everything_at_once(plain):
    """Two outputs, two inputs, a random and a rounding layer."""
    image, prior = keras.Input((2, 2, 3), name="image"), keras.Input((3,), name="prior")
    flat = layers.Flatten()(Quantise(name="quantise")(Shift(0.0)(image)))
    logits = layers.Add()([plain.layers[-1](flat), prior])
    dense = layers.Dense(3)
    model = keras.Model([image, prior], [layers.Dense(1, name="size")(flat), dense(logits)])
    dense.set_weights([np.eye(3), np.zeros(3)])
    options = {"output": 1, "attacked_input": "image", "eot": 2, "straight_through": "quantise"}
    view = attack_view(model, **options)
    result = evaluation.robust_accuracy(view, (IMAGES, PRIORS), LABELS, PGD(0.2, n_iter=3))
    assert result.worst_case < result.clean


@pytest.fixture(scope="module")
def application():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=10
    )


def test_an_application_is_attacked_in_the_pixels_of_its_users(application):
    model = with_preprocessing(application, keras.applications.mobilenet_v2.preprocess_input)
    images = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype("float32")
    labels = np.arange(6)
    inner = images / 127.5 - 1
    np.testing.assert_allclose(model(images), application(inner), atol=1e-6)
    assert classifier_output(model)[:2] == ("softmax", 10)
    moved = FGSM(2.55, bounds=(0, 255))(model, images, labels)
    with tf.GradientTape() as tape:
        inner = tf.constant(inner)
        tape.watch(inner)
        value = objectives.get("ce").surrogate(labels, logits_of(application, inner))
    expected = np.clip(images + 2.55 * np.sign(tape.gradient(value, inner)), 0, 255)
    assert (np.abs(moved - expected) < 1e-3).mean() > 0.99


def test_preprocessing_of_channels_and_sizes_is_saved_with_the_model(plain, tmp_path):
    """ResNet's swaps the colours and subtracts a mean; a layer changes the size."""
    images = 255 * IMAGES
    function = keras.applications.resnet.preprocess_input
    model = with_preprocessing(plain, function)
    np.testing.assert_allclose(model(images), plain(function(images.copy())), atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    resized = with_preprocessing(plain, layers.Resizing(2, 2), input_shape=(4, 4, 3))
    larger = np.repeat(np.repeat(IMAGES, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(resized(larger), plain(IMAGES), atol=1e-5)


def test_preprocessing_that_cannot_be_a_part_of_the_model_is_refused(plain):
    for function, message in ((3, "Received: 3"), (tf.image.adjust_gamma, "keras.ops")):
        with pytest.raises(ValueError, match=message):
            with_preprocessing(plain, function)


def test_a_saved_view_is_audited_as_a_file(plain, tmp_path):
    """The command line then needs to know nothing about outputs, passes and layers."""
    inputs = keras.Input((2, 2, 3))
    images = Quantise(name="quantise")(inputs)
    outputs = {"class": plain(images), "size": layers.Dense(1)(layers.Flatten()(inputs))}
    model = keras.Model(inputs, outputs)
    view = attack_view(model, output="class", eot=2, straight_through="quantise")
    view.save(tmp_path / "view.keras")
    loaded = keras.saving.load_model(tmp_path / "view.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(IMAGES), view(IMAGES), atol=1e-6)
    moved = FGSM(0.1)(loaded, IMAGES, LABELS)
    assert (moved != IMAGES).all()
    np.testing.assert_allclose(moved, FGSM(0.1)(view, IMAGES, LABELS), atol=1e-6)


@pytest.mark.slow
def test_an_audit_and_its_findings_take_a_view(plain):
    view = attack_view(two_inputs(plain, "list"), attacked_input="image")
    inputs, labels = (IMAGES[:20], PRIORS[:20]), np.asarray(view((IMAGES[:20], PRIORS[:20])))
    result = audit.audit(view, inputs, labels.argmax(axis=-1), EPSILON, attacks=("noise", "pgd"))
    assert result.find_row("none", 0.0).accuracy == 1
    assert all(finding.verdict != "fault" for finding in result.findings)


def test_averaged_randomness_is_a_warning_and_a_single_pass_a_fault():
    passes = np.random.default_rng(0).normal(size=(5, 4, 3))
    once = model_checks.randomized_forward(passes, passes[:2])
    averaged = model_checks.randomized_forward(passes, passes[:2], eot=20)
    assert (once.verdict, averaged.verdict) == ("fault", "warning")
    assert "mean over 20 passes" in averaged.meaning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "colours"}, r"one of the outputs \['colour', 'kind'\].*'colours'"),
        ({"output": 2}, "output=2"),
        ({}, r"one by `models.attack_view`"),
        ({"output": "kind", "attacked_input": "picture"}, "one of the inputs.*'picture'"),
        ({"output": "kind", "eot": 0}, "eot"),
        ({"output": "kind", "eot": 2.5}, "eot"),
        ({"output": "kind", "straight_through": "jpeg"}, r"The layers are \[.*'kind'.*'jpeg'"),
        ({"output": "kind", "straight_through": layers.Identity(name="x")}, "Received: 'x'"),
        ({"output": "kind", "straight_through": "colour"}, "same shape"),
    ],
)
def test_bad_choices_are_named(plain, options, message):
    model = two_outputs(plain, "list")
    with pytest.raises(ValueError, match=message):
        attack_view(model, **options)


def test_views_are_for_inference_and_of_models(plain):
    with pytest.raises(ValueError, match=r"keras\.Model"):
        attack_view(lambda x: x)
    for eot in (1, 2):
        with pytest.raises(ValueError, match="inference"):
            attack_view(plain, eot=eot)(IMAGES, training=True)
    with pytest.raises(ValueError, match="attacked_input"):
        attack_view(two_inputs(plain, "dict"))
    fixed = keras.Input(batch_shape=(8, 12))
    with pytest.raises(ValueError, match="fixed batch size 8"):
        attack_view(keras.Model(fixed, layers.Dense(3)(fixed)))
