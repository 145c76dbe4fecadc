"""`results/train_on_gpu.py`: what JAX trains there, TensorFlow measures here."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from hr_keras import attacks, datasets, training
from hr_keras.attacks import _in_graph
from hr_keras.experiments import measure
from hr_keras.experiments.fit import build_model
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_folder

pytest.importorskip("jax", reason="pip install 'hr_keras[backends]'")

SCRIPT = pathlib.Path(__file__).parent.parent / "results" / "train_on_gpu.py"
CHANGES = {"realizations": 1, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.001}
PGD_AT = {"methods": ["pgd_at", "pgd_at_hr"], "train_steps": 2}
METHODS = {
    "ordinary": {"methods": ["ce", "hr"], "epochs": 3},
    "adversarial": {**PGD_AT, "epochs": 11},  # the warm-up of ε takes 300 steps
}
# In the JAX process: the points that `_attack_from` finds in some steps of the training.
ATTACK = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np, jax, train_on_gpu
jax.config.update("jax_default_matmul_precision", "float32")
saved = np.load({start!r})
trainer = train_on_gpu.Trainer(saved, saved)
weights, state, _ = ([one[0] for one in part] for part in trainer.state)
images, labels = trainer._batch(np.arange(16))
noise = np.load({noise!r})
np.save({output!r}, [
    trainer._attack_from(noise, weights, state, images, labels, trainer.means[0], step)
    for step in {steps}
])
"""


def run_python(*arguments, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=kept | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return result.returncode, result.stderr


def call(*arguments):
    returncode, errors = run_python(SCRIPT, *arguments)
    assert returncode == 0, errors


def save_digits(path, shape=(28, 28, 1)):
    train = datasets.load("mnist10k", dtype=None).train
    images = np.resize(train.images[:600, : shape[0], : shape[1]], (600, *shape))
    x, y = np.split(images, [500]), np.split(train.labels[:600], [500])
    np.savez(path, x_train=x[0], y_train=y[0], x_test=x[1], y_test=y[1])


@pytest.mark.parametrize("name", METHODS)
def test_tensorflow_measures_what_jax_trained(name, tmp_path):
    file, run = tmp_path / "digits.npz", tmp_path / "run"
    save_digits(file)
    call("prepare", "quick", file, tmp_path / "start.npz",
         "--changes", json.dumps(CHANGES | METHODS[name]))  # fmt: skip
    call("train", tmp_path / "start.npz", tmp_path / "end.npz")
    call("finish", tmp_path / "end.npz", file, run)
    folder = RunFolder(run)
    history = np.load(tmp_path / "end.npz")["history"]
    validation = datasets.load(file, 0.1, 0).validation
    for k, result in enumerate(train_folder(folder)):
        assert result.history["loss"] == pytest.approx(history[:, k, 0].tolist())
        model = measure.load_trained_model(folder, result.method, 0)
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        _, accuracy = model.evaluate(validation.images, validation.labels, verbose=0)
        assert accuracy == pytest.approx(history[-1, k, 3], abs=1 / len(validation.labels))
        assert accuracy > 0.5


def test_training_goes_on_where_it_stopped(tmp_path):
    """From the file of the models, and from the checkpoints of a run folder."""
    file, run = tmp_path / "digits.npz", tmp_path / "run"
    save_digits(file)
    start, whole, parts, again, rest = (
        tmp_path / f"{name}.npz" for name in ("start", "whole", "parts", "again", "rest")
    )
    changes = json.dumps(CHANGES | {"realizations": 2, "epochs": 3})
    prepare = ("prepare", "quick", file, "--changes", changes, "--first", 1)
    call(*prepare, start)
    call("train", start, whole)
    call("train", start, parts, "--seconds", 0)
    call("finish", parts, file, run)
    assert not list(run.glob("realization-0-*"))
    call("train", start, parts)
    call(*prepare, again, "--folder", run)
    call("train", again, rest)
    expected = np.load(whole)
    assert expected["history"].shape[:2] == (3, 2)
    for found in (np.load(parts), np.load(rest)):
        for name in expected:
            if name.startswith(("model/", "optimizer/")):
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(found["history"][:, :, :6], expected["history"][:, :, :6])
    # Attacks only in the epochs of the protocol, wherever the training stopped.
    np.testing.assert_array_equal(np.load(rest)["history"], expected["history"])
    call(*prepare[:-1], 0, start)
    returncode, errors = run_python(SCRIPT, "train", start, whole)
    assert returncode != 0
    assert "`realizations` differs" in errors


def test_the_attack_is_that_of_adversarial_training(tmp_path):
    """With batch normalisation and a mean image, during the warm-up of ε and after it."""
    file, start, steps = tmp_path / "colours.npz", tmp_path / "start.npz", (0, 149, 299, 400)
    save_digits(file, (32, 32, 3))
    changes = CHANGES | PGD_AT | {"epochs": 11, "train_epsilon": 0.05, "train_steps": 3}
    call("prepare", "paper-cifar10", file, start, "--changes", json.dumps(changes))
    noise = np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype("float32")
    np.save(tmp_path / "noise.npy", noise)
    names = {"start": start, "noise": tmp_path / "noise.npy", "output": tmp_path / "found.npy"}
    script = ATTACK.format(
        folder=str(SCRIPT.parent), steps=steps, **{k: str(v) for k, v in names.items()}
    )
    returncode, errors = run_python("-c", script, KERAS_BACKEND="jax")
    assert returncode == 0, errors

    class FromNoise(attacks.PGD):
        def start(self, state):
            moved = state.point + self.sizes(state) * noise
            return state._replace(point=self.project(moved, state))

    saved = np.load(start)
    protocol = Protocol.from_json(str(saved["protocol"]))
    _, trained = build_model(protocol, "pgd_at", 0, datasets.load(file, 0.1, 0, dtype=None))
    attack = FromNoise(protocol.train_epsilon, n_iter=protocol.train_steps)
    twin = training.AdversarialTraining(trained.model, attack, warmup_steps=trained.warmup_steps)
    twin.compile(keras.optimizers.Adam())
    twin.optimizer.build(twin.trainable_variables)
    images = tf.constant(saved["images"][:16] / np.float32(255))
    labels = tf.constant(saved["labels"][:16])
    keys = _in_graph.keys_of_rows(0, 0, tf.range(16))
    for step, found in zip(steps, np.load(tmp_path / "found.npy"), strict=True):
        twin.optimizer.iterations.assign(step)
        expected = tf.function(twin.perturb)(images, labels, keys).numpy()
        # Rounding changes the sign of a gradient near 0.
        assert (np.abs(found - expected) < 1e-6).mean() > 0.98
        size = protocol.train_epsilon * min((step + 1) / 300, 1)
        assert np.abs(found - images).max() == pytest.approx(size, rel=1e-3)


def test_a_protocol_that_the_script_does_not_know_is_refused(tmp_path):
    file = tmp_path / "digits.npz"
    save_digits(file)
    for name, value in (("label_noise", 0.2), ("epsilons", [0.0, 0.2]), ("methods", ["ce"])):
        arguments = ("prepare", "quick", file, tmp_path / "start.npz")
        returncode, errors = run_python(SCRIPT, *arguments, "--changes", json.dumps({name: value}))
        assert returncode != 0
        assert "ValueError" in errors
        assert name in errors
