"""Keras' `fit` for several workers: it trains what `model.fit` trains on one device."""

import dataclasses
import functools
import json
import pathlib
import re
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from processes import environment, output_of

from hr_keras import HRLoss, datasets, training
from hr_keras.attacks import PGD
from hr_keras.experiments.measure import measure_attack
from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_folder
from hr_keras.training import multi_worker


class Counting(keras.Sequential):
    """Counts how often its training step is traced, or run where it runs eagerly."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def classifier(strategy, loss=None, run_eagerly=False):
    generator = np.random.default_rng(1)
    with strategy.scope():
        dense = keras.layers.Dense(4, activation="softmax", kernel_regularizer="l2")
        model = Counting([keras.Input((6,)), dense])
        model.set_weights([0.5 * generator.normal(size=(6, 4)), np.zeros(4)])
        model.compile(
            keras.optimizers.SGD(0.5),
            loss=loss or HRLoss(alpha=3.0),
            metrics=["accuracy"],
            weighted_metrics=["accuracy"],
            run_eagerly=run_eagerly,
        )
    return model


def examples(n=53):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, 6)).astype("float32")
    return images, generator.integers(4, size=n), generator.integers(0, 3, size=n).astype("float32")


class Diary(keras.callbacks.Callback):
    """Everything that a callback is told; stops the training where it is asked to."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.told = []
        self.stop_after = stop_after

    def _tell(self, event, index, logs=None):
        self.told.append((event, index, dict(logs or {})))
        if (event, index) == self.stop_after:
            self.model.stop_training = True

    def on_train_begin(self, logs=None):
        self.told.append(("begin", self.params["epochs"], {"steps": self.params["steps"]}))

    def on_epoch_end(self, epoch, logs=None):
        self._tell("epoch", epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._tell("batch", batch, logs)

    def on_test_begin(self, logs=None):
        self._tell("test", 0)

    def on_test_batch_end(self, batch, logs=None):
        self._tell("test batch", batch, logs)

    def on_test_end(self, logs=None):
        self._tell("test end", 0, logs)

    def on_train_end(self, logs=None):
        self._tell("end", 0, logs)


def trained(fit, model, n=53, **arguments):
    """Weights, history and diary of two epochs of 5 steps, the last batch of each uneven."""
    diary = Diary(arguments.pop("stop_after", None))
    dataset = tf.data.Dataset.from_tensor_slices(examples(n)).batch(12)
    history = fit(
        dataset,
        epochs=2,
        validation_data=examples(31),
        validation_batch_size=8,
        callbacks=[diary],
        verbose=0,
        **arguments,
    )
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    return {"weights": weights.tolist(), "history": history.history, "told": diary.told}


def by_keras(n=53, run_eagerly=False, **arguments):
    model = classifier(training.get_strategy("none"), run_eagerly=run_eagerly)
    return trained(model.fit, model, n, **arguments)


def by_loop(strategy, n=53, run_eagerly=False, **arguments):
    model = classifier(strategy, run_eagerly=run_eagerly)
    found = trained(functools.partial(training.fit, model), model, n, **arguments)
    return {**found, "traces": model.traces}


def assert_same_training(ours, keras_own):
    np.testing.assert_allclose(ours["weights"], keras_own["weights"], rtol=0, atol=1e-6)
    assert list(ours["history"]) == list(keras_own["history"])
    for name, values in keras_own["history"].items():
        assert ours["history"][name] == pytest.approx(values, rel=1e-5)
    assert [tuple(entry[:2]) for entry in ours["told"]] == [e[:2] for e in keras_own["told"]]
    for (*_, logs), (*_, expected) in zip(ours["told"], keras_own["told"], strict=True):
        assert logs == pytest.approx(expected, rel=1e-5)


# 49 rows: the last batch is one, and the shares of the other replicas are empty
@pytest.mark.parametrize(("replicas", "n"), [(1, 53), (3, 49)])
def test_the_loop_is_fit(replicas, n):
    strategy = training.get_strategy("none") if replicas == 1 else mirrored(replicas)
    ours = by_loop(strategy, n)
    assert ours["traces"] == replicas  # one trace serves all batches of all epochs
    assert_same_training(ours, by_keras(n, run_eagerly=True))


@pytest.mark.parametrize(("where", "steps"), [(("epoch", 0), 5), (("batch", 2), 3)])
def test_a_callback_stops_the_loop_where_it_stops_fit_both_eager(where, steps):
    ours = by_loop(training.get_strategy("none"), stop_after=where, run_eagerly=True)
    assert_same_training(ours, by_keras(stop_after=where, run_eagerly=True))
    assert len(ours["history"]["loss"]) == 1
    assert ours["traces"] == steps


def test_the_loop_goes_on_from_an_epoch_and_repeats_a_short_data_set():
    model = classifier(training.get_strategy("none"), run_eagerly=True)
    dataset = tf.data.Dataset.from_tensor_slices(examples(24)).batch(12)
    history = training.fit(model, dataset, epochs=5, initial_epoch=2, steps_per_epoch=3)
    assert history.epoch == [2, 3, 4]
    assert int(model.optimizer.iterations) == 9


def trained_in_half_precision(strategy):
    """The gradient of one row overflows float16; it is the second replica's, if there are two."""
    images, labels, _ = examples(24)
    images[9] = 3e4
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(4, dtype="mixed_float16", kernel_initializer="zeros"),
                keras.layers.Activation("softmax", dtype="float32"),
            ]
        )
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model.compile(optimizer, loss=HRLoss(alpha=3.0))
    multi_worker.fit(
        model, tf.data.Dataset.from_tensor_slices((images, labels)).batch(12), epochs=2
    )
    values = (*model.weights, optimizer.dynamic_scale, optimizer.iterations)
    return [keras.ops.convert_to_numpy(value).tolist() for value in values]


def assert_same_in_half_precision(ours, expected):
    *weights, scale, steps = ours
    assert (scale, steps) == tuple(expected[-2:])
    for a, b in zip(weights, expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def test_all_replicas_skip_the_step_in_which_one_overflows():
    expected = trained_in_half_precision(training.get_strategy("none"))
    assert expected[-1] < 4  # a step was skipped
    assert_same_in_half_precision(trained_in_half_precision(mirrored(2)), expected)


def test_keras_own_loss_weighs_the_rows_of_smaller_shares_more():
    """As `multi_worker.fit` says: 5 rows on 2 replicas weigh 1/4, 1/4, 1/6, 1/6, 1/6."""
    images, labels, _ = examples(5)
    loss = keras.losses.SparseCategoricalCrossentropy()
    many = classifier(mirrored(2), loss)
    multi_worker.fit(many, tf.data.Dataset.from_tensor_slices((images, labels)).batch(5))
    one = classifier(training.get_strategy("none"), loss, run_eagerly=True)
    weights = 5 * np.array([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6], "float32")
    one.fit(images, labels, sample_weight=weights, batch_size=5, shuffle=False, verbose=0)
    for a, b in zip(many.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_loop_refuses_what_it_cannot_train():
    model = classifier(training.get_strategy("none"))
    dataset = tf.data.Dataset.from_tensor_slices(examples(24)).batch(12)
    with pytest.raises(ValueError, match=r"tf\.data\.Dataset.*Received: tuple"):
        training.fit(model, examples(24))
    with pytest.raises(ValueError, match="steps_per_epoch=None, length infinite"):
        training.fit(model, dataset.repeat())
    with pytest.raises(ValueError, match="validation_steps=0"):
        training.fit(model, dataset, validation_data=dataset, validation_steps=0)
    with pytest.raises(ValueError, match="must be compiled"):
        multi_worker.fit(keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)]), dataset)


def two_workers(*arguments, folder, codes=(0, 0)):
    """`python *arguments` in two processes on this machine; what each has printed."""
    sockets = [socket.socket() for _ in range(2)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    for opened in sockets:
        opened.close()
    processes = []
    try:
        for index in range(2):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            variables = environment(TF_CONFIG=json.dumps(task))
            with open(folder / f"worker-{index}.out", "w+") as out:
                process = subprocess.Popen(
                    [sys.executable, *map(str, arguments)], env=variables, stdout=out, stderr=out
                )
            processes.append(process)
        ended = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    printed = [(folder / f"worker-{index}.out").read_text() for index in range(2)]
    assert ended == list(codes), printed
    return printed


def trained_adversarially(strategy):
    """On a single step, whose gap is in the logs too."""
    model = classifier(strategy)
    with strategy.scope():
        attack = PGD(0.2, n_iter=1, bounds=(-10.0, 10.0))
        robust = training.AdversarialTraining(model, attack, warmup_steps=3)
        robust.compile(keras.optimizers.SGD(0.5), loss=HRLoss(3.0), metrics=["accuracy"])
    is_several = training.is_multi_worker(strategy)
    return trained(functools.partial(training.fit, robust) if is_several else robust.fit, model)


def as_worker(folder):
    """What `test_two_workers_train_…` does in each of the two processes."""
    strategy = training.get_strategy("multiworker")
    chief = training.is_chief(strategy)
    name = "chief" if chief else "other"
    found = {"by_loop": by_loop(strategy)}
    found["one_stops"] = by_loop(strategy, stop_after=None if chief else ("epoch", 0))["history"]
    found["in_half_precision"] = trained_in_half_precision(strategy)
    found["adversarially"] = trained_adversarially(strategy)
    found["from_chief"] = training.from_chief(7 if chief else 5, strategy)
    found["any"] = [training.any_worker(flag, strategy) for flag in (chief, False)]
    (pathlib.Path(folder) / f"{name}.json").write_text(json.dumps(found))
    training.from_chief(0, strategy)


@pytest.mark.slow
def test_two_workers_train_the_model_that_one_process_trains(tmp_path):
    """Weights, history and all that callbacks are told, in both processes."""
    two_workers(
        "-c", f"import test_multi_worker as t; t.as_worker({str(tmp_path)!r})", folder=tmp_path
    )
    keras_own = by_keras()
    half = trained_in_half_precision(training.get_strategy("none"))
    robust = trained_adversarially(training.get_strategy("none"))
    for name in ("chief", "other"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert_same_training(found["by_loop"], keras_own)
        assert len(found["one_stops"]["loss"]) == 1  # one worker's stop is every worker's
        assert_same_in_half_precision(found["in_half_precision"], half)
        assert_same_training(found["adversarially"], robust)
        assert found["from_chief"] == 7
        assert found["any"] == [True, False]


@pytest.mark.slow
def test_a_table_by_two_workers_is_that_of_one_process(tmp_path):
    data = datasets.load("mnist10k", validation=0)
    np.savez(
        tmp_path / "small.npz",
        x_train=data.train.images[:400, ..., 0],
        y_train=data.train.labels[:400],
        x_test=data.test.images[:100, ..., 0],
        y_test=data.test.labels[:100],
    )
    two = from_preset(
        "quick", dataset=str(tmp_path / "small.npz"), epochs=1, realizations=1,
        strategy="multiworker",
    )  # fmt: skip
    chief, other = two_workers(
        "-c", "from hr_keras.cli import main; main()", "table", "--data", two.dataset,
        "--epochs", 1, "--realizations", 1, "--strategy", two.strategy,
        "--attack", "pgd", "--attack-epsilon", 0.1, "--output", tmp_path / "two", folder=tmp_path,
    )  # fmt: skip
    assert "Attacked exactly" in chief
    assert re.fullmatch(r"(Waiting up to 600 seconds for \S+\n)?", other)  # who comes first waits
    plan = dataclasses.replace(two, strategy="none")
    train_folder(RunFolder.create(tmp_path / "one", plan))
    measure_attack(RunFolder(tmp_path / "one"), "pgd", epsilons=(0.1,))
    stems = ("table", "differences", "confidence")
    tables = {f"{stem}.{end}" for stem in stems for end in ("md", "csv", "tex")}
    tables |= {"figure.png", "figure.svg", "report.html"}
    written = [{path.name for path in (tmp_path / folder).iterdir()} for folder in ("one", "two")]
    assert written[1] == written[0] | tables
    folders = [RunFolder(tmp_path / name) for name in ("one", "two")]
    for method in ("ce", "hr"):
        one, two = (folder.read_result(method, 0) for folder in folders)
        # Norms of gradients are of training on one replica alone.
        norms = {"gradient_norm_ce", "gradient_norm_hr"}
        assert list(two.history) == [name for name in one.history if name not in norms]
        for name, values in one.history.items():
            assert name in norms or two.history[name] == pytest.approx(
                values, rel=1e-4, abs=0.026
            )  # 1 of 40
        for ours, expected in zip(two.accuracies, one.accuracies, strict=True):
            assert ours.accuracy == pytest.approx(expected.accuracy, abs=0.011)  # 1 of 100 images


ON_PARAMETER_SERVERS = """
import socket
import numpy as np
import tensorflow as tf
import test_multi_worker
from hr_keras import HRLoss, training

sockets = [socket.socket() for _ in range(2)]
for opened in sockets:
    opened.bind(("127.0.0.1", 0))
ports = [opened.getsockname()[1] for opened in sockets]
for opened in sockets:
    opened.close()
cluster = tf.train.ClusterSpec({kind: [f"127.0.0.1:{port}"] for kind, port in
                                zip(("worker", "ps"), ports)})
servers = [tf.distribute.Server(cluster, job_name=kind, task_index=0) for kind in ("worker", "ps")]
strategy = tf.distribute.ParameterServerStrategy(
    tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
)

def refused(run):
    try:
        run()
    except ValueError as error:
        print(error, flush=True)

with strategy.scope():
    refused(lambda: HRLoss()(np.array([0]), np.array([[0.5, 0.5]])))
model = test_multi_worker.classifier(strategy)
refused(lambda: training.fit(model, tf.data.Dataset.from_tensors(np.zeros((2, 6)))))
import os
os._exit(0)  # TensorFlow's servers have no way to stop
"""


@pytest.mark.slow
def test_parameter_servers_are_refused():
    assert output_of(ON_PARAMETER_SERVERS).count("there is no global batch") == 2
