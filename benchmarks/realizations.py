"""Two small models trained one after the other, in one graph, and in two processes; then the
whole command, `hr-keras table` with 5 realizations, one model after the other and two at once.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from interleaved import arguments, compare, limit, ratios, report, save

from hr_keras import HRLoss, datasets
from hr_keras.models import mnist_cnn

BATCH, SEEDS, WANTED = 100, (0, 1), 0.6
COMMAND = "from hr_keras.cli import main; main()"


class Training:
    """The models of some seeds, an epoch a call in one compiled loop."""

    def __init__(self, seeds):
        split = datasets.load("mnist10k").train
        images, labels = map(tf.constant, split)
        self.nets = nets = [mnist_cnn(seed=seed) for seed in seeds]
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

        self.epoch = epoch

    def weights(self):
        return [net.get_weights() for net in self.nets]


def _work(pipe, seeds, within, between):
    tf.config.threading.set_intra_op_parallelism_threads(within)
    tf.config.threading.set_inter_op_parallelism_threads(between)
    training = Training(seeds)
    with contextlib.suppress(EOFError):  # the end of the process that asks
        while True:
            pipe.send(getattr(training, pipe.recv())())


class Elsewhere:
    """`Training` in processes, at the same time.

    Args:
        seeds: of the models, a list for each process.
        within, between: TensorFlow's threads within an operation, and between operations.
    """

    def __init__(self, seeds, within, between):
        spawn = multiprocessing.get_context("spawn")
        self.pipes = []
        for some in seeds:
            here, there = spawn.Pipe()
            spawn.Process(target=_work, args=(there, some, within, between), daemon=True).start()
            there.close()
            self.pipes.append(here)

    def _all(self, method):
        for pipe in self.pipes:
            pipe.send(method)
        return [pipe.recv() for pipe in self.pipes]

    def epoch(self):
        self._all("epoch")

    def weights(self):
        return [weights for some in self._all("weights") for weights in some]


class OneByOne:
    """`Training` of each seed in this process, one after the other, with default threads."""

    def __init__(self, seeds):
        self.trainings = [Training([seed]) for seed in seeds]

    def epoch(self):
        for training in self.trainings:
            training.epoch()

    def weights(self):
        return [weights for training in self.trainings for weights in training.weights()]


def check_same_training(contestants):
    """The same models, but for the last bits, which depend on the threads."""
    first, *others = (contestant.weights() for contestant in contestants.values())
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                if not np.allclose(a, b, rtol=0, atol=1e-5):
                    raise SystemExit(f"Not the same training: {abs(a - b).max()}")


def epochs(repeats):
    """Rows of the training steps alone."""
    contestants = {
        "one after the other": OneByOne(SEEDS),
        "in one graph": Training(SEEDS),
        "in one graph, 1 thread an operation": Elsewhere([SEEDS], 1, len(SEEDS)),
        "in 2 processes of 1 thread": Elsewhere([[seed] for seed in SEEDS], 1, 1),
    }
    for contestant in contestants.values():
        contestant.epoch()
    check_same_training(contestants)
    timed = {name: contestant.epoch for name, contestant in contestants.items()}
    title = f"{len(SEEDS)} × mnist_cnn, one epoch of 7,200 images, default threads unless said"
    return _against_the_first(title, compare(timed, repeats, warm_up=False))


def commands(repeats, realizations=5):
    """Rows of the whole command, start-up, attacks and files included."""

    def table(jobs):
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-c", COMMAND, "table", "--realizations", str(realizations),
                 "--jobs", str(jobs), "--output", f"{folder}/run"],
                env=environment, check=True, capture_output=True,
            )  # fmt: skip

    contestants = {"--jobs 1": lambda: table(1), "--jobs 2": lambda: table(2)}
    title = f"hr-keras table, {realizations} realizations × {{ce, hr}}, preset quick"
    return _against_the_first(title, compare(contestants, repeats, time.perf_counter, False))


def _against_the_first(title, seconds):
    rows = report(title, seconds)
    first, *others = seconds
    for name in others:
        measured = ratios(seconds, name, first)
        rows.append(limit(title, f"{name} / {first}", measured, at_most=WANTED))
    return rows


def main():
    parser = arguments(__doc__, repeats=9, clock=False)
    parser.add_argument("--commands", type=int, default=1, help="repeats of the whole command")
    given = parser.parse_args()
    rows = epochs(given.repeats)
    if given.commands:
        rows += commands(given.commands)
    save(rows, given.output)


if __name__ == "__main__":
    main()
