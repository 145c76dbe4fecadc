"""Models that end in sigmoids or in one output, in fixed batches or unknown shapes."""

import warnings

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from test_logits import IMAGES, Subclassed, subclassed

from hr_keras import HRLoss, callbacks, evaluation
from hr_keras._core.logits import classifier_output, known_logits, logits_of
from hr_keras.attacks import FGSM, PGD
from hr_keras.models import logits_model


def small(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])


def sigmoid_operation(units):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(units)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.ops.sigmoid(x))


def sigmoid_convolution(units):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(units, 8, activation="sigmoid")(inputs)
    return keras.Model(inputs, keras.layers.Flatten()(x))


class Inside(Subclassed):
    """Its call is a tf.function, as in many public models, which calls another."""

    @tf.function
    def call(self, images):
        return tf.function(lambda x: Subclassed.call(self, x))(images)


class InsideConverted(Inside):
    """Has a branch that AutoGraph must convert."""

    @tf.function
    def call(self, images):
        if tf.reduce_mean(images) > 2:
            images = 2 * images
        return self.softmax(self.dense(self.flatten(images)))


def subclassed_sigmoid(units, kind=Subclassed):
    model = kind(tf.sigmoid)
    model.dense = keras.layers.Dense(units)
    model(IMAGES)
    return model


SIGMOIDS = {
    "dense": lambda units: small(keras.layers.Dense(units, "sigmoid")),
    "layer": lambda units: small(keras.layers.Dense(units), keras.layers.Activation("sigmoid")),
    "operation": sigmoid_operation,
    "convolution": sigmoid_convolution,
    "subclassed": subclassed_sigmoid,
    "tf.function": lambda units: subclassed_sigmoid(units, Inside),
    "nested": lambda units: small(SIGMOIDS["dense"](units).layers[-1]),
}


@pytest.mark.parametrize("units", [1, 4])
@pytest.mark.parametrize("make", SIGMOIDS.values(), ids=SIGMOIDS)
def test_logits_are_those_behind_a_sigmoid(make, units):
    """One output p becomes two classes: their softmax is (1 − p, p)."""
    model = make(units)
    outputs, (kernel, bias) = model(IMAGES).numpy(), model.get_weights()
    expected = IMAGES.reshape(5, -1) @ kernel.reshape(-1, units) + bias
    np.testing.assert_allclose(outputs, 1 / (1 + np.exp(-expected)), atol=1e-6)
    if units == 1:
        expected = np.concatenate([np.zeros_like(expected), expected], axis=1)
        np.testing.assert_allclose(reference.softmax(expected)[:, 1:], outputs, atol=1e-6)
    assert classifier_output(model)[:2] == ("sigmoid", max(units, 2))
    np.testing.assert_allclose(logits_model(model)(IMAGES), expected, atol=1e-5)
    model.set_weights([1000 * weight for weight in model.get_weights()])
    np.testing.assert_allclose(logits_model(model)(IMAGES), 1000 * expected, rtol=1e-4, atol=1e-2)


def test_a_softmax_inside_a_function_and_one_that_must_be_converted():
    for kind in (Inside, InsideConverted):
        model = kind(tf.nn.softmax)
        model(IMAGES)
        assert classifier_output(model).kind == "softmax"
        expected = np.log(model(IMAGES).numpy())
        found = np.asarray(logits_model(model)(IMAGES))
        np.testing.assert_allclose(
            found - found.mean(axis=1, keepdims=True),
            expected - expected.mean(axis=1, keepdims=True),
            atol=1e-5,
        )
        FGSM(0.1)(model, IMAGES, np.arange(5) % 4)
    assert not tf.config.functions_run_eagerly()


def test_a_model_whose_logits_are_not_known_is_warned_of_once():
    inputs = keras.Input((8, 8, 1))
    exponents = keras.ops.exp(keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))
    model = keras.Model(inputs, exponents / keras.ops.sum(exponents, axis=-1, keepdims=True))
    labels = np.arange(5) % 4
    with pytest.warns(UserWarning, match=r"logits are not known.*may be far lower"):
        FGSM(0.1)(model, IMAGES, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        hidden = str(evaluation.robust_accuracy(model, IMAGES, labels, FGSM(0.1)))
        known = str(evaluation.robust_accuracy(SIGMOIDS["dense"](4), IMAGES, labels, FGSM(0.1)))
    assert hidden.count("†") == 3  # of the attack, of the worst case, of the note
    assert "may be far lower, under `standard` too" in hidden
    assert "†" not in known
    assert [line.split()[1] for line in known.splitlines()] == [
        "clean",
        "fgsm_ce_0.1",
        "worst_case",
    ]


def test_one_output_without_a_sigmoid():
    """A dense layer's are logits, whatever their values; others from 0 to 1 are probabilities."""
    linear = small(keras.layers.Dense(1))
    linear.set_weights([np.zeros((64, 1)), np.array([0.3])])
    assert classifier_output(linear)[:2] == ("logits", 2)
    np.testing.assert_allclose(logits_model(linear)(IMAGES), [[0, 0.3]] * 5, rtol=1e-6)
    hard = small(keras.layers.Dense(1, "hard_sigmoid"))
    hard.set_weights([np.zeros((64, 1)), np.array([0.3])])
    assert classifier_output(hard)[:2] == ("probabilities", 2)
    np.testing.assert_allclose(
        reference.softmax(logits_model(hard)(IMAGES)), [[0.45, 0.55]] * 5, atol=1e-6
    )


def test_a_row_of_one_number_may_lose_its_axis():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.ops.squeeze(x, axis=-1))
    expected = reference.softmax(logits_model(model)(IMAGES))[:, 1]
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-6)


def test_a_sigmoid_is_no_softmax_for_a_loss():
    """Keras marks the logits of a sigmoid in the same way as those of a softmax."""
    model = SIGMOIDS["dense"](4)
    assert known_logits(model(IMAGES)) is None
    for outputs in (model(IMAGES), model(IMAGES).numpy()):
        with pytest.raises(ValueError, match="sum to 1"):
            HRLoss()(np.zeros(5), outputs)


def test_logits_outside_a_graph():
    """TensorFlow's own softmax and sigmoid do not name their logits there."""
    for model in (subclassed(), subclassed_sigmoid(4), subclassed_sigmoid(1)):
        eager = logits_of(model, tf.constant(IMAGES))
        np.testing.assert_allclose(
            keras.ops.log_softmax(eager),
            keras.ops.log_softmax(logits_model(model)(IMAGES)),
            atol=1e-5,
        )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_model_of_a_fixed_batch_size_takes_any_number_of_images(activation):
    inputs = keras.Input(batch_shape=(8, 8, 8, 1))
    x = keras.layers.Dense(3)(keras.ops.reshape(inputs, (8, 64)))
    model = keras.Model(inputs, keras.layers.Activation(activation)(x))
    free = small(keras.layers.Dense(3, activation))
    free.set_weights(model.get_weights())
    images = np.random.default_rng(0).random((20, 8, 8, 1), dtype="float32")
    assert classifier_output(model).fixed_batch == 8
    np.testing.assert_allclose(logits_model(model)(images), logits_model(free)(images), atol=1e-5)
    labels = free.predict(images, verbose=0).argmax(axis=-1)
    attack = PGD(0.02, "margin", n_iter=2, batch_size=8)
    np.testing.assert_allclose(
        attack(model, images, labels), attack(free, images, labels), atol=1e-6
    )


class InPython(keras.layers.Layer):
    """Doubles its input in Python, of which TensorFlow does not know the shape."""

    def call(self, x):
        doubled = tf.py_function(lambda x: 2 * x, [x], x.dtype)
        # Keras' own layers need to know the shape; its gradient still has none.
        return tf.ensure_shape(doubled, x.shape) if x.shape.rank == 4 else doubled

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.parametrize("first", [True, False])
def test_shapes_that_tensorflow_does_not_know_are_found(first):
    dense = keras.layers.Dense(3)
    parts, last = ([InPython()], []) if first else ([], [InPython()])
    model = keras.Sequential([keras.Input((8, 8, 1)), *parts, keras.layers.Flatten(), dense, *last])
    kernel, bias = dense.get_weights()
    expected = 2 * (IMAGES.reshape(5, -1) @ kernel + bias)
    np.testing.assert_allclose(logits_of(model, tf.constant(IMAGES)), expected, atol=1e-5)
    labels = expected.argmax(axis=-1)
    for attack in (FGSM(0.2, "margin"), PGD(0.2, "margin", n_iter=2, random_start=False)):
        moved = attack(model, IMAGES, labels)
        assert moved.shape == IMAGES.shape
        assert (moved != IMAGES).any()
    result = evaluation.sweep(model, IMAGES, labels, "ce", through="probabilities")
    assert result.accuracy["ce", 0.0] == 1


def binary():
    model = small(keras.layers.Dense(1, "sigmoid"))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=(64, 1)), np.array([0.1])])
    images = generator.uniform(0.3, 0.7, (40, 8, 8, 1)).astype("float32")
    return model, images


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_a_binary_classifier_is_attacked_exactly_beyond_its_distance(shape):
    model, images = binary()
    kernel, bias = model.get_weights()
    logits = (images.reshape(40, -1) @ kernel + bias)[:, 0]
    labels = (logits > 0).astype("float32").reshape(shape)
    assert 0 < labels.mean() < 1
    distance = np.abs(logits) / np.abs(kernel).sum()
    epsilon = float(np.median(distance))
    clear = np.abs(distance / epsilon - 1) > 0.01
    attacks = [FGSM(epsilon, "hr"), PGD(epsilon, n_iter=10)]
    result = evaluation.robust_accuracy(model, images, labels, attacks)
    assert result.clean == 1
    for withstood in result.withstood.values():
        np.testing.assert_array_equal(withstood[clear], (distance > epsilon)[clear])
    swept = evaluation.sweep(model, images, labels, epsilons=(epsilon,))
    for correct in swept.correct[:, 0]:
        np.testing.assert_array_equal(correct[clear], (distance > epsilon)[clear])
    assert evaluation.confusion_matrix(model, images, labels).argmax(axis=0).tolist() == [0, 1]
    # saturation takes nothing from the attack
    before = FGSM(epsilon)(model, images, labels)
    model.set_weights([1000 * kernel, 1000 * bias])
    np.testing.assert_array_equal(FGSM(epsilon)(model, images, labels), before)


def test_a_binary_classifier_is_attacked_while_it_trains():
    model, images = binary()
    labels = np.arange(40)[:, None] % 2
    model.compile("sgd", loss="binary_crossentropy", metrics=["accuracy"])
    watch = callbacks.FGSMCallback((images, labels), epsilons=(0.0,), every=1)
    history = model.fit(images, labels, callbacks=[watch], verbose=0).history
    accuracy = model.evaluate(images, labels, verbose=0)[1]
    assert history["val_fgsm_ce_0_accuracy"] == [pytest.approx(accuracy)]


class Defended(keras.layers.Layer):
    """Moves its input towards what it decides itself, as an anti-adversary does."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            largest = tf.reduce_max(inputs @ self.kernel, axis=-1)
        return inputs + 0.1 * tape.gradient(largest, inputs)


def test_a_layer_that_differentiates_can_be_attacked():
    model = small(Defended(), keras.layers.Dense(3, activation="softmax"))
    images = np.random.default_rng(0).random((8, 8, 8, 1), "float32")
    assert classifier_output(model).kind == "softmax"
    adversarial = FGSM(0.1)(model, images, np.zeros(8, "int64"))
    assert np.abs(adversarial - images).max() == pytest.approx(0.1, rel=1e-5)
