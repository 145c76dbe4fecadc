"""A training step with HRLoss against one with Keras' cross-entropy: the same model and data."""

import argparse

import keras
from interleaved import compare, report, save

from hr_keras import HRLoss, datasets
from hr_keras.models import mnist_cnn, resnet8


def epoch_of(make, loss, split, batch_size):
    """One epoch of `fit`, as users train."""
    model = make(split.images.shape[1:], seed=0)
    model.compile(keras.optimizers.SGD(0.001), loss=loss)
    return lambda: model.fit(*split, batch_size=batch_size, verbose=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    everything = datasets.load("mnist10k").train
    rows = []
    for make, n, batch_size in ((mnist_cnn, 7200, 100), (resnet8, 1024, 128)):
        split = datasets.Split(everything.images[:n], everything.labels[:n])
        contestants = {
            f"{make.__name__}, Keras CE": epoch_of(
                make, "sparse_categorical_crossentropy", split, batch_size
            ),
            f"{make.__name__}, HRLoss": epoch_of(make, HRLoss(1.6), split, batch_size),
        }
        seconds = compare(contestants, arguments.repeats)
        rows += report(f"fit, one epoch of {n} images, batch {batch_size}", seconds)
    save(rows, arguments.output)


if __name__ == "__main__":
    main()
