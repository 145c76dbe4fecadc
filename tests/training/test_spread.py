"""Examples spread over replicas and workers: the same results, example by example."""

import dataclasses
import json
import os
import pathlib
import socket
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model, mirrored, noisy
from test_multi_worker import two_workers

from hr_keras import audit, cli, evaluation, training
from hr_keras._core.examples import Examples
from hr_keras._core.finished import Finished
from hr_keras.attacks import FGSM, PGD, Square
from hr_keras.audit import measure
from hr_keras.evaluation import _chunks, _confusion, _spread
from hr_keras.training import _cluster

BATCH = 3  # a chunk is 12 of these 44 examples: four chunks, the last of 8
ATTACKS = [FGSM(0.1), PGD(0.1, "margin", n_iter=3), Square(0.2, n_queries=4)]


def data(n=44):
    images = np.random.default_rng(1).random(size=(n, 2, 2, 3), dtype="float32")
    labels = np.asarray(linear_model(1.0)(images)).argmax(axis=1)
    labels[::6] = (labels[::6] + 1) % 3
    return images, labels


def model_under(strategy):
    with strategy.scope():
        return linear_model(1.0)


def evaluated(model, **options):
    """All that must not depend on the devices, as JSON can hold it."""
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(5)
    robust = evaluation.robust_accuracy(
        model, dataset, attacks=ATTACKS, batch_size=BATCH, **options
    )
    swept = evaluation.sweep(model, *data(), "ce", batch_size=BATCH)
    found = {"correct": robust.correct, **robust.withstood, "sweep": swept.correct}
    found = {name: array.astype(int).tolist() for name, array in found.items()}
    confusion = evaluation.confusion_matrix(model, *data(), batch_size=BATCH)
    return found | {"confusion": confusion.tolist(), "random": randomly(model)}


def randomly(model, **options):
    """What a model that draws random numbers gets right, in two evaluations."""
    model = noisy(model)
    run = lambda: evaluation.sweep(model, *data(), "ce", batch_size=BATCH, **options)  # noqa: E731
    return [run().correct.astype(int).tolist() for _ in range(2)]


@pytest.fixture(scope="module")
def on_one_device():
    found = evaluated(linear_model(1.0))
    assert 0 < sum(found[ATTACKS[2].name]) < sum(found["correct"]) < 44
    return found


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_share_the_chunks_and_give_the_bits_of_one(on_one_device, replicas, tmp_path):
    model = model_under(mirrored(replicas))
    path = tmp_path / "finished.npz"
    assert evaluated(model, resume=path) == on_one_device
    assert evaluated(linear_model(1.0), resume=path) == on_one_device  # the file is of any devices

    def find_device(chunk):
        inner = _chunks.evaluate(lambda _: {"device": np.array([place()])}, model, one, BATCH)
        assert inner["device"] == [place()]  # what a chunk evaluates in turn is not spread
        return {"device": np.array([place()] * len(chunk.labels))}

    def place():
        return tf.identity(0.0).device[-1]

    one = Examples(*data(2))
    found = _chunks.evaluate(find_device, model, Examples(*data()), BATCH)["device"]
    assert found.tolist() == [str(k // (4 * BATCH) % replicas) for k in range(44)]


def test_a_confusion_matrix_is_spread_too(monkeypatch):
    used, classify = set(), _confusion._log_probabilities

    def recording(*arguments):
        used.add(tf.identity(0.0).device)
        return classify(*arguments)

    monkeypatch.setattr(_confusion, "_log_probabilities", recording)
    evaluation.confusion_matrix(model_under(mirrored(2)), *data(), batch_size=BATCH)
    assert len(used) == 2


def test_random_numbers_of_a_chunk_depend_on_its_place_alone(on_one_device, tmp_path):
    """An evaluation that resumes draws those of one that was not interrupted."""
    first, second = on_one_device["random"]
    assert first != second
    model, path = noisy(linear_model(1.0)), tmp_path / "finished.npz"
    run = lambda **options: evaluation.sweep(  # noqa: E731
        model, *data(), "ce", batch_size=BATCH, resume=path, **options
    )
    read = []

    def interrupt(images):
        read.append(images)
        if len(read) == 3:
            raise KeyboardInterrupt
        return images

    with pytest.raises(KeyboardInterrupt):
        run(preprocess=interrupt)
    model = noisy(linear_model(1.0))  # as in another process
    assert run().correct.astype(int).tolist() == first


def test_an_evaluation_leaves_the_random_numbers_of_training_alone():
    dropout = keras.layers.Dropout(0.5, seed=1)
    model = keras.Sequential([keras.Input((2, 2, 3)), dropout, linear_model(1.0)])
    evaluation.sweep(model, *data(), "ce", batch_size=BATCH)
    assert dropout.seed_generator.state.numpy().tolist() == [1, 0]


def test_work_ends_when_another_worker_does_not_answer(monkeypatch):
    monkeypatch.setattr(_cluster, "LOOK", 0.05)
    monkeypatch.setattr(_cluster, "SILENCE", 0.5)
    monkeypatch.setattr(_spread, "find_other_workers", lambda strategy: [address])
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        work = lambda: done.wait(1.5) or "finished"  # noqa: E731
        assert _spread.run_beside_workers(work, "strategy") == "finished"
    with pytest.raises(tf.errors.UnavailableError, match=f"{address} ended"):
        _spread.run_beside_workers(lambda: done.wait(60), "strategy")
    done.set()


def test_an_error_of_a_replica_is_that_of_one_device():
    model, (images, labels) = model_under(mirrored(2)), data()
    labels[30] = 3
    with pytest.raises(ValueError, match=r"from 0 to 2.*example 30"):
        evaluation.robust_accuracy(model, images, labels, FGSM(0.1), BATCH)


def audited(folder, strategy):
    """An audit of one chunk, so that the second worker has nothing to do."""
    measure.diagnostics.check = lambda *_: []
    inputs = (folder.parent / name for name in ("model.keras", "data.npz"))
    options = {"attacks": "fgsm", "examples": 40, "folder": folder, "strategy": strategy}
    result = audit.audit_file(*inputs, 0.1, **options)[1]
    return json.loads(dataclasses.replace(result, seconds=0.0).to_json())


def as_worker(folder):
    """What `test_two_workers_…` does in each of its processes."""
    folder = pathlib.Path(folder)
    strategy = training.get_strategy("multiworker")
    name = "chief" if training.is_chief(strategy) else "other"
    model = model_under(strategy)
    assert _spread._find_devices(noisy(model), strategy).workers == 2
    found = evaluated(model, resume=folder / "finished.npz")
    found["again"] = evaluated(model, resume=folder / "finished.npz")
    seen = []

    def compute(chunk):
        seen.append(chunk.first_index)
        return {"index": chunk.first_index + np.arange(len(chunk.labels))}

    joined = _chunks.evaluate(compute, model, Examples(*data(32)), BATCH)["index"]
    assert joined.tolist() == list(range(32))
    found["chunks"] = seen
    images, labels = data()
    labels[20] = 3  # in a chunk of the second worker
    try:
        evaluation.sweep(model, images, labels, batch_size=BATCH)
    except ValueError as error:
        found["error"] = str(error)

    def fail_here(images):
        if name == "other":
            raise ValueError("not read by one worker alone")
        return images

    with pytest.raises(ValueError, match="not read by one worker alone"):
        evaluation.sweep(model, *data(), batch_size=BATCH, preprocess=fail_here)
    found["audit"] = audited(folder / "together", "multiworker")
    (folder / f"{name}.json").write_text(json.dumps(found))
    training.from_chief(0, strategy)


def write_inputs(folder):
    """A model and a data set for the command line."""
    images, labels = data()
    images = np.round(255 * images).astype("uint8")
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    linear_model(1.0).save(folder / "model.keras")


@pytest.mark.slow
def test_two_workers_share_the_chunks_and_give_the_bits_of_one_device(
    on_one_device, tmp_path, monkeypatch
):
    monkeypatch.setattr(measure.diagnostics, "check", None)  # restored in the end
    write_inputs(tmp_path)
    two_workers("-c", f"import test_spread as t; t.as_worker({str(tmp_path)!r})", folder=tmp_path)
    alone = audited(tmp_path / "alone", "none")
    chunks = []
    for name in ("chief", "other"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        result = found.pop("audit")
        if name == "other":  # it shows examples of its own chunks, of which there is none
            assert result["pictures"] == []
            result["pictures"] = alone["pictures"]
        assert {**result, "versions": None} == {**alone, "versions": None}  # threads may differ
        assert found.pop("again") == on_one_device
        chunks.append(found.pop("chunks"))
        assert "class numbers from 0 to 2" in found["error"]
        assert "example 20" in found.pop("error")
        assert found == on_one_device
    assert chunks == [[0, 24], [12]]


def as_worker_of_which_one_dies(folder):
    """The second worker ends in the second round, without a word; the first is not done with it."""
    folder = pathlib.Path(folder)
    strategy = training.get_strategy("multiworker")
    chief, model = training.is_chief(strategy), model_under(strategy)

    def compute(chunk):
        if chunk.first_index == 36:
            os._exit(0)
        if chunk.first_index == 24:
            time.sleep(600)
        return {"index": chunk.first_index + np.arange(len(chunk.labels))}

    finished = Finished(folder / "finished.npz", {}, writes=chief)
    started = time.monotonic()
    try:
        _chunks.evaluate(compute, model, Examples(*data()), BATCH, finished=finished)
    except tf.errors.OpError as error:
        found = {"error": str(error), "seconds": time.monotonic() - started}
        (folder / "chief.json").write_text(json.dumps(found))
    os._exit(0)


@pytest.mark.slow
def test_where_a_worker_dies_the_other_ends_and_finished_rounds_are_kept(tmp_path):
    code = f"import test_spread as t; t.as_worker_of_which_one_dies({str(tmp_path)!r})"
    two_workers("-c", code, folder=tmp_path)
    found = json.loads((tmp_path / "chief.json").read_text())
    assert "does not answer any more" in found["error"]
    assert found["seconds"] < 60
    finished = Finished(tmp_path / "finished.npz", {})
    assert len(finished) == 2
    resumed = _chunks.evaluate(
        lambda chunk: {"index": chunk.first_index + np.arange(len(chunk.labels))},
        linear_model(1.0), Examples(*data()), BATCH, finished=finished,
    )  # fmt: skip
    assert resumed["index"].tolist() == list(range(44))


def as_command_of_which_one_dies(folder):
    """The second worker ends while both check the model; the first would check for long."""
    folder = pathlib.Path(folder)
    started = time.monotonic()

    def check(*_):
        if training.is_chief(training.get_strategy("multiworker")):
            time.sleep(600)
        (folder / "started").write_text(str(time.monotonic() - started))
        os._exit(0)

    measure.diagnostics.check = check
    inputs = ("audit", folder / "model.keras", "--data", folder / "data.npz", "--epsilon", 0.1)
    options = ("--strategy", "multiworker", "--output", folder / "audit")
    sys.argv = ["hr-keras", *map(str, inputs), *map(str, options)]
    cli.main()


@pytest.mark.slow
def test_where_a_worker_dies_the_command_of_the_other_ends_with_a_line(tmp_path):
    write_inputs(tmp_path)
    code = f"import test_spread as t; t.as_command_of_which_one_dies({str(tmp_path)!r})"
    started = time.monotonic()
    printed = two_workers("-c", code, folder=tmp_path, codes=[1, 0])[0]
    assert time.monotonic() - started - float((tmp_path / "started").read_text()) < 60
    line = "hr-keras: another worker ended. Run the same commands again to resume."
    assert printed.splitlines()[-1] == line
    assert "Traceback" not in printed
