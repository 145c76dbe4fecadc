"""The page of a long run, for the test of its size and that of its speed."""

import dataclasses
import pathlib

import numpy as np
import pytest

from hr_keras import report
from hr_keras.experiments.run_folder import RunFolder

PAPER = pathlib.Path(__file__).parents[2] / "results" / "mnist" / "paper"


@pytest.fixture(scope="session")
def long_page(tmp_path_factory):
    """1,000 epochs, five realizations: those of all of MNIST, with noise."""
    path = tmp_path_factory.mktemp("long") / "run"
    source = RunFolder(PAPER)
    folder = RunFolder.create(path, dataclasses.replace(source.protocol, realizations=5))
    generator = np.random.default_rng(0)
    for method in ("ce", "hr"):
        result = source.read_result(method, 0)
        for realization in range(5):
            history = {
                name: [None if v is None else v * generator.uniform(0.9, 1) for v in values]
                for name, values in result.history.items()
            }
            seed = result.seed + realization
            folder.write_result(
                dataclasses.replace(result, realization=realization, seed=seed, history=history)
            )
    return report.write_report(path)
