"""A run of 1,000 epochs and five realizations: that of all of MNIST, with noise."""

import dataclasses
import pathlib

import numpy as np

from hr_keras.experiments.run_folder import RunFolder

PAPER = pathlib.Path(__file__).parents[2] / "results" / "mnist" / "paper"


def make_long_run(path):
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
    return path
