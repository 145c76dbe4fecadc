"""A training step with HRLoss against one with Keras' cross-entropy; `fit` against a bare loop."""

import argparse

import keras
import tensorflow as tf
from interleaved import compare, report, save

from hr_keras import HRLoss, datasets
from hr_keras.experiments import protocol, realization
from hr_keras.models import mnist_cnn, resnet8

EPOCHS = 3  # in one call, so that what `fit` does once does not count as much as an epoch


def epoch_of(make, loss, split, batch_size):
    """One epoch of `fit`, as users train."""
    model = make(split.images.shape[1:], seed=0)
    model.compile(keras.optimizers.SGD(0.001), loss=loss)
    return lambda: model.fit(*split, batch_size=batch_size, verbose=0)


def as_experiments_train(make, data, batch_size):
    """Epochs of `fit` as `hr-keras table` calls it."""
    plan = protocol.from_preset(
        "quick", model=make.__name__, batch_size=batch_size, learning_rate=0.001, strategy="none"
    )
    model = realization.build(plan, "hr", 0, data)
    steps = -(-len(data.train.images) // batch_size)

    def epochs():
        batches = realization.batches(data.train, batch_size, 0, 0, EPOCHS)
        model.fit(batches, steps_per_epoch=steps, epochs=EPOCHS, shuffle=False, verbose=0)

    return epochs, model


def bare(make, data, batch_size):
    """The same epochs, each a compiled loop on data that are there: no callbacks, no metrics."""
    model = make(data.train.images.shape[1:], data.num_classes, seed=0)
    optimizer, loss = keras.optimizers.SGD(0.001), HRLoss(1.6)
    optimizer.build(model.trainable_variables)
    images, labels = map(tf.constant, data.train)
    n = len(data.train.images)

    @tf.function
    def epoch(number):
        seed = tf.stack([tf.constant(0, tf.int64), number])
        order = tf.random.experimental.stateless_shuffle(tf.range(n), seed)
        for first in tf.range(0, n, batch_size):
            chosen = order[first : first + batch_size]
            x, y = tf.gather(images, chosen), tf.gather(labels, chosen)
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
                value += tf.add_n(model.losses) if model.losses else 0.0
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

    def epochs():
        for number in range(EPOCHS):
            epoch(tf.constant(number, tf.int64))

    return epochs, model


def check_same_training(one, other):
    """The contestants have done the same steps on the same data."""
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        difference = abs(a - b).max()
        if difference > 1e-5:
            raise SystemExit(f"The contestants trained different models: {difference}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    everything = datasets.load("mnist10k")
    rows = []
    for make, n, batch_size in ((mnist_cnn, 7200, 100), (resnet8, 1024, 128)):
        split = datasets.Split(everything.train.images[:n], everything.train.labels[:n])
        contestants = {
            f"{make.__name__}, Keras CE": epoch_of(
                make, "sparse_categorical_crossentropy", split, batch_size
            ),
            f"{make.__name__}, HRLoss": epoch_of(make, HRLoss(1.6), split, batch_size),
        }
        seconds = compare(contestants, arguments.repeats)
        title = f"fit, one epoch of {n} images, batch {batch_size}, to hold: ratio ≤ 1.05"
        rows += report(title, seconds)
        data = everything._replace(train=split)
        by_fit, fitted = as_experiments_train(make, data, batch_size)
        by_loop, looped = bare(make, data, batch_size)
        seconds = compare({"bare loop": by_loop, "the experiments' fit": by_fit}, arguments.repeats)
        check_same_training(fitted, looped)
        title = f"{make.__name__}, {EPOCHS} epochs of {n} images, to hold: ratio ≤ 1/0.95 = 1.053"
        rows += report(title, seconds)
    save(rows, arguments.output)


if __name__ == "__main__":
    main()
