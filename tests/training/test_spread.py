"""Examples spread over replicas and workers: the same results, example by example."""

import dataclasses
import json
import os
import pathlib
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model, mirrored
from test_multi_worker import two_workers

from hr_keras import audit, evaluation, training
from hr_keras._core.examples import Examples
from hr_keras._core.finished import Finished
from hr_keras.attacks import FGSM, PGD, Square
from hr_keras.audit import measure
from hr_keras.evaluation import _chunks, _spread

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
    return {name: array.astype(int).tolist() for name, array in found.items()}


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


def test_a_model_that_draws_random_numbers_is_not_spread():
    """The numbers of its generator depend on the passes before."""
    with mirrored(2).scope():
        noise = keras.layers.Lambda(lambda x: x + 0.01 * keras.random.normal(keras.ops.shape(x)))
        model = keras.Sequential([keras.Input((2, 2, 3)), noise, linear_model(1.0)])
    assert _spread._find_devices(model, model.distribute_strategy).names == (None,)


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


@pytest.mark.slow
def test_two_workers_share_the_chunks_and_give_the_bits_of_one_device(
    on_one_device, tmp_path, monkeypatch
):
    monkeypatch.setattr(measure.diagnostics, "check", None)  # restored in the end
    images, labels = (np.round(255 * part) if part.ndim > 1 else part for part in data())
    images = images.astype("uint8")
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    linear_model(1.0).save(tmp_path / "model.keras")
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
    """The second worker ends in the second round, without a word."""
    folder = pathlib.Path(folder)
    strategy = training.get_strategy("multiworker")
    chief, model = training.is_chief(strategy), model_under(strategy)

    def compute(chunk):
        if chunk.first_index == 36:
            os._exit(0)
        return {"index": chunk.first_index + np.arange(len(chunk.labels))}

    finished = Finished(folder / "finished.npz", {}, writes=chief)
    started = time.monotonic()
    try:
        _chunks.evaluate(compute, model, Examples(*data()), BATCH, finished=finished)
    except tf.errors.OpError as error:
        found = {"error": type(error).__name__, "seconds": time.monotonic() - started}
        (folder / "chief.json").write_text(json.dumps(found))
    os._exit(0)


@pytest.mark.slow
def test_where_a_worker_dies_the_other_ends_and_finished_rounds_are_kept(tmp_path):
    code = f"import test_spread as t; t.as_worker_of_which_one_dies({str(tmp_path)!r})"
    two_workers("-c", code, folder=tmp_path)
    found = json.loads((tmp_path / "chief.json").read_text())
    assert found["error"] == "UnavailableError"  # for which the command line has a line
    assert found["seconds"] < 60
    finished = Finished(tmp_path / "finished.npz", {})
    assert len(finished) == 2
    resumed = _chunks.evaluate(
        lambda chunk: {"index": chunk.first_index + np.arange(len(chunk.labels))},
        linear_model(1.0), Examples(*data()), BATCH, finished=finished,
    )  # fmt: skip
    assert resumed["index"].tolist() == list(range(44))
