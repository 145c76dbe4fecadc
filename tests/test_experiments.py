import dataclasses
import errno
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from test_evaluation import counted, counting_model
from test_evaluation import data as counted_data

from hr_keras import datasets, evaluation, plots, report
from hr_keras._core import runtime
from hr_keras.attacks import FGSM
from hr_keras.experiments import (
    checkpoint,
    feed,
    fitting,
    jobs,
    measurements,
    realization,
    table,
    train_all,
)
from hr_keras.experiments.protocol import PRESETS, Protocol, from_preset

ROOT = pathlib.Path(__file__).parent.parent


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
    return from_preset("quick", dataset=small_npz, epochs=3, realizations=2)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train_all.run(tiny, folder)


def test_results_are_files_and_a_second_run_only_reads_them(tiny, run):
    folder, results = run
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["protocol.json"]
        + [
            f"realization-{k}-{loss}.{end}"
            for k in (0, 1)
            for loss in ("ce", "hr")
            for end in ("json", "keras")
        ]
    )
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("realization*")}
    epochs = []
    assert train_all.run(tiny, folder, on_epoch=lambda *call: epochs.append(call)) == results
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("realization*")} == before
    assert epochs == [(k, loss, 3) for k in (0, 1) for loss in ("ce", "hr")]
    for result in results:
        assert {"keras", "tensorflow", "hr_keras"} <= result["versions"].keys()
        assert result["seconds"] > 0


def test_the_numbers_are_those_of_the_saved_models(tiny, run, small_npz):
    folder, results = run
    test = datasets.load(small_npz).test
    for result in results:
        model = keras.models.load_model(
            folder / f"realization-{result['index']}-{result['loss']}.keras"
        )
        assert (model.loss == "sparse_categorical_crossentropy") == (result["loss"] == "ce")
        for through in ("logits", "probabilities"):
            swept = evaluation.sweep(model, *test, through=through)
            rows = [row for row in result["test"] if row["through"] == through]
            assert {(row["attack"], row["epsilon"]): row["accuracy"] for row in rows} == (
                swept.accuracy
            )


def test_pairs_start_from_the_same_weights_and_data(tiny, small_npz):
    data = datasets.load(small_npz, tiny.validation, 5)
    ce, hr = (realization.build(tiny, loss, 5, data) for loss in ("ce", "hr"))
    other = realization.build(tiny, "ce", 6, data)
    for a, b in zip(ce.get_weights(), hr.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(ce.get_weights(), other.get_weights(), strict=True))


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own(digits):
    split = datasets.Split(np.arange(25, dtype="float32"), np.arange(25))
    seen = list(feed.batches(split, 10, seed=1, first_epoch=0, epochs=3))
    assert [len(labels) for _, labels in seen] == 3 * [10, 10, 5]
    orders = [np.concatenate([labels for _, labels in seen[k : k + 3]]) for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(25)) for order in orders)
    assert (orders[0] != orders[1]).any()
    later = list(feed.batches(split, 10, seed=1, first_epoch=2, epochs=3))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in later]), orders[2])
    for images, labels in seen:
        np.testing.assert_array_equal(images, labels)


def test_no_tuner_of_datasets_runs_while_a_model_trains(tiny, tmp_path, monkeypatch):
    """Whoever ends its iterator may wait for as long as the training took."""
    given = {}
    monkeypatch.setattr(keras.Model, "fit", lambda _, x, **options: given.update(options, x=x))
    data = realization.load(tiny, 0)
    realization.train(tiny, "ce", 0, data, checkpoint.Checkpoint(tmp_path / "a.npz"))
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
        feed.batches(stored, 500, 0, 0, 1),
        feed.batches(digits.train, 500, 0, 0, 1),
        strict=True,
    )
    for (images, labels), (decoded, same) in pairs:
        np.testing.assert_array_equal(images, decoded)
        np.testing.assert_array_equal(labels, same)


def test_many_steps_in_one_call_train_the_same_bits(tiny, small_npz):
    """Weights, metrics, validation; with a last batch that is short."""
    plan = dataclasses.replace(tiny, batch_size=70)
    data = realization.load(dataclasses.replace(plan, dataset=small_npz), 0)
    many, single = (realization.build(plan, "hr", 0, data) for _ in range(2))
    assert len(data.train.images) % 70
    assert many.steps_per_execution == fitting.steps(data.train, 70) > 1
    single.steps_per_execution = 1
    histories = [
        fitting.fit(model, data, 70, seed=3, initial_epoch=1, epochs=4).history
        for model in (many, single)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]["loss"]) == 3
    for a, b in zip(many.variables, single.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_confusion_matrices_cost_their_attacks_and_one_clean_pass(tiny):
    model, split = counting_model(), datasets.Split(*counted_data())
    plan = dataclasses.replace(tiny, epsilons=(0.0, 0.1, 0.25))
    rows, cost = counted(lambda: measurements.confusion(plan, model, split))
    assert (cost["forward"], cost["backward"]) == (1 + 4 * 2, 4)
    assert [(row["through"], row["epsilon"]) for row in rows] == [
        (route, epsilon) for route in ("logits", "probabilities") for epsilon in plan.epsilons
    ]
    for row in rows:
        adversarial = FGSM(row["epsilon"], "ce", row["through"])(model, *split)
        expected = evaluation.confusion_matrix(model, adversarial, split.labels)
        np.testing.assert_allclose(row["matrix"], expected, atol=1e-9)


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
            process.wait(timeout=generator.uniform(0.3, 0.7) * whole if kills < 5 else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 1
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


def assert_same_results(folder, other):
    """Weights, histories, tables and pictures are the same bits."""
    for name in ("realization-0-ce", "realization-0-hr"):
        one, two = (json.loads((f / f"{name}.json").read_text()) for f in (folder, other))
        assert one.pop("seconds") > 0
        assert two.pop("seconds") > 0
        assert one == two
        models = [keras.models.load_model(f / f"{name}.keras") for f in (folder, other)]
        for a, b in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(a, b)
    for name in ("table.md", "table.csv", "table.json", "figure.png", "figure.svg"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert not list(folder.glob("*.checkpoint*"))


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
    assert ("goes on from there" in errors) == (signal_number == signal.SIGINT)
    assert not (tmp_path / "stopped" / "realization-0-ce.json").exists()
    for folder in ("stopped", "whole"):
        subprocess.run([*command, tmp_path / folder], check=True, capture_output=True)
    assert_same_results(tmp_path / "stopped", tmp_path / "whole")


def test_a_file_of_other_content_is_another_protocol(tiny, run, tmp_path):
    path = tmp_path / "data.npz"
    with np.load(tiny.dataset) as arrays:
        np.savez(path, **arrays)
        before = from_preset("quick", dataset=str(path))
        train_all.open_folder(tmp_path / "run", before)
        np.savez(path, **{**arrays, "y_test": arrays["y_test"][::-1]})
    with pytest.raises(ValueError, match="dataset_sha256"):
        train_all.open_folder(tmp_path / "run", from_preset("quick", dataset=str(path)))


def test_a_damaged_checkpoint_never_displaces_a_whole_one(linear, tmp_path, monkeypatch):
    """Not even where the disk is full when the next one is to be written."""
    linear.compile("sgd", loss="mse")
    linear.optimizer.build(linear.trainable_variables)
    path = tmp_path / "a.checkpoint.npz"
    written = checkpoint.Checkpoint(path)
    written.set_model(linear)
    for epoch in (0, 1):
        written.on_epoch_end(epoch, {"loss": 1.0})
    path.write_bytes(b"damaged")
    again = checkpoint.Checkpoint(path)
    again.set_model(linear)
    again.restore(linear)
    assert len(again.epochs) == 1

    def full(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        again.on_epoch_end(1, {"loss": 1.0})
    after = checkpoint.Checkpoint(path)
    after.restore(linear)
    assert len(after.epochs) == 1


def checkpoint_of(model, path):
    """As training leaves it after an epoch."""
    model.compile("sgd", loss="mse")
    model.optimizer.build(model.trainable_variables)
    written = checkpoint.Checkpoint(path)
    written.set_model(model)
    written.on_epoch_end(0, {"loss": 1.0})


def test_training_goes_on_by_the_same_number_of_threads_only(linear, tmp_path, monkeypatch):
    """And the error names the `--jobs` that gives it, where there is one."""
    monkeypatch.setattr(jobs.runtime, "count_processors", lambda: 8)
    path = tmp_path / "realization-0-ce.checkpoint.npz"
    monkeypatch.setattr(runtime, "count_threads", lambda: 2)
    checkpoint_of(linear, path)
    before = path.read_bytes()
    checkpoint.Checkpoint(path).restore(linear)
    monkeypatch.setattr(runtime, "count_threads", lambda: 8)
    with pytest.raises(
        ValueError, match=r"of threads, 2; .* be 8,.*`--jobs 3`.*checkpoint\*"
    ) as refused:
        checkpoint.Checkpoint(path).restore(linear)
    assert "\n" not in str(refused.value)
    assert jobs.threads_each(3) == 2
    monkeypatch.setattr(jobs.runtime, "count_processors", lambda: 1)
    with pytest.raises(ValueError, match="machine of 2 cores"):
        checkpoint.Checkpoint(path).restore(linear)
    assert path.read_bytes() == before
    other_machine = checkpoint.Checkpoint(path, writes=False)  # a worker that is not the chief
    other_machine.restore(linear)
    assert len(other_machine.epochs) == 1


def test_training_goes_on_by_the_same_versions_only(linear, tmp_path, monkeypatch):
    path = tmp_path / "realization-0-ce.checkpoint.npz"
    checkpoint_of(linear, path)
    before = path.read_bytes()
    other = runtime.collect_versions() | {"tensorflow": "9.9", "python": "4.0"}
    monkeypatch.setattr(runtime, "collect_versions", lambda: other)
    with pytest.raises(ValueError, match=r"tensorflow 2\S+, now 9.9: .* delete .*checkpoint\*"):
        checkpoint.Checkpoint(path).restore(linear)
    assert path.read_bytes() == before


def test_diverged_training_is_said_and_leaves_no_result(tiny, tmp_path):
    steep = dataclasses.replace(tiny, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"realization-0-ce: .* diverged, .* lower than 1e\+30"):
        realization.run(steep, "ce", 0, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_checkpoint_of_an_earlier_version_goes_on(linear, tmp_path):
    path = tmp_path / "a.checkpoint.npz"
    checkpoint_of(linear, path)
    with np.load(path) as saved:
        arrays = dict(saved)
    state = json.loads(str(arrays.pop("state")))
    assert state.pop("threads") == runtime.count_threads() >= 1
    assert state.pop("versions")["keras"] == keras.__version__
    assert state.keys() == {"epochs", "seconds"}
    np.savez(path, state=np.array(json.dumps(state)), **arrays)
    again = checkpoint.Checkpoint(path)
    again.restore(linear)
    assert len(again.epochs) == 1


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_no_number_of_realizations_changes_the_default_threads(monkeypatch, cores):
    monkeypatch.setattr(jobs.runtime, "count_processors", lambda: cores)
    for realizations in (1, 2, 5, 100):
        number = train_all.default_jobs(from_preset("quick", realizations=realizations))
        assert jobs.threads_each(number) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "fail_at", "left"), [("checkpoint", 2, 4), ("model", 4, 2), ("result", 5, 2)]
)
def test_a_full_disk_loses_an_epoch_at_most(tiny, run, tmp_path, monkeypatch, write, fail_at, left):
    """Of three checkpoints, model and result one fails; then training goes on from before.

    With the same bits as if there had been room, and with so many writes left to do.
    """
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        realization.run(tiny, "ce", 0, tmp_path)
    there = {path.name for path in tmp_path.iterdir()}
    previous, model = "realization-0-ce.checkpoint.previous.npz", "realization-0-ce.keras"
    assert previous in there
    assert (model in there) == (write == "result")
    assert not {name for name in there if name.startswith(".")}
    result = realization.run(tiny, "ce", 0, tmp_path)
    assert len(calls) - fail_at == left
    assert {**result, "seconds": 0} == {**run[1][0], "seconds": 0}
    assert {path.name for path in tmp_path.iterdir()} == {model, "realization-0-ce.json"}


@pytest.fixture
def no_processes(monkeypatch):
    """Records what happens in place of training in processes, and of the reading afterwards."""
    happened = []

    def in_processes(function, tasks, number, on_report):
        happened.append(("train", [task[1:3] for task in tasks]))
        on_report(0, 2)

    monkeypatch.setattr(jobs.runtime, "count_processors", lambda: 2)
    monkeypatch.setattr(jobs, "run", in_processes)
    monkeypatch.setattr(realization, "run", lambda protocol, loss, index, *_: (loss, index))
    return happened


def test_what_is_there_is_counted_before_the_jobs_begin(tiny, tmp_path, no_processes):
    (tmp_path / "protocol.json").write_text(tiny.to_json())
    (tmp_path / "realization-0-hr.json").touch()
    report = lambda *call: no_processes.append(call)  # noqa: E731
    assert train_all.run(tiny, tmp_path, on_epoch=report, jobs=2)[1] == ("hr", 0)
    assert no_processes == [
        (0, "hr", 3), ("train", [("ce", 0), ("ce", 1), ("hr", 1)]), (0, "ce", 2),
    ]  # fmt: skip


def test_a_data_set_is_prepared_once_before_the_jobs_begin(tmp_path, monkeypatch, no_processes):
    """Processes that unpack the same download at the same time would destroy it."""

    def load(name, *_, data_dir):
        no_processes.append((name, data_dir))

    monkeypatch.setattr(datasets, "load", load)
    train_all.run(
        from_preset("quick", dataset="cifar10", realizations=1), tmp_path, "there", jobs=2
    )
    assert no_processes == [("cifar10", "there"), ("train", [("ce", 0), ("hr", 0)])]


@pytest.mark.parametrize("content", ["", "[1", '{"loss": "ce"}', "3"])
def test_a_damaged_result_is_named(tiny, tmp_path, content):
    path = tmp_path / "realization-0-hr.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"realization-0-hr\.json.*Delete it"):
        realization.run(tiny, "hr", 0, tmp_path)


class Stopped(Exception):
    """In place of a power cut."""


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "damage", ["cut", slow("flip"), slow("no zip"), slow("gone"), slow("both")]
)
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_used(
    tiny, run, tmp_path, monkeypatch, damage
):
    def stop(done):
        if done == 2:
            raise Stopped

    train_all.open_folder(tmp_path, tiny)
    with pytest.raises(Stopped):
        realization.run(tiny, "hr", 0, tmp_path, on_epoch=stop)
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
    batches = feed.batches

    def recorded(split, batch_size, seed, first_epoch, epochs):
        starts.append(first_epoch)
        return batches(split, batch_size, seed, first_epoch, epochs)

    monkeypatch.setattr(feed, "batches", recorded)
    result = realization.run(tiny, "hr", 0, tmp_path)
    assert starts == [0 if damage == "both" else 1]
    expected = next(r for r in run[1] if (r["loss"], r["index"]) == ("hr", 0))
    assert {**result, "seconds": 0} == {**expected, "seconds": 0}
    assert not list(tmp_path.glob("*.npz"))


def test_a_folder_of_another_protocol_is_refused_and_kept(tiny, run):
    folder, _ = run
    before = (folder / "protocol.json").read_bytes()
    with pytest.raises(ValueError, match=r"alpha=1\.6 there, 2\.0 now"):
        train_all.open_folder(folder, dataclasses.replace(tiny, alpha=2.0))
    assert (folder / "protocol.json").read_bytes() == before
    train_all.open_folder(folder, dataclasses.replace(tiny, realizations=3))  # may grow
    train_all.open_folder(folder, tiny)


def test_a_folder_of_something_else_is_refused_and_kept(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not a run folder"):
        train_all.open_folder(tmp_path, tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="not a run folder"):
        train_all.open_folder(tmp_path / "thesis.tex", tiny)


def test_cells_are_mean_and_standard_error():
    rows = {
        ("ce", 0): 0.5, ("ce", 1): 0.7, ("hr", 0): 0.8, ("hr", 1): 0.9,
    }  # fmt: skip
    results = [
        {
            "loss": loss,
            "index": index,
            "test": [
                {
                    "through": through,
                    "attack": attack,
                    "epsilon": 0.1,
                    "accuracy": value + 0.01 * (attack == "hr"),
                    "zero_gradient_share": 0.25,
                }
                for through in ("logits", "probabilities")
                for attack in ("ce", "hr")
            ],
        }
        for (loss, index), value in rows.items()
    ]
    found = {(cell.through, cell.column): cell for cell in table.cells(results, "mnist")}
    assert len(found) == 8
    cell = found["logits", "HR_CE"]
    assert (cell.trained_on, cell.attack, cell.realizations) == ("hr", "ce", 2)
    assert cell.accuracy == pytest.approx(0.85)
    assert cell.standard_error == pytest.approx(0.05)  # stdev .0707 over √2
    assert found["logits", "CE_HR"].accuracy == pytest.approx(0.61)
    assert found["logits", "HR_CE"].paper == 0.945
    assert found["logits", "HR_CE"].difference == pytest.approx(0.85 - 0.945)
    single = table.cells([result for result in results if result["index"] == 0], "a.npz")
    assert {cell.standard_error for cell in single} == {None}
    assert {(cell.paper, cell.difference) for cell in single} == {(None, None)}


def test_reports_say_what_the_cells_say(tiny, run):
    one = table.of(tiny, run[1])
    text = report.table_markdown([one])
    for cell in one.cells:
        assert f"{cell.accuracy:.3f}".removeprefix("0") in text
    assert text.count("| 0.25 |") == 2 + 2
    assert "2 realizations" in text
    assert "The paper has no such column" in text
    lines = report.table_csv([one]).splitlines()
    assert len(lines) == 1 + 2 * 3 * 4
    assert len(report.claims_csv([one]).splitlines()) == 1 + 2 * (1 + 2 * 2)
    content = json.loads(report.table_json([one]))
    assert content["cells"][0] == dataclasses.asdict(one.cells[0])
    assert content["claims"][0] == dataclasses.asdict(one.claims[0])
    assert content["protocol"]["dataset"] == tiny.dataset
    single = report.table_markdown([table.of(tiny, run[1][:2])])
    assert "±" not in single
    assert "no standard error" in single
    assert "no interval" in single


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in ROOT.glob("results/*/*/table.md"))
)
def test_committed_results_are_shown(folder):
    """Their tables, number by number, in the README or in the page on the reproduction."""
    protocol = Protocol.from_json((folder / "protocol.json").read_text())
    results = [
        json.loads((folder / f"realization-{index}-{loss}.json").read_text())
        for index in range(protocol.realizations)
        for loss in ("ce", "hr")
    ]
    text = report.table_markdown([table.of(protocol, results)])
    shown = "".join((ROOT / page).read_text() for page in ("README.md", "docs/reproduction.md"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "\n".join(rows[:5]) in shown
    assert "\n".join(rows[5:10]) in shown


def test_text_from_outside_cannot_format_a_report():
    nasty = "a|b`c<script>\n# d\x1b[31m"
    shown = report.plain_text(nasty)
    assert "\n" not in shown
    assert "\x1b" not in shown
    for character in "|`<":
        assert f"\\{character}" in shown


def test_the_figure_has_six_curves_for_each_route_and_the_same_bytes_again(run):
    first, second = (plots.accuracy_against_epoch(run[1], r"$\\frac{") for _ in range(2))
    assert first == second
    assert first["png"].startswith(b"\x89PNG")
    assert b"<svg" in first["svg"]
    for through, start in (("logits", "val_fgsm"), ("probabilities", "val_published_fgsm")):
        assert plots.experiments._accuracies(run[1][0]["history"], through) == [
            (0.0, "val_accuracy"),
            (0.1, f"{start}_ce_0.1_accuracy"),
            (0.25, f"{start}_ce_0.25_accuracy"),
        ]
    epochs, mean, error = plots.experiments._curve([[None, 0.5, 0.6], [None, 0.7, 0.6]])
    assert epochs == [2, 3]
    assert mean == pytest.approx([0.6, 0.6])
    assert error == pytest.approx([0.1, 0.0])


def test_the_presets_are_what_the_paper_says():
    paper = PRESETS["paper-mnist"]
    assert (paper.dataset, paper.model, paper.optimizer) == ("mnist", "mnist_cnn", "sgd")
    assert (paper.learning_rate, paper.epochs, paper.batch_size) == (0.001, 1000, 100)
    for name, dataset in (("paper-cifar10", "cifar10"), ("paper-svhn", "svhn_cropped")):
        preset = PRESETS[name]
        assert (preset.dataset, preset.model) == (dataset, "resnet8")
        assert (preset.epochs, preset.batch_size) == (200, 128)
        assert preset.mean_image == (dataset == "cifar10")
    for name, preset in PRESETS.items():
        assert preset.preset == name
        assert (preset.alpha, preset.epsilons) == (1.6, (0.0, 0.1, 0.25))
        assert Protocol.from_json(preset.to_json()) == preset
        if name != "quick":
            assert (preset.attack_every, preset.realizations) == (10, 5)


def test_a_protocol_that_an_earlier_version_wrote_can_be_read():
    old = json.loads(PRESETS["quick"].to_json())
    for name in ("optimizer", "schedule", "mean_image", "evaluated_on"):
        del old[name]
    assert Protocol.from_json(json.dumps(old)) == PRESETS["quick"]
    renamed = Protocol.from_json(json.dumps({**old, "preset": "paper"}))
    assert renamed.preset == "paper-mnist"
    for damaged in ({**old, "preset": "no such"}, {**old, "later": 1}, [old], "text"):
        with pytest.raises(ValueError, match="not one of this version"):
            Protocol.from_json(json.dumps(damaged))


def test_the_learning_rate_falls_after_the_epochs_of_the_schedule():
    protocol = dataclasses.replace(
        PRESETS["paper-cifar10"], schedule=((2, 0.1), (3, 0.05)), batch_size=4
    )
    images = np.random.default_rng(0).random((10, 8, 8, 3), dtype="float32")
    split = datasets.Split(images, np.arange(10))
    optimizer = realization.build(
        protocol, "ce", 0, datasets.Dataset(split, split, split)
    ).optimizer
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
    data = datasets.Dataset(train, other, other)
    build = {
        mean: realization.build(
            dataclasses.replace(PRESETS["paper-cifar10"], mean_image=mean), "ce", 0, data
        )
        for mean in (True, False)
    }
    shifted = other.images - train.images.mean(axis=0)
    np.testing.assert_allclose(build[True](other.images), build[False](shifted), atol=1e-5)


def test_run_folders_are_named_by_what_differs():
    assert from_preset("quick").name == "mnist10k_quick"
    assert from_preset("quick", realizations=9).name == "mnist10k_quick"
    assert (
        from_preset("paper-mnist", alpha=2.0, seed=3).name == "mnist_paper-mnist_alpha-2.0_seed-3"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"realizations": 0}, "realizations"),
        ({"seed": -1}, "seed"),
        ({"strategy": "miror"}, "Did you mean 'mirrored'"),
        ({"model": "vgg"}, "vgg"),
        ({"optimizer": "lion"}, "lion"),
        ({"schedule": ((5, 0.1), (5, 0.1))}, "rising epochs"),
        ({"schedule": ((0, 0.1),)}, "rising epochs"),
        ({"schedule": ((5, 0.0),)}, "positive factors"),
        ({"schedule": (5, 0.1)}, "pairs"),
        ({"evaluated_on": "train"}, "train"),
        ({"dataset": "cifar"}, "Did you mean 'cifar10'"),
    ],
)
def test_bad_protocols_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_preset("quick", **changes)


def test_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'quick'"):
        from_preset("quik")
    with pytest.raises(ValueError, match="Did you mean 'paper-mnist'"):
        from_preset("paper")
    with pytest.raises(ValueError, match="not one of this version"):
        Protocol.from_json("{}")


@pytest.mark.slow
def test_mirrored_replicas_give_the_same_table(tiny, run, tmp_path):
    """Four replicas on logical CPUs against one device, the whole realization."""
    protocol = dataclasses.replace(tiny, strategy="mirrored", realizations=1)
    results = train_all.run(protocol, tmp_path)
    for ours, one in zip(results, run[1][:2], strict=True):
        np.testing.assert_allclose(ours["history"]["loss"], one["history"]["loss"], rtol=1e-4)
        assert [row["accuracy"] for row in ours["test"]] == pytest.approx(
            [row["accuracy"] for row in one["test"]], abs=0.021
        )


def test_a_batch_that_the_replicas_cannot_divide_is_refused(tiny, tmp_path):
    protocol = dataclasses.replace(tiny, strategy="mirrored", batch_size=30)
    with pytest.raises(ValueError, match="multiple of the 4 replicas"):
        train_all.run(protocol, tmp_path)
