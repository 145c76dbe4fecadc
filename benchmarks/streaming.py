"""Images from files against arrays: time, what reading alone costs, and memory.

Time: the sweep of the CNN over 10,000 digits, from arrays and from TFRecord files. Reading alone:
the same files, and JPEG images, without a model: with several workers each of them reads all.
Memory: 1,000 and 200,000 generated images of 64 × 64 × 3, each in a process of its own.
"""

import multiprocessing
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from interleaved import CLOCKS, arguments, compare, limit, ratios, report, save
from scaling import peak_beyond
from subjects import subject

from hr_keras import evaluation
from hr_keras._core.examples import CHUNK, Examples

BATCH = 250
AT_MOST = 1.05
FILES = 4
SHAPE = (64, 64, 3)
AT_MOST_CHUNKS = 4
JPEG = (375, 500, 3)
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def write(folder, images, labels):
    """TFRecord files of uint8 images, and a dataset of them."""
    paths = [str(pathlib.Path(folder) / f"{k}.tfrecord") for k in range(FILES)]
    for path, part in zip(paths, np.array_split(np.arange(len(images)), FILES), strict=True):
        with tf.io.TFRecordWriter(path) as file:
            for k in part:
                features = {
                    "image": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[images[k].tobytes()])
                    ),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[k]])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                file.write(example.SerializeToString())

    def parse(batch):
        rows = tf.io.parse_example(batch, FEATURES)
        images_now = tf.io.decode_raw(rows["image"], tf.uint8)
        return tf.reshape(images_now, (-1, *images.shape[1:])), rows["label"]

    return tf.data.TFRecordDataset(paths).batch(BATCH).map(parse)


def to_unit(images):
    return images.astype("float32") / 255


def sweep(model, *data, **options):
    return evaluation.sweep(model, *data, objectives="ce", batch_size=BATCH, **options)


def time(n, repeats, clock):
    model, images, labels = subject("CNN", n)
    stored = np.round(255 * images).astype("uint8")
    images = to_unit(stored)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(folder, stored, labels)
        streamed = sweep(model, dataset, preprocess=to_unit).correct
        np.testing.assert_array_equal(streamed, sweep(model, images, labels).correct)
        contestants = {
            "arrays": lambda: sweep(model, images, labels),
            "TFRecord": lambda: sweep(model, dataset, preprocess=to_unit),
            "reading TFRecord alone": lambda: read(dataset, to_unit),
        }
        seconds = compare(contestants, repeats, clock)
    title = f"sweep of {n} digits, ce × (0, 0.1, 0.25)"
    rows = report(title, seconds)
    found = ratios(seconds, "TFRecord", "arrays")
    return [*rows, limit(title, "TFRecord / arrays", found, at_most=AT_MOST)]


def read(dataset, preprocess=None):
    for _ in Examples(dataset, preprocess=preprocess).read(BATCH):
        pass


def time_jpeg(n, repeats, clock):
    """Rows: reading `n` JPEG images of a usual size, cut to 224 × 224."""
    smooth = tf.image.resize(np.random.default_rng(0).uniform(0, 255, (24, 32, 3)), JPEG[:2])
    content = tf.io.encode_jpeg(tf.cast(smooth, tf.uint8))

    def decode(label):
        image = tf.image.resize(tf.io.decode_jpeg(content, channels=3), (224, 224))
        return tf.cast(image, tf.uint8), label

    dataset = tf.data.Dataset.range(n).map(decode).batch(50)
    seconds = compare({"reading alone": lambda: read(dataset)}, repeats, clock)
    return report(f"{n} JPEG images of {JPEG[0]} × {JPEG[1]}, resized to 224 × 224", seconds)


def make(index):
    image = tf.random.stateless_uniform(SHAPE, (0, index), 0, 256, tf.int32)
    return tf.cast(image, tf.uint8), index % 10


def peak_memory(n):
    """Most MiB of the sweep of `n` generated images beyond what one of a few left."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.AveragePooling2D(16), layers.Flatten(), layers.Dense(10)]
    )

    def run(count):
        dataset = tf.data.Dataset.range(count, output_type=tf.int32).map(make).batch(100)
        sweep(model, dataset, preprocess=to_unit)

    return peak_beyond(lambda: run(2 * CHUNK * BATCH), lambda: run(n))


def memory(cases):
    """Rows: the peak of each case in a process of its own, and what it grows by."""
    rows, spawn = [], multiprocessing.get_context("spawn")
    for n in cases:
        with spawn.Pool(1) as pool:
            beyond = pool.apply(peak_memory, (n,))
        rows.append({"title": "memory", "name": f"{n} images", "MiB beyond": beyond})
        print(f"{n} images: {beyond:.1f} MiB beyond")
    chunk = CHUNK * BATCH * np.prod(SHAPE) * 4 / 2**20  # float32
    grown = (rows[-1]["MiB beyond"] - rows[0]["MiB beyond"]) / chunk
    title = f"memory from {cases[0]} to {cases[-1]} images, chunks of {chunk:.0f} MiB"
    return [*rows, limit(title, "chunks more", float(grown), at_most=AT_MOST_CHUNKS)]


def main():
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--jpeg", type=int, default=500)
    parser.add_argument("--generated", type=int, nargs=2, default=(1_000, 200_000))
    given = parser.parse_args()
    clock = CLOCKS[given.clock]
    rows = time(given.images, given.repeats, clock) + time_jpeg(given.jpeg, given.repeats, clock)
    rows += memory(given.generated)
    save(rows, given.output, given.clock)


if __name__ == "__main__":
    main()
