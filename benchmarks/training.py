"""A training step with HRLoss against one with Keras' cross-entropy; the experiments' training
against the same steps in a bare loop, and against the passes that it must make.

The experiments train each model with one thread, several models side by side; so does this.
"""

import pathlib
import tempfile
import time

import keras
import tensorflow as tf
from interleaved import arguments, compare, limit, ratios, report, save

from hr_keras import HRLoss, datasets
from hr_keras.experiments import pipeline
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.fit import build_model, fit_model, train_model
from hr_keras.experiments.protocol import change_protocol, from_preset
from hr_keras.models import mnist_cnn, resnet8

EPOCHS = 10  # one of them with an attack, as the paper has it
SUBJECTS = {"mnist_cnn": mnist_cnn, "resnet8": resnet8}


def epoch_of(make, loss, split, batch_size):
    """One epoch of `fit`, as users train, but in order and without a tuner."""
    model = make(split.images.shape[1:], seed=0)
    model.compile(keras.optimizers.SGD(0.001), loss=loss)
    dataset = tf.data.Dataset.from_tensor_slices(tuple(split)).batch(batch_size)
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    return lambda: model.fit(dataset, shuffle=False, verbose=0)


def by_fit(plan, data):
    """Seconds of so many epochs as `hr-keras table` fits them, no metrics left out; the model.

    Without validation, attacks and checkpoints. What compiles (the first epoch) lies before.
    """
    model, ends = build_model(plan, "hr", 0, data)[1], []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    alone = data._replace(validation=None)
    fit_model(model, alone, plan.batch_size, 0, 0, EPOCHS + 1, [clock])
    return ends[-1] - ends[0], model


def bare(make, split, batch_size):
    """The same epochs, each a compiled loop on data that are there: no callbacks, no metrics."""
    model = make(split.images.shape[1:], 10, seed=0)
    optimizer, loss = keras.optimizers.SGD(0.001), HRLoss(1.6)
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(datasets.to_unit_interval(split.images)), tf.constant(split.labels)
    n = len(split.images)

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

    def epochs(count=EPOCHS):
        for number in range(count):
            epoch(tf.constant(number, tf.int64))

    return epochs, model


def epochs_of_experiments(plan, data):
    """Seconds of so many epochs of `hr-keras table` without an attack, and with one in the last.

    With metrics, validation and checkpoints. What compiles (the first epoch, the first attack)
    lies before.
    """
    plan = change_protocol(plan, epochs=2 * EPOCHS, attack_every=EPOCHS)
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.checkpoint.npz"
        kept = Checkpoint(path, plan, "hr", 0, lambda _: ends.append(time.perf_counter()))
        train_model(plan, "hr", 0, data, kept)
    plain = (ends[EPOCHS - 2] - ends[0]) / (EPOCHS - 2) * EPOCHS
    return plain, ends[2 * EPOCHS - 1] - ends[EPOCHS - 1]


def validation_passes(model, split):
    """The forward passes of so many epochs' validation, bare."""
    images = tf.constant(split.images)
    forward = tf.function(lambda x: tf.reduce_sum(model(x, training=False)))

    def passes():
        for first in range(0, len(split.images), 256):
            forward(images[first : first + 256])

    return lambda: [passes() for _ in range(EPOCHS)]


def check_same_training(one, other):
    """The contestants have done the same steps on the same data."""
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        if (a != b).any():
            raise SystemExit(f"The contestants trained different models: {abs(a - b).max()}")


def compare_epochs(plan, data, repeats):
    """Rows of the experiments' epochs against a bare loop, and against the passes they need."""
    loop, looped = bare(SUBJECTS[plan.model], data.train, plan.batch_size)
    forward = validation_passes(looped, data.validation)
    timed = {"bare loop": loop, "validation, bare": forward}
    ours = ("the experiments' fit", "without attack", "the last with an attack")
    seconds = {name: [] for name in (*timed, *ours)}
    loop(EPOCHS + 1)
    check_same_training(by_fit(plan, data)[1], looped)
    forward()
    for _ in range(repeats):
        once = compare(timed, 1, warm_up=False)
        fitted = by_fit(plan, data)[0], *epochs_of_experiments(plan, data)
        once |= {name: [value] for name, value in zip(ours, fitted, strict=True)}
        for name, (value,) in once.items():
            seconds[name].append(value)
    title = f"{plan.model}, {EPOCHS} epochs of {len(data.train.images)} images"
    rows = report(title, seconds)
    seconds["passes"] = list(
        map(sum, zip(seconds["bare loop"], seconds["validation, bare"], strict=True))
    )
    for what, name, to, at_most in (
        ("fit / bare loop", "the experiments' fit", "bare loop", 1 / 0.95),
        ("with validation and checkpoints / its passes", "without attack", "passes", 1.3),
        ("with an attack / without", "the last with an attack", "without attack", 1.05),
    ):
        rows.append(limit(title, what, ratios(seconds, name, to), at_most=at_most))
    return rows


def main():
    parser = arguments(__doc__, repeats=5, clock=False)
    parser.add_argument("--threads", type=int, default=1, help="0: as many as cores")
    given = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    rows = []
    everything = pipeline.load_data(from_preset("quick"), 0)
    for name, n, batch_size in (("mnist_cnn", 7200, 100), ("resnet8", 1024, 128)):
        make = SUBJECTS[name]
        data = everything._replace(
            train=datasets.Split(everything.train.images[:n], everything.train.labels[:n]),
            validation=datasets.Split(*(part[: n // 9] for part in everything.validation)),
        )
        split = datasets.Split(datasets.to_unit_interval(data.train.images), data.train.labels)
        contestants = {
            f"{name}, Keras CE": epoch_of(
                make, "sparse_categorical_crossentropy", split, batch_size
            ),
            f"{name}, HRLoss": epoch_of(make, HRLoss(1.6), split, batch_size),
        }
        title = f"fit, one epoch of {n} images, batch {batch_size}"
        seconds = compare(contestants, given.repeats)
        rows += report(title, seconds)
        cost = ratios(seconds, *reversed(contestants))
        rows.append(limit(title, f"{name}, HRLoss / Keras CE", cost, at_most=1.05))
        plan = from_preset(
            "quick", model=name, batch_size=batch_size, learning_rate=0.001,
            strategy="none",
        )  # fmt: skip
        rows += compare_epochs(plan, data, given.repeats)
    save(rows, given.output, threads=given.threads)


if __name__ == "__main__":
    main()
