import contextlib
import hashlib
import importlib.resources
import socket

import numpy as np
import pytest
from datasets_on_disk import generated, prepare_tfds

from hr_keras import datasets


def write(path, **changes):
    arrays = {
        "x_train": np.arange(20 * 16, dtype="uint8").reshape(20, 4, 4),
        "y_train": np.arange(20) % 2,
        "x_test": np.zeros((4, 4, 4), "uint8"),
        "y_test": np.zeros(4, int),
    }
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def test_the_embedded_digits(digits):
    assert [split.images.shape for split in digits] == [
        (7200, 28, 28, 1),
        (800, 28, 28, 1),
        (2000, 28, 28, 1),
    ]
    for images, labels in digits:
        assert images.dtype == "float32"
        assert images.min() == 0.0
        assert images.max() == 1.0
        assert labels.dtype == "int64"
        assert sorted(np.unique(labels)) == list(range(10))
    assert digits.num_classes == 10
    file = importlib.resources.files("hr_keras") / "data" / "mnist10k.npz"
    assert (
        hashlib.sha256(file.read_bytes()).hexdigest()
        in file.parent.joinpath("README.md").read_text()
    )


def test_the_validation_split_is_stratified_seeded_and_disjoint(digits):
    everything = datasets.load("mnist10k", validation=0).train
    joined = np.concatenate([digits.train.images, digits.validation.images])
    assert sorted(map(bytes, joined)) == sorted(map(bytes, everything.images))
    shares = np.bincount(digits.validation.labels) / np.bincount(everything.labels)
    np.testing.assert_allclose(shares, 0.1, atol=0.001)
    same, other = datasets.load("mnist10k", seed=0), datasets.load("mnist10k", seed=1)
    np.testing.assert_array_equal(same.validation.images, digits.validation.images)
    assert (other.validation.labels != digits.validation.labels).any()
    np.testing.assert_array_equal(other.test.images, digits.test.images)


def test_an_npz_file_in_keras_layout(tmp_path):
    path = write(tmp_path / "a.npz", y_train=(np.arange(20) % 2)[:, None])
    data = datasets.load(path, validation=0.5)
    assert data.train.images.shape == (10, 4, 4, 1)
    assert data.train.labels.shape == (10,)
    assert data.num_classes == 2
    floats = write(
        tmp_path / "b.npz", x_train=np.full((20, 4, 4, 3), 0.5), x_test=np.ones((4, 4, 4, 3))
    )
    assert datasets.load(floats).train.images.dtype == "float32"
    assert datasets.load(floats).test.images.max() == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "Missing: y_test"),
        ({"y_train": np.array([{}] * 20, dtype=object)}, "unpickling"),
        ({"x_train": np.zeros((20, 12), "uint8")}, "(n, side²).*train.*(20, 12)"),
        ({"y_train": np.ones((20, 2), int)}, "one-hot (n, classes)"),
        ({"y_train": np.full((20, 2), 0.5)}, "one-hot (n, classes)"),
        ({"x_train": np.zeros((0, 4, 4), "uint8"), "y_train": np.zeros(0, int)}, "n ≥ 1"),
        ({"y_train": np.zeros(19, int)}, "n=20.*(19,)"),
        ({"y_train": np.full(20, -1)}, "smallest -1"),
        ({"y_train": np.full(20, 0.5)}, "float64"),
        ({"x_train": np.full((20, 4, 4), 255.0)}, "255"),
        ({"x_test": np.full((4, 4, 4), np.nan)}, "test.*nan"),
        ({"x_train": np.zeros((20, 4, 4), "int32")}, "int32"),
        ({"x_test": np.zeros((4, 5, 5), "uint8")}, "differ in shape"),
        ({"y_test": np.full(4, 7)}, "up to 7"),
        ({"y_train": np.full(20, "cat")}, "<U3"),
        ({"y_train": np.arange(20)}, "0 to validate"),
    ],
)
def test_unfit_files_are_refused(tmp_path, changes, message):
    path = write(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        datasets.load(path)


@pytest.mark.parametrize("keep", [0, 3, 200, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, keep):
    path = tmp_path / "a.npz"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 1 or keep == 0 else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"a\.npz"):
        datasets.load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_content_is_refused(tmp_path, save):
    """Every byte in turn: what can't be read is a ValueError, whatever NumPy makes of it."""
    path = tmp_path / "a.npz"
    with np.load(write(path)) as arrays:
        save(path, **arrays)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            datasets.load(path)
            refused -= 1
        refused += 1
    assert refused > 0.5 * len(whole) / 7


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        datasets.load("cifar100")
    with pytest.raises(ValueError, match="There is no file"):
        datasets.load("nowhere.npz")
    for validation in (1.0, -0.1, "a"):
        with pytest.raises(ValueError, match="validation"):
            datasets.load("mnist10k", validation=validation)
    with pytest.raises(ValueError, match="3"):
        datasets.load(3)


def test_tfds_data_that_cannot_be_had(tmp_path, monkeypatch):
    def no_network(*_):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(ValueError, match="cifar10") as caught:
        datasets.load("cifar10", data_dir=tmp_path / "tfds")
    for part in (str(tmp_path / "tfds"), "data_dir", ".npz"):
        assert part in str(caught.value)


def test_flat_images_and_one_hot_labels_are_the_same_data(tmp_path):
    plain = datasets.load(write(tmp_path / "plain.npz"))
    flat = datasets.load(
        write(
            tmp_path / "flat.npz",
            x_train=np.arange(20 * 16, dtype="uint8").reshape(20, 16),
            y_train=np.eye(2)[np.arange(20) % 2],
            x_test=np.zeros((4, 16), "uint8"),
        )
    )
    for one, other in zip(plain, flat, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert other.labels.dtype == "int64"


@pytest.mark.parametrize(("name", "shape"), [("cifar10", (32, 32, 3)), ("mnist", (28, 28, 1))])
def test_tfds_data_that_is_prepared_already(tmp_path, name, shape):
    """Generated images in the real on-disk format, read by the real code."""
    prepare_tfds(name, shape, tmp_path)
    data = datasets.load(name, validation=0.25, data_dir=tmp_path)
    assert [split.images.shape for split in data] == [(30, *shape), (10, *shape), (20, *shape)]
    assert data.num_classes == 10
    images, labels = generated(shape, 40)
    order = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for image, label in zip(*data.train, strict=True):
        assert order[np.round(image * 255).astype("uint8").tobytes()] == label


def test_pixels_may_stay_as_they_are_stored(tmp_path):
    stored, decoded = datasets.load("mnist10k", dtype=None), datasets.load("mnist10k")
    for raw, split in zip(stored, decoded, strict=True):
        assert raw.images.dtype == np.uint8
        np.testing.assert_array_equal(raw.images / np.float32(255), split.images)
        np.testing.assert_array_equal(datasets.to_unit_interval(raw.images), split.images)
        np.testing.assert_array_equal(raw.labels, split.labels)
    with pytest.raises(ValueError, match="'float16'"):
        datasets.load("mnist10k", dtype="float16")
