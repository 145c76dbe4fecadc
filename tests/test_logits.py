import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from hr_keras._core.logits import classifier_output, known_logits
from hr_keras.models import logits_model, mnist_cnn

IMAGES = np.random.default_rng(0).random((5, 8, 8, 1)).astype("float32")


def sequential():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
    )


def activation_layer():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Activation("softmax")(x))


def softmax_layer():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Softmax()(x))


def convolution():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 8, activation="softmax")(inputs)
    return keras.Model(inputs, keras.layers.Flatten()(x))


def nested():
    inputs = keras.Input((8, 8, 1))
    inner = keras.Sequential([keras.layers.Rescaling(2.0), sequential()])
    return keras.Model(inputs, inner(inputs))


def operation():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.ops.softmax(x / 2.0))


class Subclassed(keras.Model):
    def __init__(self, softmax=tf.nn.softmax):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(4)
        self.softmax = softmax

    def call(self, images):
        return self.softmax(self.dense(self.flatten(images)))


def subclassed():
    model = Subclassed()
    model(IMAGES)
    return model


def half_precision():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, "softmax", dtype="mixed_float16")(x))


STRIPPED = [
    sequential,
    activation_layer,
    softmax_layer,
    convolution,
    nested,
    operation,
    subclassed,
]


@pytest.mark.parametrize("make", STRIPPED)
def test_logits_are_those_behind_the_softmax(make):
    model = make()
    model.set_weights([3 * weight for weight in model.get_weights()])
    logits = logits_model(model)
    expected = model(IMAGES).numpy()
    assert classifier_output(model).kind == "softmax"
    np.testing.assert_allclose(reference.softmax(logits(IMAGES)), expected, atol=1e-6)
    np.testing.assert_allclose(logits.predict(IMAGES, verbose=0), logits(IMAGES), atol=1e-5)
    assert (np.abs(logits(IMAGES).numpy().sum(axis=-1) - 1) > 1e-3).any()


@pytest.mark.parametrize("make", STRIPPED)
def test_logits_survive_where_probabilities_saturate(make):
    model = make()
    before = logits_model(model)(IMAGES).numpy()
    model.set_weights([1000 * weight for weight in model.get_weights()])
    # every model here is linear in its last layer's weights, which the logits model shares
    np.testing.assert_allclose(logits_model(model)(IMAGES), 1000 * before, rtol=1e-4, atol=1e-2)


def test_half_precision_logits_come_back_as_float32():
    model = half_precision()
    logits = logits_model(model)(IMAGES)
    assert logits.dtype == "float32"
    np.testing.assert_allclose(reference.softmax(logits), model(IMAGES), atol=2e-3)


def test_a_model_with_logits_is_returned_as_it_is():
    model = mnist_cnn((12, 12, 1), 3, classifier_activation=None)
    assert logits_model(model) is model


def test_probabilities_without_a_softmax_become_their_logarithms():
    def normalised(x):
        x = tf.exp(x)
        return x / tf.reduce_sum(x, axis=-1, keepdims=True)

    model = Subclassed(normalised)
    expected = model(IMAGES).numpy()
    assert classifier_output(model).kind == "probabilities"
    logits = logits_model(model)(IMAGES).numpy()
    np.testing.assert_allclose(logits, np.log(expected), rtol=1e-5)


def test_the_logits_model_follows_training_and_can_be_saved(tmp_path):
    model = sequential()
    logits = logits_model(model)
    before = logits(IMAGES).numpy()
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([0, 1, 2, 3, 0]), verbose=0)
    after = logits(IMAGES).numpy()
    assert np.abs(after - before).max() > 1e-4
    logits.save(tmp_path / "logits.keras")
    loaded = keras.models.load_model(tmp_path / "logits.keras")
    np.testing.assert_allclose(loaded(IMAGES), after, rtol=1e-6)


def test_layers_added_later_are_seen():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    assert classifier_output(model)[:3] == ("logits", 64, "float32")
    model.add(keras.layers.Dense(4, "softmax"))
    assert classifier_output(model)[:3] == ("softmax", 4, "float32")
    logits = logits_model(model)
    expected = logits(IMAGES).numpy()
    model.layers[-1].activation = keras.activations.linear
    assert classifier_output(model).kind == "logits"
    np.testing.assert_array_equal(logits(IMAGES), expected)


def test_a_logits_model_can_be_exported(tmp_path):
    logits = logits_model(sequential())
    expected = logits(IMAGES).numpy()
    logits.export(tmp_path / "saved", verbose=False)
    restored = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(restored.serve(IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_classifier_is_refused():
    one = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, "softmax")])
    with pytest.raises(ValueError, match="always 1"):
        logits_model(one)
    inputs = keras.Input((8,))
    two = keras.Model(inputs, {"a": keras.layers.Dense(2)(inputs)})
    with pytest.raises(ValueError, match="one tensor"):
        logits_model(two)
    with pytest.raises(ValueError, match="call it once"):
        logits_model(Subclassed())
    second = keras.Input((8,))
    added = keras.layers.Add()([inputs, second])
    pair = keras.Model([inputs, second], keras.layers.Dense(2)(added))
    with pytest.raises(ValueError, match="2 inputs"):
        logits_model(pair)
    with pytest.raises(ValueError, match="function"):
        classifier_output(lambda x: x)
    with pytest.raises(ValueError, match="inference"):
        logits_model(sequential())(IMAGES, training=True)


class TestKnownLogits:
    logits = np.array([[30.0, -30.0], [0.5, 0.0]], "float32")

    @pytest.mark.parametrize(
        "after",
        [
            lambda q: q,
            tf.identity,
            lambda q: tf.cast(q, "float16"),
            lambda q: tf.reshape(q, (2, 1, 2)),
            lambda q: tf.squeeze(tf.reshape(q, (2, 1, 1, 2)), (1, 2)),
        ],
        ids=["softmax", "identity", "cast", "reshape", "squeeze"],
    )
    def test_found_in_a_graph_behind_what_changes_no_value(self, after):
        found = []

        @tf.function
        def graph(z):
            found.append(known_logits(after(tf.nn.softmax(z))))
            return found[0]

        recovered = graph(tf.constant(self.logits))
        np.testing.assert_array_equal(tf.reshape(recovered, (2, 2)), self.logits)

    @pytest.mark.parametrize(
        "after",
        [lambda q: q + 0.0, lambda q: tf.reshape(q, (1, 4)), lambda q: q[:, ::-1]],
        ids=["arithmetic", "another row", "reversed"],
    )
    def test_not_claimed_behind_anything_else(self, after):
        found = []

        @tf.function
        def graph(z):
            found.append(known_logits(after(tf.nn.softmax(z))))
            return z

        graph(tf.constant(self.logits))
        assert found == [None]

    def test_found_eagerly_on_keras_own_softmax(self):
        outputs = keras.activations.softmax(tf.constant(self.logits))
        np.testing.assert_array_equal(known_logits(outputs), self.logits)
        assert known_logits(tf.nn.softmax(self.logits)) is None
