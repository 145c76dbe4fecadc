"""Attack objectives and FGSM."""

import gc
import weakref

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import linear_model
from hypothesis import given
from hypothesis import strategies as st

from hr_keras import HRLoss, evaluation
from hr_keras.attacks import FGSM, _attack, objectives
from hr_keras.models import logits_model, mnist_cnn

UNBOUNDED = (-1e9, 1e9)


def images_and_labels(n=40, shape=(2, 2, 3), classes=3):
    generator = np.random.default_rng(1)
    images = generator.uniform(0.3, 0.7, size=(n, *shape)).astype("float32")
    return images, generator.integers(classes, size=n)


def gradient_in_float64(name, logits, label):
    """∂/∂logits of CE or CE + H by its closed form in float64, scaled to size 1."""
    log_q = reference.log_softmax(logits)
    q = np.exp(log_q)
    gradient = q.copy()
    # q_y − 1 = −Σ_{k≠y} q_k, which does not cancel
    gradient[label] = -np.delete(q, label).sum()
    if name == "hr":
        gradient += -q * (log_q - (q * log_q).sum())
    return gradient / np.abs(gradient).max()


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from([0.1, 1.0, 8.0]))
def test_surrogates_have_the_direction_of_their_objectives(seed, classes, scale):
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=classes)
    label = int(generator.integers(classes))
    for name in ("ce", "hr"):
        z = tf.constant(logits[None])
        with tf.GradientTape() as tape:
            tape.watch(z)
            surrogate = objectives.get(name).through("logits", tf.constant([label]), z)
        ours = tape.gradient(surrogate, z).numpy()[0]
        expected = gradient_in_float64(name, logits, label)
        np.testing.assert_allclose(ours / np.abs(ours).max(), expected, atol=1e-7)


@pytest.mark.parametrize("name", ["ce", "hr"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_sign_equals_float64_differentiation_however_saturated(name, scale):
    """Logits × 1000: float32 automatic differentiation gets signs wrong or loses them."""
    images, labels = images_and_labels()
    model = linear_model(scale)
    direction = FGSM(1.0, name, bounds=UNBOUNDED)(model, images, labels) - images
    kernel, bias = (weight.astype("float64") for weight in model.get_weights())
    for image, label, step in zip(images, labels, direction, strict=True):
        logits = image.reshape(-1).astype("float64") @ kernel + bias
        if scale == 1.0:
            expected = kernel @ gradient_in_float64(name, logits, label)
        else:  # in the limit only the strongest other class is left
            other = np.where(np.arange(3) == label, -np.inf, logits).argmax()
            expected = kernel[:, other] - kernel[:, label]
        np.testing.assert_array_equal(np.sign(step.reshape(-1)), np.sign(expected))


@pytest.mark.parametrize("name", ["ce", "hr"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sign_equals_float64_differentiation_of_a_deep_model(name, scale):
    """A convolution, tanh and two dense layers, evaluated and differentiated in float64."""
    images, _ = images_and_labels(20, (8, 8, 1))

    def build(dtype):
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((8, 8, 1), dtype=dtype),
                layers.Conv2D(6, 3, activation="tanh", dtype=dtype),
                layers.Flatten(dtype=dtype),
                layers.Dense(16, activation="tanh", dtype=dtype),
                layers.Dense(5, dtype=dtype),
            ]
        )

    keras.utils.set_random_seed(0)
    model, exact = build("float32"), build("float64")
    *first, kernel, bias = model.get_weights()
    model.set_weights([*first, 10 * scale * kernel, bias])
    exact.set_weights(model.get_weights())
    labels = model(images).numpy().argmax(axis=-1)
    x = tf.constant(images, "float64")
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = exact(x)
        output = tf.stop_gradient(
            np.array(
                [
                    gradient_in_float64(name, z, label)
                    for z, label in zip(logits.numpy(), labels, strict=True)
                ]
            )
        )
        value = tf.reduce_sum(logits * output)
    expected = tape.gradient(value, x).numpy()
    step = FGSM(0.1, name)(model, images, labels) - images
    clear = np.abs(expected) > 1e-5 * np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.sign(step)[clear], np.sign(expected)[clear])


def test_saturated_half_precision_models_are_attacked_through_both_objectives():
    """The factor beside ℓ, as large as the logit gap, would overflow in float16."""
    images, _ = images_and_labels(20, (8, 8, 1))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, "relu", dtype="mixed_float16"),
            keras.layers.Dense(5, dtype="mixed_float16"),
        ]
    )
    *first, kernel, bias = model.get_weights()
    model.set_weights([*first, 3000 * kernel, bias])
    labels = model(images).numpy().argmax(axis=-1)
    result = evaluation.sweep(model, images, labels, epsilons=(0.1,))
    assert result.zero_gradient_share == {"ce": 0.0, "hr": 0.0}
    for objective in ("ce", "hr"):
        assert (FGSM(0.1, objective)(model, images, labels) != images).mean() > 0.5


def test_the_published_pipeline_loses_the_gradient_where_the_closed_form_keeps_it():
    images, _ = images_and_labels()
    model = linear_model(1000.0)
    logits = np.sort(logits_model(model)(images).numpy(), axis=-1)
    saturated = logits[:, -1] - logits[:, -2] > 16.2
    labels = model(images).numpy().argmax(axis=-1)
    exact = evaluation.sweep(model, images, labels, through="logits")
    published = evaluation.sweep(model, images, labels, through="probabilities")
    np.testing.assert_array_equal(published.zero_gradient, [saturated, saturated])
    assert saturated.mean() > 0.9
    assert exact.zero_gradient_share == {"ce": 0.0, "hr": 0.0}
    assert published.accuracy["ce", 0.25] >= saturated.mean() > exact.accuracy["ce", 0.25]


@pytest.mark.parametrize("gap", [15.5, 16.7])
def test_the_published_gradient_is_zero_from_a_gap_of_16_on(gap):
    z = tf.constant([[gap, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = objectives.get("ce").through("probabilities", tf.constant([0]), z)
    assert (tape.gradient(value, z).numpy() == 0).all() == (gap > 16)


def test_plain_differentiation_is_had_by_passing_a_loss(cnn, digits):
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    logits = logits_model(cnn)
    x = tf.constant(images)
    for plain in (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(),
        lambda y, z: tf.nn.sparse_softmax_cross_entropy_with_logits(y, z),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(x))
        expected = np.clip(images + np.float32(0.1) * np.sign(tape.gradient(value, x)), 0, 1)
        adversarial = FGSM(0.1, plain)(cnn, images, labels)
        assert (adversarial != expected).mean() < 1e-3  # signs of numbers at rounding's edge
        assert (adversarial == images).mean() < 0.9
    # on a model that is not saturated the closed form is the same attack
    closed = FGSM(0.1)(cnn, images, labels)
    assert (closed != expected).mean() < 2e-3


def test_hr_loss_as_objective_is_the_hr_attack(cnn, digits):
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    by_loss = FGSM(0.1, HRLoss())(cnn, images, labels)
    by_name = FGSM(0.1, "hr")(cnn, images, labels)
    assert (by_loss != by_name).mean() < 2e-3
    assert (by_name != FGSM(0.1, "ce")(cnn, images, labels)).mean() > 2e-3


def test_closed_form_on_a_linear_model():
    """x' = x + ε·sign(w_k − w_y) for two classes; robust iff margin > ε‖w_y − w_k‖₁."""
    generator = np.random.default_rng(2)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")])
    kernel, bias = generator.normal(size=(6, 2)).astype("float32"), np.zeros(2, "float32")
    model.set_weights([kernel, bias])
    images = generator.normal(size=(200, 6)).astype("float32")
    labels = generator.integers(2, size=200)
    w = kernel[:, 1 - labels].T - kernel[:, labels].T
    margin = -(images * w).sum(axis=1)
    for name in ("ce", "hr"):
        for epsilon in (0.05, 0.3):
            adversarial = FGSM(epsilon, name, bounds=UNBOUNDED)(model, images, labels)
            np.testing.assert_array_equal(adversarial, images + np.float32(epsilon) * np.sign(w))
            result = evaluation.sweep(model, images, labels, name, (epsilon,), bounds=UNBOUNDED)
            robust = margin > epsilon * np.abs(w).sum(axis=1)
            np.testing.assert_array_equal(result.correct[0, 0], robust)
            assert 0 < robust.mean() < 1


@given(st.floats(0, 0.5), st.integers(0, 1000))
def test_adversarial_images_stay_in_the_ball_and_the_bounds(epsilon, seed):
    images = np.random.default_rng(seed).random((3, 2, 2, 3)).astype("float32")
    adversarial = FGSM(epsilon)(MODEL, images, [0, 1, 2])
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert np.abs(adversarial - images).max() <= epsilon + 1e-7


MODEL = linear_model(1.0)


def test_batch_mates_never_matter(cnn, digits):
    images, labels = digits.test.images[:50], digits.test.labels[:50]
    together = FGSM(0.1)(cnn, images, labels)
    for size in (1, 7, 50):
        apart = FGSM(0.1, batch_size=size)(cnn, images, labels)
        # a convolution may round differently in another batch shape, a wrong sign is seen at once
        assert (apart != together).mean() < 1e-3
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(FGSM(0.1)(cnn, images[order], labels[order]), together[order])
    labels_changed = labels.copy()
    labels_changed[1:] = (labels[1:] + 1) % 10
    np.testing.assert_array_equal(FGSM(0.1)(cnn, images, labels_changed)[0], together[0])


def test_sweep_is_one_call_an_epsilon(cnn, digits):
    images, labels = digits.test.images[:30], digits.test.labels[:30]
    swept = FGSM(0.1, "hr").sweep(cnn, images, labels, (0.0, 0.1, 0.25))
    assert swept.shape == (3, *images.shape)
    np.testing.assert_array_equal(swept[0], images)
    for epsilon, adversarial in zip((0.1, 0.25), swept[1:], strict=True):
        np.testing.assert_array_equal(FGSM(epsilon, "hr")(cnn, images, labels), adversarial)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_goes_in_comes_out(linear, dtype):
    images, labels = images_and_labels(5)
    array = FGSM(0.1)(linear, images.astype(dtype), labels)
    assert isinstance(array, np.ndarray)
    assert array.dtype == dtype
    tensor = FGSM(0.1)(linear, tf.constant(images, dtype), tf.constant(labels))
    assert tf.is_tensor(tensor)
    np.testing.assert_array_equal(tensor, array)
    assert np.abs(array.astype("float64") - images.astype(dtype)).max() <= 0.1 * (1 + 1e-3)


def test_targeted_images_move_towards_their_class():
    images, _ = images_and_labels()
    targets = np.full(len(images), 2)
    before = logits_model(MODEL)(images).numpy()
    after = logits_model(MODEL)(FGSM(0.2, targeted=True)(MODEL, images, targets)).numpy()
    gain = reference.log_softmax(after)[:, 2] - reference.log_softmax(before)[:, 2]
    assert (gain > 0).all()
    away = FGSM(0.2)(MODEL, images, targets)
    np.testing.assert_allclose(
        away + FGSM(0.2, targeted=True)(MODEL, images, targets), 2 * images, atol=1e-6
    )


def test_label_kinds_agree_and_soft_labels_are_differentiated(linear):
    images, labels = images_and_labels()
    expected = FGSM(0.1, "hr")(linear, images, labels)
    for kind in (labels[:, None], labels.astype("float64"), np.eye(3)[labels]):
        np.testing.assert_array_equal(FGSM(0.1, "hr")(linear, images, kind), expected)
    soft = np.random.default_rng(0).dirichlet(np.ones(3), size=len(images))
    kernel, bias = (weight.astype("float64") for weight in linear.get_weights())
    q = reference.softmax(images.reshape(len(images), -1) @ kernel + bias)
    sign = np.sign((q - soft) @ kernel.T).reshape(images.shape)
    step = FGSM(0.1)(linear, images, soft) - images
    np.testing.assert_array_equal(np.sign(step), sign)
    # a row that is one class is attacked exactly whatever its batch-mates are
    mixed = soft.copy()
    mixed[0] = [0, 1, 0]
    np.testing.assert_array_equal(
        FGSM(0.1)(linear_model(1000.0), images, mixed)[0],
        FGSM(0.1)(linear_model(1000.0), images[:1], [1])[0],
    )


def test_a_gradient_that_is_no_number_leaves_the_image_alone():
    def nan_gradient(labels, logits):
        return tf.sqrt(logits[:, 0] * 0.0)

    images, labels = images_and_labels()
    np.testing.assert_array_equal(FGSM(0.1, nan_gradient)(MODEL, images, labels), images)


def test_models_are_freed_and_changes_of_structure_are_seen():
    images, labels = images_and_labels(4, (8, 8, 1))
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    FGSM(0.1)(model, images, labels)
    model.pop()
    model.add(keras.layers.Dense(3, kernel_initializer="zeros"))
    np.testing.assert_array_equal(FGSM(0.1)(model, images, labels), images)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_one_attack_on_two_models_and_retrained_weights():
    images, labels = images_and_labels()
    first, second = linear_model(1.0), linear_model(-1.0)
    attacker = FGSM(0.1)
    before = attacker(first, images, labels)
    assert (attacker(second, images, labels) != before).any()
    np.testing.assert_array_equal(attacker(first, images, labels), before)
    first.set_weights(second.get_weights())
    np.testing.assert_array_equal(attacker(first, images, labels), attacker(second, images, labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -0.1}, "-0.1"),
        ({"epsilon": float("nan")}, "nan"),
        ({"epsilon": "big"}, "big"),
        ({"epsilon": 0.1, "objective": "cee"}, "Did you mean 'ce'"),
        ({"epsilon": 0.1, "objective": 3}, "3"),
        ({"epsilon": 0.1, "through": "softmax"}, "'softmax'"),
        ({"epsilon": 0.1, "bounds": (1, 0)}, "bounds"),
        ({"epsilon": 0.1, "bounds": 1}, "bounds"),
        ({"epsilon": 0.1, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FGSM(**arguments)


GOOD, LABELS = images_and_labels(4)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD + 1, LABELS, "inside bounds"),
        (GOOD, ["a", "b", "c", "d"], "numbers"),
        (np.where(GOOD.max() == GOOD, np.nan, GOOD), LABELS, "nan"),
        ((255 * GOOD).astype("uint8"), LABELS, "floating point"),
        (GOOD[:0], LABELS[:0], "n ≥ 1"),
        (GOOD, [0, 1, 2, 3], "from 0 to 2.*to 3"),
        (GOOD, [0, 1, 2, -1], "from 0 to 2.*-1"),
        (GOOD, [0.5, 1, 2, 0], "class numbers"),
        (GOOD, LABELS[:3], r"\(4,\)"),
        (GOOD, np.full((4, 3), 0.5), "sum to 1"),
        (GOOD, np.tile([1.5, -0.5, 0], (4, 1)), "not be negative"),
    ],
)
def test_bad_images_and_labels_are_refused(images, labels, message):
    for act in (FGSM(0.1), evaluation.sweep):
        with pytest.raises(ValueError, match=message):
            act(MODEL, images, labels)


def test_bounds_are_compared_in_the_precision_of_the_images():
    lowest, highest = -0.1307 / 0.3081, 0.1
    images = np.array([[lowest] * 12, [highest] * 12], "float32").reshape(2, 2, 2, 3)
    adversarial = FGSM(0.3, bounds=(lowest, highest))(MODEL, images, [0, 1])
    FGSM(0.3, bounds=(lowest, highest))(MODEL, adversarial, [0, 1])
    assert adversarial.max() <= np.float32(highest)


def test_models_of_integer_images_are_refused():
    inputs = keras.Input((2, 2, 3), dtype="uint8")
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    with pytest.raises(ValueError, match="uint8"):
        FGSM(8.0, bounds=(0, 255))(keras.Model(inputs, outputs), 255 * GOOD, LABELS)


def test_every_loss_of_keras_can_be_an_objective_and_loss_functions_are_refused():
    """Class numbers or one row a class, whatever the loss wants."""
    expected = FGSM(0.1)(MODEL, GOOD, LABELS)
    one_hot = np.eye(3, dtype="float32")[LABELS]
    for loss in (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(),
        keras.losses.KLDivergence(),
        keras.losses.MeanSquaredError(),
    ):
        adversarial = FGSM(0.1, loss)(MODEL, GOOD, LABELS)
        np.testing.assert_array_equal(FGSM(0.1, loss)(MODEL, GOOD, one_hot), adversarial)
        if not isinstance(loss, keras.losses.MeanSquaredError):
            assert (adversarial == expected).mean() > 0.9
    with pytest.raises(ValueError, match="pass the class"):
        FGSM(0.1, keras.losses.sparse_categorical_crossentropy)


def test_soft_labels_that_sum_to_almost_one_are_normalised():
    images, labels = images_and_labels()
    almost = 0.9995 * np.eye(3)[labels]
    saturated = linear_model(1000.0)
    np.testing.assert_array_equal(
        FGSM(0.1)(saturated, images, almost), FGSM(0.1)(saturated, images, labels)
    )


def test_an_activation_changed_in_place_is_seen():
    model = linear_model(1.0)
    before = evaluation.sweep(model, GOOD, LABELS)
    model.layers[-1].activation = keras.activations.linear
    after = evaluation.sweep(model, GOOD[:3], LABELS[:3])
    np.testing.assert_array_equal(after.correct, before.correct[..., :3])


def test_objectives_that_return_one_number_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        FGSM(0.1, lambda y, z: tf.reduce_mean(z))(MODEL, GOOD, LABELS)


def test_batches_are_of_one_shape(digits):
    shapes = []

    @tf.function
    def step(images, labels):
        tf.numpy_function(lambda x: shapes.append(x.shape), [images], [])
        return (labels,)

    (labels,) = _attack.in_batches(step, *digits.test, 256)
    np.testing.assert_array_equal(labels, digits.test.labels)
    assert set(shapes) == {(250, 28, 28, 1)}
    assert len(shapes) == 8
    model = mnist_cnn((12, 12, 1), 3)
    few = np.zeros((3, 12, 12, 1), "float32")
    assert FGSM(0.1)(model, few, [0, 1, 2]).shape == few.shape


def test_a_replaced_head_is_never_attacked_through_the_old_one():
    """The freed address of a layer may be that of the next one."""
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    images = np.random.default_rng(0).random((6, 2, 2, 3), dtype="float32")
    labels = np.arange(6) % 3
    for seed in range(6):
        if seed:
            model.pop()
        kernel = keras.initializers.RandomNormal(seed=seed)
        model.add(keras.layers.Dense(3, kernel_initializer=kernel))
        fresh = keras.Sequential(
            [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        fresh.set_weights(model.get_weights())
        expected = FGSM(0.1)(fresh, images, labels)
        np.testing.assert_array_equal(FGSM(0.1)(model, images, labels), expected)
    model.set_weights([-w for w in model.get_weights()])  # in place
    fresh.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        FGSM(0.1)(model, images, labels), FGSM(0.1)(fresh, images, labels)
    )
