import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from hr_keras import datasets, evaluation
from hr_keras.experiments import pipeline, train, workers
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.fit import build_model, fit_model, train_model
from hr_keras.experiments.methods import METHODS
from hr_keras.experiments.protocol import PRESETS, from_preset
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_folder, train_trial


@pytest.fixture(scope="module")
def small_npz(tmp_path_factory):
    """400 of the embedded digits to train and 100 to test, as a file of the user's."""
    data = datasets.load("mnist10k", validation=0)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(
        path,
        x_train=data.train.images[:400, ..., 0],
        y_train=data.train.labels[:400],
        x_test=data.test.images[:100, ..., 0],
        y_test=data.test.labels[:100],
    )
    return str(path)


@pytest.fixture(scope="module")
def tiny(small_npz):
    return from_preset("quick", dataset=small_npz, epochs=3, realizations=1)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = RunFolder.create(tmp_path_factory.mktemp("run"), tiny)
    return folder, train_folder(folder)


def test_results_are_files_and_a_second_run_only_reads_them(run):
    folder, results = run
    names = {path.name for path in folder.path.iterdir() if not path.name.startswith(".")}
    trials = [("ce", 0), ("hr", 0)]
    assert names == {"protocol.json"} | {
        path.name for trial in trials
        for path in (folder.result_path(*trial), folder.model_path(*trial))
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in folder.path.glob("realization*")}
    epochs = []
    assert train_folder(folder, on_epoch=lambda *call: epochs.append(call)) == results
    assert {path: path.stat().st_mtime_ns for path in folder.path.glob("realization*")} == before
    assert epochs == [(*trial, 3) for trial in trials]
    for result in results:
        assert {"keras", "tensorflow", "hr_keras"} <= result.versions.keys()
        assert result.seconds > 0
        assert len(result.history["gradient_norm_hr"]) == 3


def test_a_model_that_trains_as_another_one_is_not_trained_again(run, tmp_path, monkeypatch):
    """With another learning rate it is."""

    def no_training(*_):
        raise AssertionError("trained")

    shutil.copytree(run[0].path, tmp_path / "run")
    methods = (*run[0].protocol.methods, "ce_scaled", "ce_step")
    more = dataclasses.replace(
        run[0].protocol, methods=methods, learning_rates=(("ce_step", 0.02),)
    )
    folder = RunFolder.create(tmp_path / "run", more)
    monkeypatch.setattr(train, "train_model", no_training)
    result, ce = train_trial(folder, "ce_scaled", 0), folder.read_result("ce", 0)
    assert result.history == ce.history
    assert result.accuracies[0] == ce.accuracies[0]
    assert result.confidence.median_logit_gap == pytest.approx(16 * ce.confidence.median_logit_gap)
    with pytest.raises(AssertionError, match="trained"):
        train_trial(folder, "ce_step", 0)


def test_the_numbers_are_those_of_the_saved_models(run, small_npz):
    folder, results = run
    test = datasets.load(small_npz).test
    for result in results:
        model = keras.models.load_model(folder.model_path(result.method, result.realization))
        assert (model.loss.name == "hr_loss") == (result.method == "hr")
        found = {(one.attack, one.through, one.epsilon): one for one in result.accuracies}
        assert len(found) == 1 + 2 * 2 * 2
        for through in ("logits", "probabilities"):
            swept = evaluation.sweep(model, *test, through=through)
            for (objective, epsilon), accuracy in swept.accuracy.items():
                if epsilon == 0:
                    assert found["none", "none", 0.0].accuracy == accuracy
                    continue
                one = found[f"fgsm_{objective}", through, epsilon]
                assert (one.accuracy, one.examples, one.split) == (accuracy, 100, "test")
                assert one.zero_gradient_share == swept.zero_gradient_share[objective]
        assert {terms.split for terms in result.error_terms} == {"train", "validation", "test"}
        assert [terms.examples for terms in result.error_terms] == [360, 40, 100]


def test_pairs_start_from_the_same_weights_and_data(tiny, small_npz):
    data = datasets.load(small_npz, tiny.validation, 5)
    ce, hr = (build_model(tiny, method, 5, data)[0] for method in ("ce", "hr"))
    other = build_model(tiny, "ce", 6, data)[0]
    for a, b in zip(ce.get_weights(), hr.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(ce.get_weights(), other.get_weights(), strict=True))


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own(digits):
    split = datasets.Split(np.arange(25, dtype="float32"), np.arange(25))
    seen = list(pipeline.make_training_batches(split, 10, seed=1, first_epoch=0, epochs=3))
    assert [len(labels) for _, labels in seen] == 3 * [10, 10, 5]
    orders = [np.concatenate([labels for _, labels in seen[k : k + 3]]) for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(25)) for order in orders)
    assert (orders[0] != orders[1]).any()
    later = list(pipeline.make_training_batches(split, 10, seed=1, first_epoch=2, epochs=3))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in later]), orders[2])
    for images, labels in seen:
        np.testing.assert_array_equal(images, labels)


def test_no_tuner_of_datasets_runs_while_a_model_trains(tiny, tmp_path, monkeypatch):
    """Whoever ends its iterator may wait for as long as the training took."""
    given = {}
    monkeypatch.setattr(keras.Model, "fit", lambda _, x, **options: given.update(options, x=x))
    data = pipeline.load_data(tiny, 0)
    train_model(tiny, "ce", 0, data, Checkpoint(tmp_path / "a.npz", tiny, "ce", 0))
    for dataset in (given["x"], given["validation_data"]):
        assert dataset.options().autotune.enabled is False
    images, labels = map(
        np.concatenate, zip(*given["validation_data"].as_numpy_iterator(), strict=True)
    )
    np.testing.assert_array_equal(images, data.validation.images)
    np.testing.assert_array_equal(labels, data.validation.labels)


def test_stored_pixels_give_the_batches_of_decoded_ones(digits):
    stored = datasets.load("mnist10k", dtype=None).train
    for split in (stored, digits.train):
        assert (split.images.dtype == "uint8") == (split is stored)
    pairs = zip(
        pipeline.make_training_batches(stored, 500, 0, 0, 1),
        pipeline.make_training_batches(digits.train, 500, 0, 0, 1),
        strict=True,
    )
    for (images, labels), (decoded, same) in pairs:
        np.testing.assert_array_equal(images, decoded)
        np.testing.assert_array_equal(labels, same)


def test_many_steps_in_one_call_train_the_same_bits(tiny, small_npz):
    """Weights, metrics, validation; with a last batch that is short."""
    plan = dataclasses.replace(tiny, batch_size=70)
    data = pipeline.load_data(dataclasses.replace(plan, dataset=small_npz), 0)
    many, single = (build_model(plan, "ce", 0, data)[1] for _ in range(2))
    assert len(data.train.images) % 70
    assert many.steps_per_execution == pipeline.count_steps(data.train, 70) > 1
    single.steps_per_execution = 1
    histories = [
        fit_model(model, data, 70, seed=3, initial_epoch=1, epochs=4).history
        for model in (many, single)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]["loss"]) == 3
    for a, b in zip(many.variables, single.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_training_killed_again_and_again_ends_with_the_same_bits(tmp_path, small_npz):
    """kill -9 at random moments of the main process, whatever it and its jobs are doing."""
    command = [
        sys.executable, "-c", "from hr_keras.cli import main; main()", "table", "--data", small_npz,
        "--epochs", "60", "--realizations", "1", "--output",
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    whole = time.perf_counter() - started
    generator, kills = np.random.default_rng(), 0
    for _ in range(30):
        process = subprocess.Popen(
            [*command, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=generator.uniform(0.25, 0.5) * whole if kills < 5 else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 1
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


def assert_same_results(path, other_path):
    """Weights, histories, tables and pictures are the same bits."""
    folder, other = RunFolder(path), RunFolder(other_path)
    for one, two in zip(folder.results(), other.results(), strict=True):
        assert min(one.seconds, two.seconds) > 0
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(two, seconds=0)
        models = [
            keras.models.load_model(each.model_path(one.method, one.realization))
            for each in (folder, other)
        ]
        for a, b in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(a, b)
    for name in ("table.md", "table.csv", "table.tex", "figure.png", "figure.svg"):
        assert (path / name).read_bytes() == (other_path / name).read_bytes()
    assert not list(path.glob("*.checkpoint*"))


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_training_ends_with_the_same_bits(tmp_path, small_npz, signal_number):
    """Stopped as soon as a first checkpoint is there, started again, against never stopped."""
    command = [
        sys.executable, "-c", "from hr_keras.cli import main; main()", "table", "--data", small_npz,
        "--epochs", "8", "--realizations", "1", "--output",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*command, tmp_path / "stopped"],
        stderr=subprocess.PIPE,
        text=True,
        # Where a shell has started the tests in the background, they ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first = tmp_path / "stopped" / "realization-0-ce.checkpoint.npz"
    while not first.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL)
    assert ("run the same command again to resume" in errors) == (signal_number == signal.SIGINT)
    assert not (tmp_path / "stopped" / "realization-0-ce.json").exists()
    for folder in ("stopped", "whole"):
        subprocess.run([*command, tmp_path / folder], check=True, capture_output=True)
    assert_same_results(tmp_path / "stopped", tmp_path / "whole")


def test_a_file_of_other_content_is_another_protocol(tiny, run, tmp_path):
    path = tmp_path / "data.npz"
    with np.load(tiny.dataset) as arrays:
        np.savez(path, **arrays)
        before = from_preset("quick", dataset=str(path))
        RunFolder.create(tmp_path / "run", before)
        np.savez(path, **{**arrays, "y_test": arrays["y_test"][::-1]})
    with pytest.raises(ValueError, match="dataset_sha256"):
        RunFolder.create(tmp_path / "run", from_preset("quick", dataset=str(path)))


def test_diverged_training_is_said_and_leaves_no_result(tiny, tmp_path):
    steep = dataclasses.replace(tiny, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"realization-0-ce: .* diverged, .* lower than 1e\+30"):
        train_trial(RunFolder.create(tmp_path, steep), "ce", 0)
    assert not list(tmp_path.glob("realization*.json"))


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_no_number_of_realizations_changes_the_default_threads(monkeypatch, cores):
    for module in (workers, train):
        monkeypatch.setattr(module, "count_processors", lambda: cores)
    for realizations in (1, 2, 5, 100):
        number = train.choose_jobs(from_preset("quick", realizations=realizations))
        assert workers.count_threads_each(number) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "fail_at", "left"), [("checkpoint", 2, 4), ("model", 4, 2), ("result", 5, 2)]
)
def test_a_full_disk_loses_an_epoch_at_most(tiny, run, tmp_path, monkeypatch, write, fail_at, left):
    """Of three checkpoints, model and result one fails; then training goes on from before.

    With the same bits as if there had been room, and with so many writes left to do.
    """
    folder = RunFolder.create(tmp_path, tiny)
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train_trial(folder, "ce", 0)
    there = {path.name for path in tmp_path.iterdir()}
    previous, model = "realization-0-ce.checkpoint.previous.npz", "realization-0-ce.keras"
    assert previous in there
    assert (model in there) == (write == "result")
    assert not {name for name in there if name.startswith(".")}
    result = train_trial(folder, "ce", 0)
    assert len(calls) - fail_at == left
    assert_same(result, run[1][0])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"protocol.json", model, "realization-0-ce.json"}


def assert_same(result, other):
    assert dataclasses.replace(result, seconds=0) == dataclasses.replace(other, seconds=0)


@pytest.fixture
def no_processes(monkeypatch):
    """Records what happens in place of training in processes, and of the reading afterwards."""
    happened = []

    def in_processes(function, tasks, number, on_report):
        happened.append(("train", [task[1:3] for task in tasks]))
        on_report(0, 2)

    monkeypatch.setattr(workers, "count_processors", lambda: 2)
    monkeypatch.setattr(workers, "run_tasks", in_processes)
    monkeypatch.setattr(train, "train_trial", lambda folder, *trial: trial[:2])
    return happened


def test_finished_models_are_counted_before_the_jobs_begin(tiny, tmp_path, no_processes):
    folder = RunFolder.create(tmp_path, dataclasses.replace(tiny, realizations=2))
    folder.result_path("hr", 0).touch()
    report = lambda *call: no_processes.append(call)  # noqa: E731
    assert train_folder(folder, on_epoch=report, jobs=2)[1] == ("hr", 0)
    assert no_processes == [
        ("hr", 0, 3), ("train", [("ce", 0), ("ce", 1), ("hr", 1)]), ("ce", 0, 2),
    ]  # fmt: skip


def test_a_data_set_is_prepared_once_before_the_jobs_begin(tmp_path, monkeypatch, no_processes):
    """Processes that unpack the same download at the same time would destroy it."""

    def load(name, *_, data_dir):
        no_processes.append((name, data_dir))

    monkeypatch.setattr(datasets, "load", load)
    plan = from_preset("quick", dataset="cifar10", realizations=1)
    train_folder(RunFolder.create(tmp_path, plan), "data", jobs=2)
    assert no_processes == [("cifar10", "data"), ("train", [("ce", 0), ("hr", 0)])]


def test_added_methods_train_in_this_process_only(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "count_processors", lambda: 2)
    monkeypatch.setitem(METHODS, "steep", dataclasses.replace(METHODS["hr"], name="steep"))
    folder = RunFolder.create(tmp_path, dataclasses.replace(tiny, methods=("ce", "steep")))
    with pytest.raises(ValueError, match=r"`jobs` must be 1 for methods .* steep"):
        train_folder(folder, jobs=2)


class Stopped(Exception):
    """In place of a power cut."""


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flip", "no zip", "gone", "both"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_used(
    tiny, run, tmp_path, monkeypatch, damage
):
    def stop(method, realization, done):
        if done == 2:
            raise Stopped

    folder = RunFolder.create(tmp_path, tiny)
    with pytest.raises(Stopped):
        train_trial(folder, "hr", 0, on_epoch=stop)
    path = tmp_path / "realization-0-hr.checkpoint.npz"
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:half],
            "flip": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        }.get(damage, b"PK not a zip")
    )
    if damage == "gone":
        path.unlink()
    if damage == "both":
        (tmp_path / "realization-0-hr.checkpoint.previous.npz").write_bytes(b"")
    starts = []
    batches = pipeline.make_training_batches

    def recorded(split, batch_size, seed, first_epoch, epochs):
        starts.append(first_epoch)
        return batches(split, batch_size, seed, first_epoch, epochs)

    monkeypatch.setattr(pipeline, "make_training_batches", recorded)
    result = train_trial(folder, "hr", 0)
    assert starts == [0 if damage == "both" else 1]
    assert_same(result, run[0].read_result("hr", 0))
    assert not list(tmp_path.glob("*.npz"))


def test_the_learning_rate_falls_after_the_epochs_of_the_schedule():
    protocol = dataclasses.replace(
        PRESETS["paper-cifar10"], schedule=((2, 0.1), (3, 0.05)), batch_size=4
    )
    images = np.random.default_rng(0).random((10, 8, 8, 3), dtype="float32")
    split = datasets.Split(images, np.arange(10))
    optimizer = build_model(protocol, "ce", 0, datasets.Dataset(split, split, split))[1].optimizer
    steps = 3  # of 4, 4 and 2 examples
    for epoch, factor in enumerate((1, 1, 0.1, 0.05, 0.05)):
        for step in (0, steps - 1):
            optimizer.iterations.assign(epoch * steps + step)
            assert float(optimizer.learning_rate) == pytest.approx(0.001 * factor)


def test_the_mean_image_is_of_the_training_split_and_inside_the_model():
    generator = np.random.default_rng(0)
    train, other = (
        datasets.Split(generator.random((10, 8, 8, 3), dtype="float32"), np.arange(10))
        for _ in range(2)
    )
    data, preset = datasets.Dataset(train, other, other), PRESETS["paper-cifar10"]
    build = {
        mean: build_model(dataclasses.replace(preset, mean_image=mean), "ce", 0, data)[0]
        for mean in (True, False)
    }
    shifted = other.images - train.images.mean(axis=0)
    np.testing.assert_allclose(build[True](other.images), build[False](shifted), atol=1e-5)


@pytest.mark.slow
def test_mirrored_replicas_give_the_same_table(tiny, run, tmp_path):
    """Four replicas on logical CPUs against one device, the whole realization."""
    protocol = dataclasses.replace(tiny, strategy="mirrored")
    results = train_folder(RunFolder.create(tmp_path, protocol))
    for ours, one in zip(results, run[1], strict=True):
        np.testing.assert_allclose(ours.history["loss"], one.history["loss"], rtol=1e-4)
        assert [row.accuracy for row in ours.accuracies] == pytest.approx(
            [row.accuracy for row in one.accuracies], abs=0.021
        )


def test_a_batch_that_the_replicas_cannot_divide_is_refused(tiny, tmp_path):
    protocol = dataclasses.replace(tiny, strategy="mirrored", batch_size=30)
    with pytest.raises(ValueError, match="multiple of the 4 replicas"):
        train_folder(RunFolder.create(tmp_path, protocol))
