import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from hr_keras import HRLoss, distribution, evaluation
from hr_keras.models import resnet8


def mirrored(replicas):
    """N replicas on N logical CPUs; this reduction lets one process use several N in turn."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{k}" for k in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def train(strategy, weights=False, batch_size=12, n=53, regularizer=None, fit=(), **arguments):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, 6)).astype("float32")
    labels = generator.integers(4, size=n)
    weights = generator.integers(0, 3, size=n) if weights else None
    with strategy.scope():
        dense = keras.layers.Dense(4, activation="softmax", kernel_regularizer=regularizer)
        model = keras.Sequential([keras.Input((6,)), dense])
        model.set_weights([0.5 * generator.normal(size=(6, 4)), np.zeros(4)])
        model.compile(keras.optimizers.SGD(0.5), loss=HRLoss(alpha=3.0), **arguments)
    history = model.fit(
        images,
        labels,
        sample_weight=weights,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        **dict(fit),
    )
    return np.concatenate([w.ravel() for w in model.get_weights()]), history.history["loss"][0]


SETTINGS = {
    "plain": {},
    "weights of which some are zero": {"weights": True},
    "last batch of one": {"n": 49},
    "class weights": {"fit": {"class_weight": {0: 1.0, 1: 0.0, 2: 5.0, 3: 0.5}}},
    "L2": {"regularizer": keras.regularizers.L2(0.05)},
    "eager": {"run_eagerly": True},
    "several steps an execution": {"steps_per_execution": 2},
}


@pytest.mark.parametrize(
    ("replicas", "setting"),
    [(2, "plain"), (4, "plain"), (4, "last batch of one"), *((3, setting) for setting in SETTINGS)],
)
def test_replicas_train_the_model_that_one_device_trains(replicas, setting):
    """Five steps at learning rate 0.5, the last batch uneven, some replicas without examples."""
    one, loss_one = train(distribution.get_strategy("none"), **SETTINGS[setting])
    many, loss_many = train(mirrored(replicas), **SETTINGS[setting])
    np.testing.assert_allclose(many, one, atol=1e-6)
    assert loss_many == pytest.approx(loss_one, rel=1e-5)


def test_a_step_has_one_collective_of_a_few_floats_for_the_loss():
    """Ten floats for two replicas, whatever the batch; and its gradient of the same size."""
    sizes = []
    for batch in (8, 512):
        strategy = mirrored(2)
        loss = HRLoss(from_logits=True)

        @tf.function
        def step(logits, strategy=strategy, loss=loss):
            return strategy.run(lambda z: loss(tf.zeros(tf.shape(z)[0]), z), (logits,))

        before = distribution.gather_rows
        rows = []

        def spy(row, before=before, rows=rows):
            rows.append(tuple(row.shape))
            return before(row)

        distribution.gather_rows = spy
        try:
            step(tf.zeros((batch, 3)))
        finally:
            distribution.gather_rows = before
        sizes.append(set(rows))
    assert sizes == [{(5,)}, {(5,)}]


def test_resnet_in_scope_keeps_one_set_of_statistics_and_others_are_warned_of():
    images = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    labels = np.arange(16) % 3
    with mirrored(2).scope():
        model = resnet8((8, 8, 1), 3, seed=0)
        own = resnet8((8, 8, 1), 3, seed=0, synchronized=False)
        model.compile("sgd", loss=HRLoss())
        own.compile("sgd", loss=HRLoss())
    model.fit(images, labels, batch_size=8, verbose=0)
    for variable in model.non_trainable_variables:
        first, second = (part.numpy() for part in variable.value.values)
        np.testing.assert_array_equal(first, second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.sweep(model, images, labels)
    with pytest.warns(UserWarning, match=r"stem_bn.*statistics of its own"):
        evaluation.sweep(own, images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.sweep(own, images, labels)  # once is enough
    alone = resnet8((8, 8, 1), 3)
    assert not any(getattr(layer, "synchronized", False) for layer in alone.layers)


def test_strategies_by_name():
    assert distribution.get_strategy("none").num_replicas_in_sync == 1
    assert distribution.get_strategy("auto").num_replicas_in_sync == 1  # no GPU here
    assert distribution.get_strategy("mirrored").num_replicas_in_sync == 4
    with pytest.raises(ValueError, match="Did you mean 'mirrored'"):
        distribution.get_strategy("mirored")
