"""The paper's sweep {ce, hr} × {0, 0.1, 0.25} against the bare passes that it needs.

Passes needed: 1 forward + 2 backward + 4 forward. `tests/test_evaluation.py` counts that no
more are made; this script times them.
"""

import argparse

import tensorflow as tf
from interleaved import compare, report, save

from hr_keras import datasets, evaluation
from hr_keras.models import mnist_cnn, resnet8

BATCH = 250


def bare_passes(model, images, labels):
    """The passes alone, in one compiled function: no attack, no statistics."""
    images, labels = tf.constant(images), tf.constant(labels)

    @tf.function
    def passes(x, y):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = model(x, training=False)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            square = tf.reduce_sum(logits**2, axis=-1)
        gradients = tape.gradient(ce, x), tape.gradient(square, x)
        total = tf.constant(0.0)
        for k in tf.range(4):
            total += tf.reduce_sum(model(x + tf.cast(k, x.dtype) * 1e-3, training=False))
        return gradients, total

    def run():
        for start in range(0, len(images), BATCH):
            gradients, total = passes(images[start : start + BATCH], labels[start : start + BATCH])
        return gradients[0].numpy(), total.numpy()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    test = datasets.load("mnist10k").test
    rows = []
    for make, n in ((mnist_cnn, 2000), (resnet8, 1000)):
        model = make(test.images.shape[1:], classifier_activation=None, seed=0)
        images, labels = test.images[:n], test.labels[:n]
        contestants = {
            f"{make.__name__}, bare passes": bare_passes(model, images, labels),
            f"{make.__name__}, sweep": lambda model=model, images=images, labels=labels: (
                evaluation.sweep(model, images, labels, batch_size=BATCH)
            ),
        }
        seconds = compare(contestants, arguments.repeats)
        rows += report(f"sweep over {n} images, 2 objectives × 3 sizes", seconds)
    save(rows, arguments.output)


if __name__ == "__main__":
    main()
