"""Two small models trained one after the other, in one graph, and in two processes."""

import multiprocessing
import time

import keras
import tensorflow as tf
from interleaved import arguments, limit, ratios, report, save

from hr_keras import HRLoss, datasets
from hr_keras.models import mnist_cnn

BATCH, MODELS, WANTED = 100, 2, 0.6


def training(threads=None, models=1):
    """A function that trains so many models for an epoch, in one compiled loop."""
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    split = datasets.load("mnist10k").train
    images, labels = map(tf.constant, split)
    nets = [mnist_cnn(seed=seed) for seed in range(models)]
    loss, optimizers = HRLoss(1.6), [keras.optimizers.SGD(0.001) for _ in nets]
    for optimizer, net in zip(optimizers, nets, strict=True):
        optimizer.build(net.trainable_variables)

    def step(net, optimizer, x, y):
        with tf.GradientTape() as tape:
            value = loss(y, net(x, training=True))
        optimizer.apply(tape.gradient(value, net.trainable_variables), net.trainable_variables)

    @tf.function
    def epoch():
        for first in tf.range(0, len(split.images), BATCH):
            x, y = images[first : first + BATCH], labels[first : first + BATCH]
            for net, optimizer in zip(nets, optimizers, strict=True):
                step(net, optimizer, x, y)

    epoch()
    return epoch


def _work(pipe, threads):
    epoch = training(threads)
    while pipe.recv():
        epoch()
        pipe.send(True)


class Processes:
    """Processes of one thread each, which train a model each at the same time."""

    def __init__(self):
        spawn = multiprocessing.get_context("spawn")
        self.pipes = []
        for _ in range(MODELS):
            here, there = spawn.Pipe()
            spawn.Process(target=_work, args=(there, 1), daemon=True).start()
            self.pipes.append(here)

    def __call__(self):
        for pipe in self.pipes:
            pipe.send(True)
        for pipe in self.pipes:
            pipe.recv()


def main():
    options = arguments(__doc__, repeats=9, clock=False).parse_args()
    processes = Processes()
    one_by_one = [training() for _ in range(MODELS)]
    together = training(models=MODELS)
    contestants = {
        "one after the other": lambda: [epoch() for epoch in one_by_one],
        "in one graph": together,
        f"in {MODELS} processes of 1 thread": processes,
    }
    seconds = {name: [] for name in contestants}
    for repeat in range(options.repeats + 1):
        for name, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - started)
    title = f"{MODELS} × mnist_cnn, one epoch of 7,200 images, default threads unless said"
    rows = report(title, seconds)
    for name in list(contestants)[1:]:
        measured = ratios(seconds, name, "one after the other")
        rows.append(limit(name, "time / one after the other", measured, at_most=WANTED))
    save(rows, options.output)


if __name__ == "__main__":
    main()
