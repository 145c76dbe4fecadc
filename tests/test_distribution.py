import keras
import numpy as np
import pytest
import tensorflow as tf

from hr_keras import HRLoss, distribution


def mirrored(replicas):
    """N replicas on N logical CPUs; this reduction lets one process use several N in turn."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{k}" for k in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def train(strategy, weights=None, batch_size=12, n=53):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, 6)).astype("float32")
    labels = generator.integers(4, size=n)
    weights = generator.integers(0, 3, size=n) if weights else None
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="softmax")])
        model.set_weights([0.5 * generator.normal(size=(6, 4)), np.zeros(4)])
        model.compile(keras.optimizers.SGD(0.5), loss=HRLoss(alpha=3.0))
    history = model.fit(
        images, labels, sample_weight=weights, batch_size=batch_size, shuffle=False, verbose=0
    )
    return np.concatenate([w.ravel() for w in model.get_weights()]), history.history["loss"][0]


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_train_the_model_that_one_device_trains(replicas, weights):
    """Five steps at learning rate 0.5, the last batch uneven."""
    one, loss_one = train(distribution.get_strategy("none"), weights)
    many, loss_many = train(mirrored(replicas), weights)
    np.testing.assert_allclose(many, one, atol=1e-6)
    assert loss_many == pytest.approx(loss_one, rel=1e-5)


def test_strategies_by_name():
    assert distribution.get_strategy("none").num_replicas_in_sync == 1
    assert distribution.get_strategy("auto").num_replicas_in_sync == 1  # no GPU here
    assert distribution.get_strategy("mirrored").num_replicas_in_sync == 4
    with pytest.raises(ValueError, match="Did you mean 'mirrored'"):
        distribution.get_strategy("mirored")
