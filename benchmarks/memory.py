"""The most memory that a realization holds: 60,000 images, trained for an epoch and attacked.

In a process of its own, as `hr-keras table` has it; images are generated, stored as uint8.
"""

import multiprocessing
import pathlib
import resource
import tempfile

import numpy as np
from interleaved import arguments, limit, save

from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_trial

AT_MOST = 2.0  # GiB
SHAPES = {"mnist_cnn": (28, 28), "resnet8": (32, 32, 3)}


def generated(path, n, shape):
    """An .npz file of `n` training images and a sixth of it to test."""
    generator = np.random.default_rng(0)
    np.savez(
        path,
        x_train=generator.integers(0, 256, (n, *shape), "uint8"),
        y_train=np.arange(n) % 10,
        x_test=generator.integers(0, 256, (n // 6, *shape), "uint8"),
        y_test=np.arange(n // 6) % 10,
    )


def peak(model, n):
    """GiB: the most that this process held."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "images.npz"
        generated(path, n, SHAPES[model])
        plan = from_preset("quick", dataset=str(path), model=model, epochs=1)
        train_trial(RunFolder.create(pathlib.Path(folder) / "run", plan), "hr", 0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main():
    parser = arguments(__doc__, repeats=1, clock=False)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["mnist_cnn"])
    given = parser.parse_args()
    rows = []
    for model in given.models:
        title = f"{model}, {given.images} images of {SHAPES[model]}"
        measured = []
        for _ in range(given.repeats):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measured.append(pool.apply(peak, (model, given.images)))
        rows.append(limit(title, "most GiB", measured, at_most=AT_MOST))
    save(rows, given.output)


if __name__ == "__main__":
    main()
