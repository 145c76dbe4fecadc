"""`results/train_on_gpu.py`: epochs on JAX, which `hr-keras table` continues on TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from hr_keras import datasets
from hr_keras.experiments import measure
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_folder

pytest.importorskip("jax", reason="pip install 'hr_keras[backends]'")

SCRIPT = pathlib.Path(__file__).parent.parent / "results" / "train_on_gpu.py"
METHODS = {
    "ordinary": {"methods": ["ce", "hr"], "epochs": 3},
    # The warm-up of ε takes 300 steps.
    "adversarial": {"methods": ["pgd_at", "pgd_at_hr"], "epochs": 11, "train_steps": 2},
}


def call(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


@pytest.mark.parametrize("name", METHODS)
def test_tensorflow_measures_what_jax_trained(name, tmp_path):
    train = datasets.load("mnist10k", dtype=None).train
    file, run = tmp_path / "digits.npz", tmp_path / "run"
    x, y = np.split(train.images[:600], [500]), np.split(train.labels[:600], [500])
    np.savez(file, x_train=x[0], y_train=y[0], x_test=x[1], y_test=y[1])
    changes = {"realizations": 1, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.001}
    call("prepare", "quick", file, tmp_path / "start.npz",
         "--changes", json.dumps(changes | METHODS[name]))  # fmt: skip
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
