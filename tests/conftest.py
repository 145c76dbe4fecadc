"""What all tests share. TensorFlow is imported in functions: who hands out tests needs none."""

import os

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
settings.register_profile("hr_keras", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("hr_keras")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Without arguments, the tests run in two processes; `-n` and `--dist` say otherwise."""
    if hasattr(config, "workerinput"):  # a worker has the arguments of the whole
        return
    everything = config.args_source == config.ArgsSource.TESTPATHS and not config.option.usepdb
    if everything and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses, config.option.dist = 2, "worksteal"


def pytest_collection(session):
    """Replicas on one machine: must be said before TensorFlow starts its devices."""
    if session.config.pluginmanager.hasplugin("dsession"):
        return  # the workers collect
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )
    if hasattr(session.config, "workerinput"):  # as many threads as processes, not as many each
        tf.config.threading.set_intra_op_parallelism_threads(1)


@pytest.fixture(scope="session")
def digits():
    from hr_keras import datasets

    return datasets.load("mnist10k")


@pytest.fixture(scope="session")
def cnn(digits):
    """The paper's network after two epochs: far from chance and not saturated."""
    import keras

    from hr_keras import models

    model = models.mnist_cnn(seed=0)
    model.compile(keras.optimizers.SGD(0.05), loss="sparse_categorical_crossentropy")
    model.fit(*digits.train, batch_size=100, epochs=2, verbose=0)
    return model


@pytest.fixture
def linear():
    """A linear softmax classifier on 12 pixels with 3 classes, of fixed weights."""
    return linear_model(scale=1.0)


def linear_model(scale, classifier_activation="softmax"):
    import keras

    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=classifier_activation),
        ]
    )
    model.set_weights([scale * generator.normal(size=(12, 3)), generator.normal(size=3)])
    return model


def noisy(model):
    """The model behind a layer that adds noise at inference too, from a generator of its own."""
    import keras

    class Noise(keras.layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.generator = keras.random.SeedGenerator(3)

        def call(self, x):
            return x + 0.3 * keras.random.normal(keras.ops.shape(x), seed=self.generator)

    with model.distribute_strategy.scope():
        return keras.Sequential([keras.Input((2, 2, 3)), Noise(), model])


def mirrored(replicas):
    """N replicas on N logical CPUs; this reduction lets one process use several N in turn."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(
        [f"CPU:{k}" for k in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
