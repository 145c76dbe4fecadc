"""Audits of datasets, and audits that were interrupted."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model, noisy

from hr_keras import audit, evaluation
from hr_keras._core import examples as examples_module
from hr_keras._core.examples import Chunk
from hr_keras.audit import measure
from hr_keras.audit.pictures import PICTURES, Candidates


def data(n):
    generator = np.random.default_rng(1)
    images = generator.random(size=(n, 2, 2, 3), dtype="float32")
    labels = np.asarray(linear_model(1.0)(images)).argmax(axis=1)
    labels[::7] = (labels[::7] + 1) % 3
    return images, labels


@pytest.fixture
def checked(monkeypatch):
    """How many examples `diagnostics.check` saw; it checks nothing."""
    seen = []
    check = lambda model, images, *_: seen.append(len(images)) or []  # noqa: E731
    monkeypatch.setattr(measure.diagnostics, "check", check)
    return seen


def test_an_audit_of_a_dataset_is_that_of_its_arrays(checked):
    model, (images, labels) = linear_model(1.0), data(60)
    stored = {"image": np.round(255 * images).astype("uint8"), "label": np.eye(3)[labels]}
    images = stored["image"].astype("float32") / 255
    dataset = tf.data.Dataset.from_tensor_slices(stored).filter(lambda _: True).batch(7)
    options = {"epsilon": 0.1, "attacks": ("noise", "fgsm"), "batch_size": 8}
    streamed = audit.audit(
        model, dataset, preprocess=lambda part: part.astype("float32") / 255, **options
    )
    whole = audit.audit(model, images, labels, **options)
    assert dataclasses.replace(streamed, seconds=0.0) == dataclasses.replace(whole, seconds=0.0)
    assert streamed.protocol.examples == 60
    assert 0 < streamed.find_row("worst_case").accuracy < streamed.clean.accuracy < 1
    assert streamed.pictures
    assert checked == [32, 60]  # of a dataset the first chunk
    soft = tf.data.Dataset.from_tensor_slices((images, np.full((60, 3), 1 / 3))).batch(7)
    with pytest.raises(ValueError, match="class numbers"):
        audit.audit(model, soft, **options)
    with pytest.raises(ValueError, match="`epsilon` must be a finite number"):
        audit.audit(model, dataset)


def test_checks_do_not_change_the_random_numbers_of_the_attacks(monkeypatch):
    """An audit that resumes does not check again."""
    results = []
    for passes in (0, 3):
        check = lambda model, images, *_, n=passes: [model(images) for _ in range(n)][:0]  # noqa: E731
        monkeypatch.setattr(measure.diagnostics, "check", check)
        options = {"epsilon": 0.1, "attacks": "fgsm", "batch_size": 8}
        results.append(audit.audit(noisy(linear_model(1.0)), *data(60), **options).rows)
    assert results[0] == results[1]


def test_the_examples_to_show_are_the_first_of_each_class_then_the_first_of_the_others():
    generator = np.random.default_rng(0)
    for classes, n in ((3, 40), (12, 200), (5, 6)):
        labels, fooled = generator.integers(classes, size=n), generator.random(n) < 0.5
        images = np.arange(n, dtype="float32").reshape(n, 1)
        candidates = Candidates()
        for first in range(0, n, 7):
            part = slice(first, first + 7)
            chunk = Chunk(first, images[part], labels[part], False, None)
            candidates.add(chunk, labels[part], fooled[part])
        rows = np.flatnonzero(fooled)
        firsts = [k for k in rows if k == rows[labels[rows] == labels[k]][0]]
        others = [k for k in rows if k not in firsts]
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(classes)])
        task = candidates.make_task(model, 8)
        assert task.indices.tolist() == sorted([*firsts, *others][:PICTURES])
        np.testing.assert_array_equal(task.images[:, 0], task.indices)
        np.testing.assert_array_equal(task.labels, labels[task.indices])


def test_an_interrupted_audit_resumes_with_the_same_bits(tmp_path, monkeypatch, checked):
    """Neither checks nor finished examples are computed again; another audit is refused."""
    monkeypatch.setattr(examples_module, "CHUNK", 1)  # 256 examples
    images, labels = data(600)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    linear_model(1.0).save(tmp_path / "model.keras")
    calls, devices, attack = [], set(), evaluation.robust_accuracy

    def stopping(*arguments):
        calls.append(arguments)
        devices.add(tf.identity(0.0).device)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return attack(*arguments)

    monkeypatch.setattr(measure.evaluation, "robust_accuracy", stopping)

    def run(folder, **changes):
        options = {"attacks": "noise", "examples": 600, "folder": tmp_path / folder, **changes}
        return audit.audit_file(
            tmp_path / "model.keras", tmp_path / "data.npz", **{"epsilon": 0.1, **options}
        )[1]

    with pytest.raises(KeyboardInterrupt):
        run("a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".unfinished-audit.npz"]
    with pytest.raises(ValueError, match="differs in seed"):
        run("a", seed=1)
    del calls[:]
    calls.extend([None] * 10)
    resumed = run("a")
    assert len(calls) == 10 + 2 * 4  # two chunks, four ε
    assert len(checked) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["audit.json"]
    assert len(devices) == 1
    whole = run("b", strategy="mirrored")  # on four logical CPUs
    assert len(devices) == 3  # one for each chunk of 256
    assert dataclasses.replace(resumed, seconds=0.0) == dataclasses.replace(whole, seconds=0.0)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".unfinished-audit.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a file of finished examples"):
        run("c")
    assert run("c", resume=False).rows == whole.rows
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "finished.npz").write_bytes(b"a user's own")
    with pytest.raises(ValueError, match="is not empty"):
        run("d", resume=False)
    assert (tmp_path / "d" / "finished.npz").read_bytes() == b"a user's own"
