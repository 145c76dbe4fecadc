import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from hr_keras.attacks._input_gradient import InputGradient
from hr_keras.models import mnist_cnn, resnet8


def classifier(*hidden, shape=(12, 9, 1)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), *hidden, layers.Flatten(), layers.Dense(4)])


def ancestors(operation):
    """Types of the operations that one needs; TensorFlow leaves out any other of the graph."""
    seen, waiting = set(), [operation]
    while waiting:
        each = waiting.pop()
        if each.name not in seen:
            seen.add(each.name)
            waiting += [tensor.op for tensor in each.inputs]
    return {operation.graph.get_operation_by_name(name).type for name in seen}


def gradients(model, dtype="float32"):
    """Ours, automatic differentiation's, and the operations that ours depends on."""
    images = np.random.default_rng(0).random((3, *model.input_shape[1:])).astype(dtype)
    found = {}

    def passes(images):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            value = tf.reduce_sum(model(images, training=False) ** 2, axis=-1)
        ours = InputGradient(tape, images)(value)
        found["operations"] = ancestors(ours.op)
        return ours, tape.gradient(value, images, unconnected_gradients="zero")

    ours, automatic = tf.function(passes)(tf.constant(images))
    return ours.numpy(), automatic.numpy(), found["operations"]


@pytest.mark.parametrize(
    "convolution",
    [
        layers.Conv2D(8, 3),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.Conv2D(8, (5, 2), padding="same"),
        layers.Conv2D(8, 4, padding="same"),
        layers.Conv2D(8, 1),
        layers.Conv2D(3, (2, 5)),
    ],
    ids=["3", "same", "same 5×2", "same 4", "1", "2×5"],
)
def test_a_first_convolution_of_one_channel_is_transposed_by_one_product(convolution):
    ours, automatic, operations = gradients(classifier(convolution))
    np.testing.assert_allclose(ours, automatic, rtol=1e-4, atol=1e-5 * abs(automatic).max())
    assert "Conv2DBackpropInput" not in operations


def test_what_the_model_does_before_its_first_convolution_is_differentiated_too():
    model = mnist_cnn(mean_image=np.full((28, 28, 1), 0.3), classifier_activation=None, seed=0)
    shrinking = classifier(layers.Rescaling(0.25, offset=-1), layers.Conv2D(8, 3))
    for each in (model, shrinking):
        ours, automatic, _ = gradients(each)
        np.testing.assert_allclose(ours, automatic, rtol=1e-4, atol=1e-5 * abs(automatic).max())


@pytest.mark.parametrize("blocked", [tf.round, tf.stop_gradient])
def test_images_that_no_gradient_reaches_before_the_convolution_have_a_zero_one(blocked):
    ours, automatic, _ = gradients(classifier(layers.Lambda(blocked), layers.Conv2D(8, 3)))
    np.testing.assert_array_equal(ours, np.zeros_like(ours))
    np.testing.assert_array_equal(automatic, ours)


class Straight(layers.Layer):
    """Rounds, and passes the gradient on times 3, with its convolution inside or after it."""

    def __init__(self, inside):
        super().__init__()
        self.convolution, self.inside = layers.Conv2D(8, 3), inside

    def build(self, shape):
        self.convolution.build(shape)

    def call(self, images):
        @tf.custom_gradient
        def rounded(x):
            return tf.round(x), lambda upstream: 3.0 * upstream

        @tf.custom_gradient
        def convolved(x):
            def gradient(upstream, variables):
                return tf.ones_like(x) * tf.reduce_sum(upstream), [None] * len(variables)

            return self.convolution(x), gradient

        return convolved(images) if self.inside else self.convolution(rounded(images))


class Residual(layers.Layer):
    """The images reach the logits beside the convolution too."""

    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv2D(8, 3, padding="same")

    def call(self, images):
        return self.convolution(images) + images


@pytest.mark.parametrize(
    ("hidden", "shape", "dtype"),
    [
        (Straight(inside=True), (12, 9, 1), "float32"),
        (Straight(inside=False), (12, 9, 1), "float32"),
        (Residual(), (12, 9, 1), "float32"),
        (layers.Conv2D(8, 3, strides=2), (12, 9, 1), "float32"),
        (layers.Conv2D(8, 3, dilation_rate=2), (12, 9, 1), "float32"),
        (layers.Conv2D(8, 3), (12, 9, 3), "float32"),
        (layers.Conv2D(8, 3, dtype="float64"), (12, 9, 1), "float64"),
        (layers.Dense(5), (12, 9, 1), "float32"),
        (layers.Lambda(tf.zeros_like), (12, 9, 1), "float32"),
    ],
    ids=["hidden", "straight", "beside", "strides", "holes", "rgb", "double", "dense", "no path"],
)
def test_any_other_first_layer_has_the_gradient_of_automatic_differentiation(hidden, shape, dtype):
    ours, automatic, _ = gradients(classifier(hidden, shape=shape), dtype)
    np.testing.assert_allclose(ours, automatic, rtol=1e-4, atol=1e-5)


def test_a_stem_of_three_channels_is_left_to_tensorflow():
    _, _, operations = gradients(resnet8((16, 16, 3), classifier_activation=None, seed=0))
    assert "Conv2DBackpropInput" in operations
