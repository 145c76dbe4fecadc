"""Data that a user has already, in the files of Keras and of the data sets' authors."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
from datasets_on_disk import (
    generated,
    prepare_tfds,
    write_cifar10,
    write_fashion_mnist,
    write_mnist,
    write_svhn,
)
from scipy import io

from hr_keras import datasets
from hr_keras.datasets import _files
from hr_keras.datasets._recognition import _KNOWN, identify

WRITE = {
    "mnist": write_mnist,
    "fashion_mnist": write_fashion_mnist,
    "cifar10": write_cifar10,
    "svhn_cropped": write_svhn,
}
FOLDERS = [
    ("mnist", "."),
    ("fashion_mnist", "."),
    ("fashion_mnist", "fashion-mnist"),
    ("cifar10", "."),
    ("cifar10", "cifar-10-batches-py"),
    ("cifar10", "cifar-10-batches-py-target/cifar-10-batches-py"),
    ("svhn_cropped", "."),
    ("svhn_cropped", "svhn"),
]


@pytest.fixture(autouse=True)
def no_tfds(monkeypatch, tmp_path):
    """Nothing of the user's own folders is read, and nothing is downloaded."""

    def read_tfds(name, data_dir, searched):
        raise ValueError(f"tensorflow-datasets was asked after {searched}")

    monkeypatch.setattr(datasets, "read_tfds", read_tfds)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.mark.parametrize(("name", "folder"), FOLDERS)
@pytest.mark.parametrize("explicit", [True, False])
def test_files_are_found_and_give_the_images_and_labels_written(tmp_path, name, folder, explicit):
    root = tmp_path / "data" if explicit else tmp_path / "keras" / "datasets"
    WRITE[name](root / folder)
    shape = (28, 28, 1) if "mnist" in name else (32, 32, 3)
    data = datasets.load(name, 0, data_dir=root if explicit else None, dtype=None)
    for split, n in ((data.train, 40), (data.test, 20)):
        images, labels = generated(shape, n)
        assert split.images.dtype == np.uint8
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
        split.images[0] = 0  # the user's own


def test_a_data_dir_without_files_is_not_left_for_the_folder_of_keras(tmp_path):
    write_mnist(tmp_path / "keras" / "datasets")
    with pytest.raises(ValueError, match=r"asked after mnist\.npz in .*other"):
        datasets.load("mnist", data_dir=tmp_path / "other")


@pytest.mark.parametrize("name", WRITE)
def test_what_was_looked_for_is_said(tmp_path, name):
    searched = _files.read_files(name, tmp_path)
    WRITE[name](tmp_path / "all")
    for path in (tmp_path, *(tmp_path / "all").iterdir()):
        assert path.name in searched


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "svhn_cropped"])
def test_every_missing_file_is_named(tmp_path, name):
    WRITE[name](tmp_path)
    prepare_tfds(name, (28, 28, 1) if "mnist" in name else (32, 32, 3), tmp_path)
    for path in [path for path in tmp_path.iterdir() if path.is_file()]:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ValueError, match=rf"only a part of {name}\. Missing: {path.name}$"):
            datasets.load(name, data_dir=tmp_path)
        path.write_bytes(content)


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 0.99])
def test_every_truncated_file_is_named(tmp_path, name, keep):
    WRITE[name](tmp_path)
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(ValueError, match=path.name):
            datasets.load(name, 0, data_dir=tmp_path)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x01" + b"\0\0\0\x28" + bytes(40), "begins with 0x801"),
        (b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + bytes(2), "must hold 1 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + bytes(2), "not a complete"),
    ],
)
def test_idx_files_of_another_shape_are_refused(tmp_path, content, message):
    write_fashion_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=f"train-images.*{message}"):
        datasets.load("fashion_mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 4), "uint8")}, "lacks y"),
        ({"X": np.zeros((4, 32, 32, 3), "uint8"), "y": np.ones(4)}, "must have shape"),
        ({"X": np.zeros((32, 32, 3, 4), "uint8"), "y": np.zeros(4)}, "from 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 4), "uint8"), "y": np.full(4, 1.5)}, "from 1 to 10"),
    ],
)
def test_matlab_files_of_something_else_are_refused(tmp_path, arrays, message):
    write_svhn(tmp_path)
    io.savemat(tmp_path / "test_32x32.mat", arrays)
    with pytest.raises(ValueError, match=f"test_32x32.mat.*{message}"):
        datasets.load("svhn_cropped", data_dir=tmp_path)


def published(name):
    """Arrays that hold what is known of a data set, and zeros."""
    arrays = []
    for facts in _KNOWN[name]:
        images = np.zeros(facts.shape, "uint8")
        images[0].reshape(-1)[3 : 3 + len(facts.pixels)] = facts.pixels
        left = np.array(facts.class_sizes) - np.bincount(facts.labels, minlength=10)
        arrays += [images, np.concatenate([facts.labels, np.repeat(np.arange(10), left)])]
    return arrays


@pytest.mark.parametrize("name", _KNOWN)
def test_data_are_recognized_by_all_that_is_known_of_them(name):
    x_train, y_train, x_test, y_test = published(name)
    assert identify((x_train, y_train, x_test, y_test)) == name
    assert identify((x_train, y_train[:, None].astype("uint8"), x_test, y_test)) == name
    other_order, other_pixels = y_train.copy(), x_test.copy()
    other_order[:10] = np.roll(other_order[:10], 1)
    other_pixels[0][other_pixels[0] > 0] += 1
    other_label = np.where(np.arange(len(y_test)) == len(y_test) - 1, 0, y_test)
    for others in (
        (x_train, other_order, x_test, y_test),
        (x_train, y_train, other_pixels, y_test),
        (x_train, y_train, x_test, other_label),
        (x_train.astype("float32"), y_train, x_test, y_test),
        (x_train, y_train, x_train[: len(y_test) - 1], y_test[:-1]),
    ):
        assert identify(others) is None


def test_a_file_is_recognized_whatever_its_name(tmp_path):
    x_train, y_train, x_test, y_test = published("MNIST")
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    assert datasets.recognize(path) == "MNIST"
    path.write_bytes(path.read_bytes()[:-100])
    assert datasets.recognize(path) is None


def test_mnist_in_the_files_of_fashion_mnist_is_refused(monkeypatch, tmp_path):
    write_fashion_mnist(tmp_path)
    monkeypatch.setattr(datasets, "identify", lambda arrays: "MNIST")
    with pytest.raises(ValueError, match="found for fashion_mnist hold MNIST"):
        datasets.load("fashion_mnist", data_dir=tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_about_twice_the_memory_of_the_data(tmp_path):
    """Noise, which can't be compressed; measured in a process of its own."""
    generator = np.random.default_rng(0)
    for split, n in (("train", 24_000), ("test", 6_000)):
        images = generator.integers(256, size=(32, 32, 3, n), dtype="uint8")
        labels = 1 + np.arange(n, dtype="uint8") % 10
        io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
    code = (
        "import pathlib, sys, scipy.io; from hr_keras import datasets;"
        "status = lambda: pathlib.Path('/proc/self/status').read_text();"
        "peak = lambda: int(status().split('VmHWM:')[1].split()[0]) * 1024;"
        "before = peak();"
        "data = datasets.load('svhn_cropped', data_dir=sys.argv[1], dtype=None);"
        "print((peak() - before) / sum(split.images.nbytes for split in data))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert 1 < float(result.stdout) < 2.2
