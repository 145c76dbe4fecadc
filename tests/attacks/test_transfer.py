"""Transfer: examples made on other models only."""

import keras
import numpy as np
import pytest
from attack_cases import MODEL, fooled, right
from conftest import linear_model

from hr_keras.attacks import APGD, PGD, Noise, Transfer, WorstCase


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


def test_transfer_makes_all_steps_whatever_the_attack_says():
    """An attack that stops early returns what the other model gets wrong already unmoved."""
    images, labels = right(40)
    other, blind = linear_model(-1.0), linear_model(0.0)  # the first gets nearly all wrong
    for stopping, making in (
        (PGD(0.05, "margin", n_iter=3), PGD(0.05, "margin", n_iter=3, stop_early=False)),
        (APGD(0.05, "targeted_dlr", n_iter=3), None),
        (WorstCase([Noise(0.05, n_draws=2)]), Noise(0.05, n_draws=2, stop_early=False)),
    ):
        found = Transfer(stopping, other)(MODEL, images, labels)
        assert (found != images).any(axis=(1, 2, 3)).all()
        if making is not None:
            np.testing.assert_array_equal(found, making(other, images, labels))
    assert (Transfer(PGD(0.05), blind)(MODEL, images, labels) != images).any()


@pytest.mark.parametrize("targeted", [False, True])
def test_the_image_of_the_largest_margin_is_kept(targeted):
    """Whatever the order of the models: it is neither always the first's nor the last's."""
    images, labels = right(40)
    targets = (labels + 1) % 3 if targeted else labels
    others = []
    for seed in range(3):
        other = linear_model(1.0)
        noise = np.random.default_rng(seed + 1).normal(size=(12, 3))
        other.set_weights([other.get_weights()[0] + 2 * noise, other.get_weights()[1]])
        others.append(other)
    attack = PGD(0.01, "margin", n_iter=2, targeted=targeted, stop_early=False)
    candidates = [attack(other, images, targets) for other in others]

    def margin(x):
        z = np.log(MODEL.predict(x, verbose=0).astype("float64"))
        own = z[np.arange(40), targets]
        z[np.arange(40), targets] = -np.inf
        return (own - z.max(axis=1)) * (1 if targeted else -1)

    margins = np.array([margin(one) for one in candidates])
    best = margins.argmax(axis=0)
    assert len(set(best)) > 1
    clear = np.sort(margins, axis=0)
    clear = (clear[-1] - clear[-2] > 1e-5) & (margin(images) < 0) & (clear[-1] < 0)
    assert clear.mean() > 0.5
    expected = np.array([candidates[k][i] for i, k in enumerate(best)])
    for models in (others, others[::-1]):
        found = Transfer(attack, models)(MODEL, images, targets)
        np.testing.assert_array_equal(found[clear], expected[clear])
