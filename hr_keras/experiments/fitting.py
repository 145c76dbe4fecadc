"""Keras' `fit` as a realization needs it: many steps in one call of compiled code."""

import math

from hr_keras import training
from hr_keras.experiments import feed
from hr_keras.training import multi_worker


def steps(split, batch_size):
    """Batches of an epoch, the last of which may be short."""
    return math.ceil(len(split.images) / batch_size)


def fit(model, data, batch_size, seed, initial_epoch, epochs, callbacks=()):
    """`model.fit` on batches whose order depends on `(seed, epoch)` alone, validated every epoch.

    Args:
        model: compiled, with `steps_per_execution=steps(data.train, batch_size)`.
        data: a `datasets.Dataset`; its training images may be uint8, `validation` `None`.
        batch_size: of the training.
        seed: of the order.
        initial_epoch: number of the epoch to begin with.
        epochs: number of the epoch to end before.
        callbacks: Keras callbacks, which see epochs and no batches.

    Returns:
        A `keras.callbacks.History`.
    """
    batches = feed.batches(data.train, batch_size, seed, initial_epoch, epochs)
    arguments = {
        "steps_per_epoch": steps(data.train, batch_size),
        "initial_epoch": initial_epoch,
        "epochs": epochs,
        "validation_data": data.validation and feed.in_order(data.validation),
        "callbacks": list(callbacks),
        "verbose": 0,
    }
    if training.is_multi_worker(model.distribute_strategy):
        return multi_worker.fit(model, batches, **arguments)
    return model.fit(batches, shuffle=False, **arguments)
