"""Value and gradient of HRLoss against TensorFlow's fused softmax cross-entropy."""

import argparse

import numpy as np
import tensorflow as tf
from interleaved import compare, report, save

from hr_keras import HRLoss

# To hold: batch, classes, the most that HRLoss may cost against the fused cross-entropy.
SIZES = ((4096, 1000, 2.0), (128, 10, 1.5))


def value_and_gradient(loss, labels, logits, calls):
    """`calls` times loss and gradient inside one compiled loop: no Python between them."""
    labels, logits = tf.constant(labels), tf.constant(logits)

    @tf.function
    def run():
        total = tf.zeros_like(logits)
        for k in tf.range(calls):
            z = logits + tf.cast(k, logits.dtype) * 1e-3
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = loss(labels, z)
            total += tape.gradient(value, z) + value
        return total

    return lambda: run().numpy()


def fused(labels, logits):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    rows = []
    for batch, classes, limit in SIZES:
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(batch, classes)).astype("float32")
        labels = generator.integers(classes, size=batch).astype("int32")
        calls = max(3, 2_000_000 // (batch * classes))
        contestants = {
            "TensorFlow's fused CE": value_and_gradient(fused, labels, logits, calls),
            "HRLoss": value_and_gradient(HRLoss(from_logits=True), labels, logits, calls),
        }
        seconds = compare(contestants, arguments.repeats)
        rows += report(f"{calls} × ({batch}, {classes}), to hold: ratio ≤ {limit}", seconds)
    save(rows, arguments.output)


if __name__ == "__main__":
    main()
