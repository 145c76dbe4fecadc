"""Label noise: of training and validation labels only, as many as asked for, drawn by the seed."""

import numpy as np
import pytest

from hr_keras.datasets import Dataset, Split
from hr_keras.experiments import pipeline
from hr_keras.experiments.protocol import from_preset


@pytest.fixture(scope="module")
def clean():
    return pipeline.load_data(from_preset("quick"), seed=3)


def load_noisy(share, seed=3):
    return pipeline.load_data(from_preset("quick", label_noise=share), seed)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.99])
def test_so_many_labels_are_wrong_and_nothing_else_changes(clean, share):
    noisy = load_noisy(share)
    for name in ("train", "validation"):
        before, after = getattr(clean, name), getattr(noisy, name)
        assert (before.labels != after.labels).sum() == round(share * len(before.labels))
        np.testing.assert_array_equal(before.images, after.images)
        assert after.labels.dtype == before.labels.dtype
    for before, after in zip(clean.test, noisy.test, strict=True):
        np.testing.assert_array_equal(before, after)
    assert noisy.num_classes == clean.num_classes == 10


def test_every_other_class_is_as_likely(clean):
    """A chi-squared test: each class turns into each of the other nine, alike."""
    from scipy import stats

    before, after = clean.train.labels, load_noisy(0.4).train.labels
    counts = np.histogram2d(before, after, bins=10, range=((0, 10), (0, 10)))[0]
    for label, row in enumerate(counts):
        assert stats.chisquare(np.delete(row, label)).pvalue > 1e-3


def test_the_seed_decides_which(clean):
    labels = load_noisy(0.2).train.labels
    np.testing.assert_array_equal(labels, load_noisy(0.2).train.labels)
    data = pipeline.add_label_noise(clean, 0.2, seed=4)
    assert (data.train.labels != labels).mean() > 0.2


def test_a_class_that_would_vanish_is_named():
    split = Split(np.zeros((2, 1, 1, 1), "float32"), np.array([0, 1]))
    data = Dataset(split, Split(split.images[:1], split.labels[:1]), split)
    with pytest.raises(ValueError, match=r"no label of class 1 is left"):
        pipeline.add_label_noise(data, 0.5, seed=4)
