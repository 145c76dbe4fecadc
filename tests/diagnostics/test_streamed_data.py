import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model

from hr_keras import diagnostics
from hr_keras.diagnostics import attack_checks


def test_of_a_dataset_the_first_batches_are_checked(monkeypatch):
    """Four batches of 5, although there is a sixth whose labels are none."""
    for name, few in (("STEPS", 12), ("STRONG_STEPS", 3), ("QUERIES", 3), ("DRAWS", 2)):
        monkeypatch.setattr(attack_checks, name, few)
    model = linear_model(1.0)
    stored = np.random.default_rng(1).integers(256, size=(30, 2, 2, 3)).astype("uint8")
    images = stored[:20].astype("float32") / 255
    labels = np.asarray(model(stored / 255)).argmax(axis=1)
    labels[::6] = (labels[::6] + 1) % 3
    labels[25] = 99
    dataset = tf.data.Dataset.from_tensor_slices({"pixels": stored, "class": labels}).batch(3)
    options = {"epsilon": 0.1, "batch_size": 5}
    found = diagnostics.check(
        model,
        dataset,
        preprocess=lambda part: part.astype("float32") / 255,
        keys=("pixels", "class"),
        **options,
    )
    assert found == diagnostics.check(model, images, labels[:20], **options)
    with pytest.raises(ValueError, match=r"from 0 to 2.*the first of example 25"):
        diagnostics.check(model, stored / np.float32(255), labels, epsilon=0.1)
    with pytest.raises(ValueError, match="`epsilon`"):
        diagnostics.check(model, dataset)
