import dataclasses

import numpy as np
import pytest

from hr_keras._core.runtime import collect_versions
from hr_keras.experiments import checkpoint, workers
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.protocol import from_preset

PROTOCOL = from_preset("quick")


def make_checkpoint(path, protocol=PROTOCOL, method="ce", seed=0, writes=True):
    return Checkpoint(path, protocol, method, seed, writes=writes)


def test_a_damaged_checkpoint_never_replaces_a_complete_one(linear, tmp_path, monkeypatch):
    """Not even where the disk is full when the next one is to be written."""
    linear.compile("sgd", loss="mse")
    linear.optimizer.build(linear.trainable_variables)
    path = tmp_path / "a.checkpoint.npz"
    written = make_checkpoint(path)
    written.set_model(linear)
    for epoch in (0, 1):
        written.on_epoch_end(epoch, {"loss": 1.0})
    path.write_bytes(b"damaged")
    again = make_checkpoint(path)
    again.set_model(linear)
    again.restore(linear)
    assert len(again.epochs) == 1

    def full(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        again.on_epoch_end(1, {"loss": 1.0})
    after = make_checkpoint(path)
    after.restore(linear)
    assert len(after.epochs) == 1


def write_checkpoint(model, path):
    """As after an epoch of training."""
    model.compile("sgd", loss="mse")
    model.optimizer.build(model.trainable_variables)
    written = make_checkpoint(path)
    written.set_model(model)
    written.on_epoch_end(0, {"loss": 1.0})


def test_training_resumes_with_the_same_number_of_threads_only(linear, tmp_path, monkeypatch):
    """And the error names the `--jobs` that gives it, where there is one."""
    monkeypatch.setattr(workers, "count_processors", lambda: 8)
    path = tmp_path / "realization-0-ce.checkpoint.npz"
    monkeypatch.setattr(checkpoint, "count_threads", lambda: 2)
    write_checkpoint(linear, path)
    before = path.read_bytes()
    make_checkpoint(path).restore(linear)
    monkeypatch.setattr(checkpoint, "count_threads", lambda: 8)
    with pytest.raises(
        ValueError, match=r"with 2 threads; .* 8, .*`--jobs 3`.*checkpoint\*"
    ) as refused:
        make_checkpoint(path).restore(linear)
    assert "\n" not in str(refused.value)
    assert workers.count_threads_each(3) == 2
    monkeypatch.setattr(workers, "count_processors", lambda: 1)
    with pytest.raises(ValueError, match="machine with 2 cores"):
        make_checkpoint(path).restore(linear)
    assert path.read_bytes() == before
    other_machine = make_checkpoint(path, writes=False)  # a worker that is not the chief
    other_machine.restore(linear)
    assert len(other_machine.epochs) == 1


def test_training_resumes_with_the_same_versions_only(linear, tmp_path, monkeypatch):
    path = tmp_path / "realization-0-ce.checkpoint.npz"
    write_checkpoint(linear, path)
    before = path.read_bytes()
    other = collect_versions() | {"tensorflow": "9.9", "python": "4.0"}
    monkeypatch.setattr(checkpoint, "collect_versions", lambda: other)
    with pytest.raises(ValueError, match=r"tensorflow 2\S+, now 9.9: .* delete .*checkpoint\*"):
        make_checkpoint(path).restore(linear)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"method": "hr"}, "method 'ce', now 'hr'"),
        ({"seed": 1}, "seed 0, now 1"),
        ({"protocol": dataclasses.replace(PROTOCOL, alpha=2.0)}, "alpha 1.6, now 2.0"),
        ({"protocol": dataclasses.replace(PROTOCOL, label_noise=0.2)}, "label_noise 0.0"),
        ({"protocol": dataclasses.replace(PROTOCOL, epochs=99)}, "epochs 15, now 99"),
    ],
)
def test_a_checkpoint_of_other_training_is_refused(linear, tmp_path, other, said):
    path = tmp_path / "realization-0-ce.checkpoint.npz"
    write_checkpoint(linear, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to other training: {said}"):
        make_checkpoint(path, **other).restore(linear)
    assert path.read_bytes() == before
    more = dataclasses.replace(PROTOCOL, realizations=9, methods=("ce",))  # these may change
    make_checkpoint(path, protocol=more).restore(linear)


@pytest.mark.parametrize("damage", ["complex64", "shape"])
def test_variables_of_another_kind_are_no_checkpoint(linear, tmp_path, damage):
    path = tmp_path / "a.checkpoint.npz"
    write_checkpoint(linear, path)
    with np.load(path) as saved:
        arrays = dict(saved)
    value = arrays["variable_0"]
    arrays["variable_0"] = value[..., :1] if damage == "shape" else value.astype(damage)
    np.savez(path, **arrays)
    again = make_checkpoint(path)
    again.restore(linear)
    assert again.epochs == []
