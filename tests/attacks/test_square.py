"""Square: windows, hills, images of any shape."""

import types

import keras
import numpy as np
import pytest
from attack_cases import MODEL, NORMS, UNBOUNDED, distances, right

from hr_keras import evaluation
from hr_keras.attacks import Noise, Square, _perturbation, square


@pytest.mark.parametrize("norm", NORMS)
def test_random_search_fools_well_beyond_the_distance_and_never_below(norm):
    images, labels = right(30)
    distance = distances(MODEL, images, labels, norm)
    epsilon = float(np.median(distance))
    robust = {}
    for make in (
        lambda: Square(epsilon, n_queries=300, norm=norm, bounds=UNBOUNDED),
        lambda: Noise(epsilon, n_draws=300, norm=norm, bounds=UNBOUNDED),
    ):
        found = evaluation.robust_accuracy(MODEL, images, labels, make())
        assert found.robust[distance > 1.001 * epsilon].all()
        robust[type(make()).__name__.lower()] = found.robust
    assert not robust["square"][distance < 0.75 * epsilon].any()
    assert robust["noise"].mean() > robust["square"].mean()


def test_the_windows_of_square():
    sides = Square(0.1, n_queries=1000)._sides(28, 28)
    assert len(sides) == 1001
    assert [sides[q] for q in (0, 1, 2, 5, 6, 21, 51, 101, 201, 401, 601, 801, 1000)] == [
        25, 25, 18, 18, 13, 9, 6, 4, 3, 2, 2, 1, 1,
    ]  # fmt: skip
    assert set(Square(0.1, norm="l2", n_queries=1000)._sides(28, 28)) == {25, 19, 13, 9, 7, 5, 3}
    unscaled = Square(0.1, n_queries=1000, rescale_schedule=False)._sides(28, 28)
    assert [unscaled[q] for q in (0, 10, 11, 51, 201, 501, 1000)] == [25, 25, 18, 13, 9, 6, 6]
    for side in (1, 2, 3, 7):
        hill = square._hill_and_dale(side)
        assert hill.shape == (side, side)
        assert (hill**2).sum() == pytest.approx(1)
    hills, _, count = square._tiled(28, 28)
    assert count == 25
    np.testing.assert_allclose((hills**2).sum(axis=(1, 2)), 25, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_square_in_l2_fills_windows_that_are_empty(dtype):
    """A channel without perturbation gets a hill too; in 16 bits that was 0/0."""
    attacker = Square(1.0, norm="l2", n_queries=100)
    pictures = np.full((8, 10, 10, 2), 0.5, dtype)
    best = pictures.copy()
    best[..., 0] += np.asarray(0.07, dtype)  # a part of ε is left
    keys = _perturbation.random_keys(0, np.arange(8), np.zeros(8, int))
    state = types.SimpleNamespace(keys=keys, steps=np.zeros(8, "int32"))
    side = np.full(8, 3, "int32")
    pictures, best = map(keras.ops.convert_to_tensor, (pictures, best))
    epsilon = keras.ops.cast(1.0, dtype)
    point = attacker._move_mass(pictures, best, side, state, epsilon)
    moved = np.abs(np.asarray(point - pictures, "float64"))
    assert point.dtype == dtype
    assert (moved[..., 1].max(axis=(1, 2)) > 0.05).all()
    np.testing.assert_allclose((moved**2).sum(axis=(1, 2, 3)), 1.0, rtol=0.01)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (1, 9, 2), (9, 6, 1), (2, 4, 5, 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_square_takes_images_of_any_shape(shape, norm):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])
    images = np.random.default_rng(0).random((5, *shape)).astype("float32")
    labels = np.asarray(model(images)).argmax(axis=-1)
    adversarial = Square(0.3, n_queries=20, norm=norm)(model, images, labels)
    assert adversarial.shape == images.shape
    assert (adversarial != images).any()
