"""Transfer: examples made on other models only."""

import keras
import numpy as np
import pytest
from attack_cases import MODEL, fooled, right
from conftest import linear_model

from hr_keras.attacks import PGD, Transfer


def test_transfer_uses_nothing_but_the_other_models():
    images, labels = right(40)
    maker = PGD(0.2, "margin", n_iter=10, random_start=False, stop_early=False)
    alone = maker(MODEL, images, labels)
    np.testing.assert_array_equal(Transfer(maker, [MODEL])(MODEL, images, labels), alone)
    # a model without a gradient is no obstacle
    inputs = keras.Input((2, 2, 3))
    flat = keras.layers.Flatten()(keras.ops.stop_gradient(inputs))
    blind = keras.Model(inputs, keras.layers.Dense(3)(flat))
    blind.set_weights(MODEL.get_weights())
    np.testing.assert_array_equal(maker(blind, images, labels), images)
    np.testing.assert_array_equal(Transfer(maker, [MODEL])(blind, images, labels), alone)
    useless = linear_model(-1.0)
    both = Transfer(maker, [useless, MODEL])(MODEL, images, labels)
    assert (fooled(MODEL, both, labels) >= fooled(MODEL, alone, labels)).all()
    other = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    with pytest.raises(ValueError, match="the 3 classes"):
        Transfer(maker, other)(MODEL, images, labels)
