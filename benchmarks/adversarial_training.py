"""Training on PGD-7 inside `fit`: against its bare passes, against ART, and the memory it needs.

1. An epoch of `AdversarialTraining` against 7 forward + input-backward passes and 1 forward + full
   backward pass a batch with the optimizer's step, compiled and called bare, in turn. To hold:
   ≤ 1.10.
2. The same epoch by ART's `AdversarialTrainerMadryPGD`, on the same model with the same settings,
   each in a process of its own. To hold: ART takes ≥ 3 times as long.
3. The most memory that a process holds which trains on large batches, on PGD of 20 steps and of 2.
   To hold: ≤ 1.05. Ordinary training is measured too.
"""

import multiprocessing
import resource

import keras
import numpy as np
import sides
import tensorflow as tf
from interleaved import CLOCKS, arguments, compare, limit, ratios, report, save
from subjects import digits

from hr_keras.attacks import PGD
from hr_keras.models import mnist_cnn, resnet8
from hr_keras.training import AdversarialTraining

BATCHES = {"CNN": 100, "ResNet-8": 128}
EPSILON, STEPS = 0.3, 7
AT_MOST_OF_PASSES, AT_LEAST_OF_ART, AT_MOST_OF_MEMORY = 1.10, 3.0, 1.05


def subject(name, n):
    """An untrained classifier that ends in logits, `n` images and labels."""
    images, labels = digits(n)
    if name == "ResNet-8":
        images = np.tile(np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))), (1, 1, 1, 3))
    make = {"CNN": mnist_cnn, "ResNet-8": resnet8}[name]
    return make(images.shape[1:], classifier_activation=None, seed=0), images, labels


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_fit(name, n, batch_size, steps=STEPS):
    """An epoch of `fit`; without steps of an attack, of ordinary training."""
    model, images, labels = subject(name, n)
    trained = AdversarialTraining(model, PGD(EPSILON, n_iter=steps)) if steps else model
    trained.compile(keras.optimizers.SGD(0.001), loss=cross_entropy(), metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = data.with_options(options)

    def epoch():
        trained.fit(data, shuffle=False, verbose=0)

    return epoch


def make_passes(name, n, batch_size):
    """The passes of that epoch, without what makes them an attack."""
    model, images, labels = subject(name, n)
    optimizer, loss = keras.optimizers.SGD(0.001), cross_entropy()
    optimizer.build(model.trainable_variables)

    @tf.function
    def attack_pass(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = loss(y, model(x, training=True))
        return x + 1e-6 * tape.gradient(value, x)

    @tf.function
    def training_pass(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(value, weights), weights)
        return value

    parts = [slice(first, first + batch_size) for first in range(0, n, batch_size)]
    batches = [(tf.constant(images[part]), tf.constant(labels[part])) for part in parts]

    def epoch():
        for x, y in batches:
            for _ in range(STEPS):
                x = attack_pass(x, y)
            value = training_pass(x, y)
        value.numpy()

    return epoch


def make_art(name, n, batch_size):
    """The epoch by ART, as its documentation shows.

    Its attack takes 32 images at a time, and batch normalisation as in evaluation: a cheaper pass.
    """
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import TensorFlowV2Classifier

    model, images, labels = subject(name, n)
    classifier = TensorFlowV2Classifier(
        model, 10, images.shape[1:], loss_object=cross_entropy(),
        optimizer=keras.optimizers.SGD(0.001), clip_values=(0.0, 1.0),
    )  # fmt: skip
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, batch_size=batch_size, eps=EPSILON,
        eps_step=2.5 / STEPS * EPSILON, max_iter=STEPS, num_random_init=1,
    )  # fmt: skip
    one_hot = keras.utils.to_categorical(labels, 10)
    trainer.fit(images[:batch_size], one_hot[:batch_size])  # that it runs

    def epoch():
        trainer.fit(images, one_hot)

    return epoch


def against_passes(name, n, repeats, clock):
    batch_size = BATCHES[name]
    contestants = {
        "bare passes": make_passes(name, n, batch_size),
        "fit": make_fit(name, n, batch_size),
    }
    seconds = compare(contestants, repeats, CLOCKS[clock])
    title = f"an epoch on PGD-{STEPS}, {name}, {n} images, batches of {batch_size}"
    cost = ratios(seconds, "fit", "bare passes")
    return [
        *report(title, seconds),
        limit(title, "fit / bare passes", cost, at_most=AT_MOST_OF_PASSES),
    ]


def against_art(name, n, repeats, clock, threads):
    batch_size = BATCHES[name]
    makers = {"hr_keras": make_fit, "ART": make_art}
    running, rows = sides.start_all(makers, name, n, batch_size, threads=threads)
    if len(running) == len(makers):
        seconds, _ = sides.compare(running, repeats, clock)
        title = f"an epoch on PGD-{STEPS} in a process of its own, {name}, {n} images"
        rows += report(title, seconds, {"ART": "`AdversarialTrainerMadryPGD`"})
        gain = ratios(seconds, "ART", "hr_keras")
        rows.append(limit(title, "ART / hr_keras", gain, at_least=AT_LEAST_OF_ART))
    for side in running.values():
        side.close()
    return rows


def peak(steps, batch_size):
    """GiB: the most that this process held while it trained on two batches."""
    make_fit("CNN", 2 * batch_size, batch_size, steps)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory(batch_size, repeats):
    """Rows: each measurement in a new process."""
    found = {0: [], 2: [], 20: []}
    for _ in range(repeats):
        for steps, measured in found.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measured.append(pool.apply(peak, (steps, batch_size)))
    title = f"memory, CNN, batches of {batch_size}"
    rows = []
    for steps, measured in found.items():
        name = f"PGD-{steps}" if steps else "ordinary training"
        row = {"title": title, "name": name, "most GiB": max(measured)}
        rows.append(row)
        print(*row.values(), sep=", ", flush=True)
    growth = [many / few for many, few in zip(found[20], found[2], strict=True)]
    return [*rows, limit(title, "GiB on PGD-20 / on PGD-2", growth, at_most=AT_MOST_OF_MEMORY)]


def main():
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--batches", type=int, nargs=2, default=(20, 8), help="CNN, ResNet")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-batch", type=int, default=4000, help="images; 0: not measured")
    given = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    rows = []
    for (name, batch_size), count in zip(BATCHES.items(), given.batches, strict=True):
        n = count * batch_size
        rows += against_passes(name, n, given.repeats, given.clock)
        rows += against_art(name, n, given.repeats, given.clock, given.threads)
    if given.memory_batch:
        rows += memory(given.memory_batch, min(given.repeats, 3))
    save(rows, given.output, given.clock, threads=given.threads)


if __name__ == "__main__":
    main()
