"""Value and gradient of HRLoss against TensorFlow's fused softmax cross-entropy."""

import multiprocessing
import pathlib

import numpy as np
import tensorflow as tf
from interleaved import arguments, compare, limit, ratios, report, save

from hr_keras import HRLoss

# Batch, classes, and the limit of HRLoss / the fused cross-entropy.
SIZES = ((4096, 1000, 2.0), (128, 10, 1.5))
# HRLoss needs at most so many tensors of (batch, classes) beside its gradient.
MEMORY_SIZE, MEMORY_LIMIT = (16384, 2000), 2.0


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


def peak_memory(use_hr):
    """Most memory that value and gradient take, in tensors of (batch, classes) float32."""
    batch, classes = MEMORY_SIZE
    loss = HRLoss(from_logits=True) if use_hr else fused

    @tf.function
    def run(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    logits, labels = tf.fill((batch, classes), 0.5), tf.zeros(batch, tf.int32)
    run(labels[:16], logits[:16])  # compile
    before = _peak()
    run(labels, logits)
    return (_peak() - before) / (4 * batch * classes)


def _peak():
    """Most bytes that this process has held, as Linux tells (a child's ru_maxrss is inherited)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def report_memory():
    """Each loss in a process of its own: a peak never falls."""
    spawn = multiprocessing.get_context("spawn")
    rows, title = [], f"tensors of {MEMORY_SIZE} beside the gradient"
    for name, use_hr in (("TensorFlow's fused CE", False), ("HRLoss", True)):
        with spawn.Pool(1) as pool:
            beside = pool.apply(peak_memory, (use_hr,)) - 1
        rows.append({"title": title, "name": name, "tensors": beside})
        print(f"{name:32}{beside:9.2f}")
    return [*rows, limit(title, "tensors of HRLoss", beside, at_most=MEMORY_LIMIT)]


def main():
    given = arguments(__doc__, repeats=9, clock=False).parse_args()
    rows = []
    for batch, classes, at_most in SIZES:
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(batch, classes)).astype("float32")
        labels = generator.integers(classes, size=batch).astype("int32")
        calls = max(3, 2_000_000 // (batch * classes))
        contestants = {
            "TensorFlow's fused CE": value_and_gradient(fused, labels, logits, calls),
            "HRLoss": value_and_gradient(HRLoss(from_logits=True), labels, logits, calls),
        }
        seconds = compare(contestants, given.repeats)
        title = f"{calls} × ({batch}, {classes})"
        rows += report(title, seconds)
        cost = ratios(seconds, "HRLoss", "TensorFlow's fused CE")
        rows.append(limit(title, "HRLoss / TensorFlow's fused CE", cost, at_most=at_most))
    rows += report_memory()
    save(rows, given.output)


if __name__ == "__main__":
    main()
