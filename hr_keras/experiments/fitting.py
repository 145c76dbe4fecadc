"""Keras' `fit` as a realization needs it: a whole epoch in one call of compiled code."""

import math

from hr_keras import distribution, training_loop
from hr_keras.experiments import feed


def steps(split, batch_size):
    """Batches of an epoch, the last of which may be short."""
    return math.ceil(len(split.images) / batch_size)


def steps_per_execution(split, batch_size, strategy):
    """What a model that `fit` is to train must be compiled with."""
    return 1 if _has_own_loop(strategy) else steps(split, batch_size)


def fit(model, data, batch_size, seed, initial_epoch, epochs, callbacks=()):
    """`model.fit` on batches whose order depends on `(seed, epoch)` alone, validated every epoch.

    On one device an epoch is a loop over images that are there already, which Keras' `fit`
    runs in place of its own: next to the passes, what `tf.data` and Keras do between two steps
    is not small (`benchmarks/training.py`). The bits are those of Keras' own.

    Args:
        model: compiled with `steps_per_execution`.
        data: a `datasets.Dataset`; its training images may be uint8, `validation` `None`.
        batch_size: of the training.
        seed: of the order.
        initial_epoch: number of the epoch to begin with.
        epochs: number of the epoch to end before.
        callbacks: Keras callbacks, which see epochs and no batches.

    Returns:
        A `keras.callbacks.History`.
    """
    strategy = model.distribute_strategy
    count = steps(data.train, batch_size)
    arguments = {
        "initial_epoch": initial_epoch,
        "epochs": epochs,
        "validation_data": data.validation and feed.in_order(data.validation),
        "callbacks": list(callbacks),
        "verbose": 0,
    }
    if _has_own_loop(strategy):
        batch = feed.batch_of(data.train)
        training_loop.build(model, batch([0]))
        model.train_function = _epoch(model, batch, batch_size)
        orders = feed.orders(len(data.train.images), seed, initial_epoch, epochs)
        try:
            return model.fit(orders, steps_per_epoch=1, shuffle=False, **arguments)
        finally:
            model.train_function = None  # any other `fit` makes its own
    batches = feed.batches(data.train, batch_size, seed, initial_epoch, epochs)
    if distribution.is_multi_worker(strategy):
        return training_loop.fit(model, batches, steps_per_epoch=count, **arguments)
    return model.fit(batches, steps_per_epoch=count, shuffle=False, **arguments)


def _has_own_loop(strategy):
    return strategy.num_replicas_in_sync == 1 and not distribution.is_multi_worker(strategy)


def _epoch(model, batch, batch_size):
    """`iterator over orders -> logs`: the training steps of one epoch, for Keras' `fit`.

    Args:
        model: a compiled model whose variables are there.
        batch: of `feed.batch_of`.
        batch_size: of the training.
    """
    import tensorflow as tf

    strategy = model.distribute_strategy
    # Compiled by XLA where Keras would do so.
    step = tf.function(model.train_step, jit_compile=model.jit_compile, autograph=False)

    @tf.function
    def epoch(orders):
        order = next(orders)
        for first in tf.range(0, tf.size(order), batch_size):
            strategy.run(step, args=(batch(order[first : first + batch_size]),))
        return model.get_metrics_result()

    return epoch
