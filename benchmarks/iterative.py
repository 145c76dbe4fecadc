"""Iterative attacks against the bare model passes that they need.

1. PGD-20 on images that it does not fool: 20 forward + backward passes, run bare, in turn; and
   the same passes with the gradient as the attacks here take it, whose first convolution is faster.
2. `standard`, attack by attack: the rows of its passes are *counted* first, the time of one
   pass is measured before and after each attack, and what it took is set against that budget,
   both in processor seconds.
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from interleaved import arguments, compare, limit, ratios, report, save

from hr_keras import datasets
from hr_keras.attacks import PGD, Task, objectives, standard
from hr_keras.attacks.fgsm import compute_gradients
from hr_keras.models import mnist_cnn

BATCH = 250

# Of all threads: on a machine that others use too it says more than the time on the wall.
clock = time.process_time


def bare_passes(model):
    """Forward and backward on a batch, compiled and called step by step from Python.

    In a compiled loop they may take 1.6 times as long: see `compiled.separate`.
    """

    @tf.function
    def passes(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = model(x, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        return x + 1e-6 * tape.gradient(loss, x)

    return passes


def own_passes(model):
    """The same with the gradient of `attacks.fgsm`."""
    objective = objectives.get("ce")

    @tf.function
    def passes(x, y):
        _, (gradient,) = compute_gradients(model, x, y, (objective,), "logits")
        return x + 1e-6 * gradient

    return passes


def bare_forwards(model):
    """Forward on a batch."""
    return tf.function(lambda x, y: x + 1e-9 * tf.reduce_sum(model(x, training=False)))


def benchmark_pgd(model, images, repeats):
    labels = model.predict(images, verbose=0).argmax(axis=-1)  # so that all are standing

    def twenty(passes):
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            x, y = tf.constant(images[batch]), tf.constant(labels[batch])
            for _ in range(20):
                x = passes(x, y)
            x.numpy()

    bare, own = bare_passes(model), own_passes(model)
    contestants = {
        "bare passes": lambda: twenty(bare),
        "PGD-20": lambda: PGD(1e-4, n_iter=20, batch_size=BATCH)(model, images, labels),
        "with our gradient": lambda: twenty(own),
    }
    seconds = compare(contestants, repeats, clock)
    title = f"PGD-20 on {len(images)} images"
    rows = report(title, seconds)
    for name in ("bare passes", "with our gradient"):
        of_passes = ratios(seconds, "PGD-20", name)
        rows.append(limit(title, f"PGD-20 / {name}", of_passes, at_most=1.15))
    return rows


class Rows:
    """A model that counts the rows of its forward and backward passes."""

    def __init__(self, model):
        self.forward = self.backward = 0

        @tf.custom_gradient
        def count(x):
            y = tf.numpy_function(self._forward, [x], x.dtype)
            return tf.ensure_shape(y, x.shape), lambda g: tf.ensure_shape(
                tf.numpy_function(self._backward, [g], g.dtype), g.shape
            )

        inputs = keras.Input(model.input_shape[1:])
        self.model = keras.Model(inputs, model(keras.layers.Lambda(count)(inputs)))

    def _forward(self, x):
        self.forward += len(x)
        return x

    def _backward(self, g):
        self.backward += len(g)
        return g


def seconds_a_row(model, images, labels):
    """Of a forward + backward pass, and of a forward pass, in batches as large as here."""
    x, y = tf.constant(images[:BATCH]), tf.constant(labels[:BATCH])
    found = []
    for passes, steps in ((bare_passes(model), 20), (bare_forwards(model), 60)):
        passes(x, y)
        started = clock()
        for _ in range(steps):
            x = passes(x, y)
        x.numpy()
        found.append((clock() - started) / steps / len(x))
    return found


def benchmark_standard(model, images, labels, epsilon):
    counted = Rows(model)
    task = Task.of(counted.model, images, labels, (0.0, 1.0), BATCH).predict()
    task = task.select(task.logits.argmax(axis=-1) == task.labels)
    title = f"standard({epsilon}) on {len(images)} images, {len(task.images)} of them correct"
    print(f"\n{title}")
    print(
        f"{'':26}{'standing':>9}{'forward':>10}{'backward':>10}{'budget s':>10}{'s':>8}{'by it':>7}"
    )
    rows = []
    attacks = (standard(one, batch_size=BATCH).attacks for one in (epsilon, 10.0))
    for attack, compiles in zip(*attacks, strict=True):
        counted.forward = counted.backward = 0
        attack.attempt(task)
        plain = task.replace(model=model)
        before = seconds_a_row(model, task.images, task.labels)
        compiles.attempt(plain.select(np.arange(1)))  # fools at once, or soon
        started = clock()
        outcome = attack.attempt(plain)
        seconds = clock() - started
        after = seconds_a_row(model, task.images, task.labels)
        both, forward = (statistics.mean(pair) for pair in zip(before, after, strict=True))
        budget = counted.backward * both + (counted.forward - counted.backward) * forward
        row = {
            "title": title,
            "name": attack.name,
            "standing": len(task.images),
            "forward": counted.forward,
            "backward": counted.backward,
            "budget": budget,
            "seconds": seconds,
            "seconds / budget": seconds / budget,
        }
        rows.append(row)
        print(
            f"{row['name']:26}{row['standing']:9}{row['forward']:10}{row['backward']:10}"
            f"{budget:10.1f}{seconds:8.1f}{seconds / budget:7.2f}",
            flush=True,
        )
        task = task.select(~outcome.fooled)
    budget, seconds = (sum(row[key] for row in rows) for key in ("budget", "seconds"))
    return [*rows, limit(title, "standard / its budget", seconds / budget, at_most=1.3)]


def main():
    parser = arguments(__doc__, repeats=7, clock=False)
    parser.add_argument("--images", type=int, default=1000, help="for PGD-20")
    parser.add_argument("--standard", type=int, default=1000, help="images for `standard`")
    parser.add_argument("--epsilon", type=float, default=0.05, help="for `standard`")
    given = parser.parse_args()
    data = datasets.load("mnist10k")
    keras.utils.set_random_seed(0)  # the order of the training
    model = mnist_cnn(classifier_activation=None, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss=loss)
    model.fit(*data.train, batch_size=100, epochs=2, verbose=0)
    test = data.test
    rows = benchmark_pgd(model, test.images[: given.images], given.repeats)
    if given.standard:
        n = given.standard
        rows += benchmark_standard(model, test.images[:n], test.labels[:n], given.epsilon)
    save(rows, given.output, "processor")


if __name__ == "__main__":
    main()
