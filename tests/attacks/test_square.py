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


@pytest.mark.parametrize(
    ("shape", "picture"), [((7,), (7, 1, 1)), ((5, 6), (5, 6, 1)), ((2, 4, 5, 3), (8, 5, 3))]
)
@pytest.mark.parametrize("norm", NORMS)
def test_images_of_other_ranks_are_attacked_as_the_pictures_that_they_are(shape, picture, norm):
    """A vector is a column of pixels, frames are one below the other."""
    found = []
    images = np.random.default_rng(0).random((5, *shape)).astype("float32")
    for size in (shape, picture):
        model = keras.Sequential([keras.Input(size), keras.layers.Flatten(), keras.layers.Dense(3)])
        kernel, bias = model.get_weights()
        model.set_weights([np.random.default_rng(1).normal(size=kernel.shape), bias])
        reshaped = images.reshape(5, *size)
        labels = np.asarray(model(reshaped)).argmax(axis=-1)
        found.append(Square(0.3, n_queries=20, norm=norm)(model, reshaped, labels))
    assert found[0].shape == images.shape
    assert (found[0] != images).any()
    np.testing.assert_array_equal(found[0].reshape(found[1].shape), found[1])


class Waves:
    """Two layers on small pictures, in NumPy and in Keras, in float64."""

    shape = (7, 6, 2)

    def __init__(self):
        generator = np.random.default_rng(2)
        self.first = 0.6 * generator.normal(size=(84, 8))
        self.second = generator.normal(size=(8, 4))

    def keras_model(self):
        wide = {"dtype": "float64"}
        model = keras.Sequential(
            [
                keras.Input(self.shape, **wide),
                keras.layers.Flatten(**wide),
                keras.layers.Dense(8, keras.ops.sin, **wide),
                keras.layers.Dense(4, **wide),
            ]
        )
        model.set_weights([self.first, np.zeros(8), self.second, np.zeros(4)])
        return model

    def margin(self, x, label):
        logits = np.sin(x.reshape(-1) @ self.first) @ self.second
        return np.delete(logits, label).max() - logits[label]


def published_share(p_init, query, n_queries, rescale):
    """`p_selection` of the published code."""
    query = int(query / n_queries * 10_000) if rescale else query
    steps = [(10, 2), (50, 4), (200, 8), (500, 16), (1000, 32), (2000, 64), (4000, 128)]
    steps += [(6000, 256), (8000, 512)]
    found = p_init
    for after, divisor in steps:
        if query > after:
            found = p_init / divisor
    return found


def published_rectangles(x, y):
    delta, corner = np.zeros((x, y)), [x // 2, y // 2]
    for k in range(max(x // 2 + 1, y // 2 + 1)):
        rows = slice(max(corner[0], 0), min(corner[0] + 2 * k + 1, x))
        columns = slice(max(corner[1], 0), min(corner[1] + 2 * k + 1, y))
        delta[rows, columns] += 1.0 / (k + 1) ** 2
        corner = [corner[0] - 1, corner[1] - 1]
    return delta / np.sqrt((delta**2).sum()) if delta.size else delta


def published_hill(s, turned):
    delta = np.zeros((s, s))
    delta[: s // 2] = published_rectangles(s // 2, s)
    delta[s // 2 :] = -published_rectangles(s - s // 2, s)
    delta /= np.sqrt((delta**2).sum())
    return delta.T if turned else delta


def published_square(problem, image, label, draw, epsilon, norm, n_queries, p_init, rescale):
    """Algorithms 1 to 3 of Andriushchenko et al. 2020 for one image; (image, queries, changes)."""
    height, width, channels = image.shape
    sign = lambda numbers: np.where(numbers < 0.5, -1.0, 1.0)  # noqa: E731

    def on_sphere(delta):
        return np.clip(image + epsilon * delta / np.linalg.norm(delta), 0, 1)

    if norm == "linf":
        point = np.clip(image + epsilon * sign(draw(-1, (1, width, channels))), 0, 1)
    else:
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        numbers, delta = draw(-1, (rows * columns, 1 + channels)), np.zeros(image.shape)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        for tile, (row, column) in zip(numbers, np.ndindex(rows, columns), strict=True):
            place = (
                slice(top + row * side, top + (row + 1) * side),
                slice(left + column * side, left + (column + 1) * side),
            )
            delta[place] = published_hill(side, tile[0] > 0.5)[..., None] * sign(tile[1:])
        point = on_sphere(delta)
    best, best_score, changes = None, -np.inf, 0
    for query in range(n_queries):
        score = problem.margin(point, label)
        if score > best_score:
            best, best_score, changes = point, score, changes + 1
        if score > 0:
            break
        share = published_share(p_init, query, n_queries, rescale)
        side = round(np.sqrt(share * height * width))
        side = max(side, 3) + (max(side, 3) % 2 == 0) if norm == "l2" else max(side, 1)
        side = min(side, height, width)
        numbers = draw(query, ((2 if norm == "linf" else 5) + channels,))
        places = [height - side + 1, width - side + 1]

        def window(pair, side=side, places=places):
            row, column = (
                int(np.float32(u) * np.float32(k)) for u, k in zip(pair, places, strict=True)
            )
            return slice(row, row + side), slice(column, column + side)

        first = window(numbers[:2])
        if norm == "linf":
            point = best.copy()
            point[first] = np.clip(image[first] + epsilon * sign(numbers[2:]), 0, 1)
            continue
        second, delta = window(numbers[2:4]), best - image
        both = np.zeros(image.shape, bool)
        both[first] = both[second] = True
        left = max(epsilon**2 - (delta**2).sum(), 0) / channels
        mass = np.sqrt(left + (np.where(both, delta, 0) ** 2).sum(axis=(0, 1)))
        old = delta[first]
        new = published_hill(side, numbers[4] > 0.5)[..., None] * sign(numbers[5:])
        new = new + old / (1e-12 + np.sqrt((old**2).sum(axis=(0, 1))))
        delta[second] = 0.0
        delta[first] = new / np.sqrt((new**2).sum(axis=(0, 1))) * mass
        point = on_sphere(delta)
    return best, query + 1, changes


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("p_init", "rescale"), [(0.8, True), (0.3, False)])
def test_square_equals_the_published_algorithm(norm, p_init, rescale):
    problem, n_queries = Waves(), 60
    images = np.random.default_rng(0).uniform(0.1, 0.9, (12, *Waves.shape))
    labels = np.array([np.argmax([-problem.margin(x, k) for k in range(4)]) for x in images])
    epsilon = 0.05 if norm == "linf" else 0.4
    attack = Square(epsilon, n_queries=n_queries, norm=norm, p_init=p_init,
                    rescale_schedule=rescale, seed=2)  # fmt: skip
    found = attack(problem.keras_model(), images, labels)
    keys = _perturbation.random_keys(2, range(12), np.zeros(12, int))
    queries, changes = [], []
    for key, image, label, ours in zip(keys, images, labels, found, strict=True):
        draw = lambda k, shape, key=key: _perturbation.uniform(key[None], k, shape)[0].numpy()  # noqa: E731
        best, made, changed = published_square(
            problem, image, label, draw, epsilon, norm, n_queries, p_init, rescale
        )
        np.testing.assert_allclose(ours, best, atol=1e-6)
        queries.append(made)
        changes.append(changed)
    assert min(queries) < n_queries == max(queries)  # some are fooled, some are not
    assert max(changes) > 8
