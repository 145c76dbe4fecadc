"""Tiny data sets of generated images, in the formats in which the real ones lie on a disk."""

import gzip
import pickle
import struct

import numpy as np
from scipy import io


def generated(shape, n):
    return np.random.default_rng(n).integers(256, size=(n, *shape), dtype="uint8"), np.arange(
        n
    ) % 10


def prepare_tfds(name, shape, data_dir, train=40, test=20):
    """What `download_and_prepare` would do, with generated images instead of a download."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)

    def examples(n):
        for k, (image, label) in enumerate(zip(*generated(shape, n), strict=True)):
            row = {"image": image, "label": label, "id": str(k)}
            yield k, {key: row[key] for key in builder.info.features}

    builder._split_generators = lambda *_: {"train": examples(train), "test": examples(test)}
    builder.download_and_prepare()


def write_mnist(folder, shape=(28, 28)):
    """What Keras keeps."""
    (x_train, y_train), (x_test, y_test) = generated(shape, 40), generated(shape, 20)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def write_fashion_mnist(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 40), ("t10k", 20)):
        images, labels = generated((28, 28), n)
        for name, array in (("images-idx3", images), ("labels-idx1", labels.astype("uint8"))):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            content = gzip.compress(header + array.tobytes())
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(content)


def write_cifar10(folder):
    """The images of all training batches together are `generated((32, 32, 3), 40)`."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = generated((32, 32, 3), 40)
    parts = [(images[k : k + 8], labels[k : k + 8]) for k in range(0, 40, 8)]
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, part in zip(names, [*parts, generated((32, 32, 3), 20)], strict=True):
        (folder / name).write_bytes(pickle_batch(*part))


def pickle_batch(images, labels, protocol=2):
    data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    batch = {b"batch_label": b"a batch", b"labels": labels.tolist(), b"data": data}
    return pickle.dumps(batch | {b"filenames": [b"a.png"] * len(images)}, protocol)


def write_svhn(folder):
    """Axes in MATLAB's order, and the digit 0 called 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 40), ("test", 20)):
        images, labels = generated((32, 32, 3), n)
        named = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)}
        named["y"] = named["y"][:, None].astype("uint8")
        io.savemat(folder / f"{split}_32x32.mat", named, do_compression=True)
