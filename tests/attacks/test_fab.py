"""FAB: the nearest image that fools the model, and the step onto a plane."""

import numpy as np
import pytest
import tensorflow as tf
from attack_cases import MODEL, NORMS, UNBOUNDED, Wavy, distances, fooled, right
from conftest import linear_model
from hypothesis import given
from hypothesis import strategies as st

from hr_keras.attacks import FAB, Task, _perturbation, fab


@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_the_distance(norm):
    images, labels = right()
    found = FAB(0.0, n_iter=20, norm=norm, bounds=UNBOUNDED).closest(MODEL, images, labels)
    sizes = _perturbation.get(norm).norm(tf.constant(found - images)).numpy()
    ratio = sizes / distances(MODEL, images, labels, norm)
    assert fooled(MODEL, found, labels).all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.01


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-25), ("float32", 1e25), ("float16", 1e-6)]
)
def test_fab_does_not_depend_on_the_scale_of_the_logits(norm, dtype, scale):
    """Nor on the precision of the images: squares of the gradient, or sums, would be 0 or ∞."""
    images, labels = right()
    images = images.astype(dtype)
    distance = distances(MODEL, images, labels, norm)
    scaled = linear_model(scale)
    scaled.set_weights([scale * weight for weight in MODEL.get_weights()])
    epsilon = float(np.median(distance))
    found = FAB(epsilon, n_iter=20, norm=norm, bounds=UNBOUNDED)(scaled, images, labels)
    clear = np.abs(distance / epsilon - 1) > 0.02
    np.testing.assert_array_equal(
        (found == images).all((1, 2, 3))[clear], distance[clear] > epsilon
    )


def shortest_step(x, w, gap, norm):
    """The smallest δ in the pixels' bounds with w·δ = −gap, by bisection of its multiplier.

    As far as the bounds allow where they allow none.
    """
    room = np.where(-w * gap > 0, 1 - x, x)
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        step = np.minimum(middle * (np.abs(w) if norm == "l2" else w != 0), room)
        low, high = (low, middle) if (np.abs(w) * step).sum() >= abs(gap) else (middle, high)
    return -np.sign(w * gap) * step


@given(st.integers(0, 10_000), st.sampled_from(NORMS), st.floats(0.1, 1.2))
def test_the_step_onto_a_plane_is_the_smallest_inside_the_bounds(seed, norm, reach):
    """Against bisection of the multiplier in float64; `reach` > 1 is further than bounds allow."""
    generator = np.random.default_rng(seed)
    x, w = generator.random(7), generator.normal(size=7) * (generator.random(7) > 0.2)
    gap = generator.choice([-1, 1])
    room = np.where(-w * gap > 0, 1 - x, x)
    farthest = (np.abs(w) * room).sum()
    if farthest == 0:
        return
    gap = gap * reach * farthest
    ours = fab.step_onto_plane(
        _perturbation.get(norm), *(tf.constant([part]) for part in (x, w, gap)), (0.0, 1.0)
    )
    np.testing.assert_allclose(ours[0], shortest_step(x, w, gap, norm), atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_onto_a_plane_does_not_depend_on_the_batch(norm):
    generator = np.random.default_rng(0)
    points, normals = generator.random((2, 200, 7)).astype("float32")
    gaps = generator.normal(size=200).astype("float32")
    step = lambda rows: fab.step_onto_plane(  # noqa: E731
        _perturbation.get(norm),
        *(tf.constant(part[rows]) for part in (points, normals - 0.5, gaps)),
        (0.0, 1.0),
    )
    together = step(slice(None)).numpy()
    alone = np.concatenate([step(slice(row, row + 1)) for row in range(200)])
    np.testing.assert_array_equal(alone, together)


def published_fab(problem, image, label, norm, n_iter, alpha_max, eta, beta):
    """Algorithm 1 of Croce & Hein 2020, towards each class in turn; (nearest point, every α)."""
    order = np.inf if norm == "linf" else 2
    nearest, distance, alphas = image, np.inf, []
    for target in np.delete(np.arange(4), label):
        x = image
        for _ in range(n_iter):
            logits, slopes = problem.logits(x)
            w, gap = slopes[:, target] - slopes[:, label], logits[target] - logits[label]
            step = shortest_step(x, w, gap, norm)
            of_image = shortest_step(image, w, gap + w @ (image - x), norm)
            size, size_of_image = (np.linalg.norm(one, order) for one in (step, of_image))
            alphas.append(min(size / (size + size_of_image), alpha_max))
            mixed = (1 - alphas[-1]) * (x + eta * step) + alphas[-1] * (image + eta * of_image)
            x = np.clip(mixed, 0, 1)
            if problem.logits(x)[0].argmax() != label:
                if np.linalg.norm(x - image, order) < distance:
                    nearest, distance = x, np.linalg.norm(x - image, order)
                x = (1 - beta) * image + beta * x
    return nearest, alphas


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("options", "constants"),
    [({}, (0.1, 1.05, 0.9)), ({"alpha_max": 0.3, "eta": 1.2, "beta": 0.7}, (0.3, 1.2, 0.7))],
    ids=["published", "others"],
)
def test_fab_equals_the_published_algorithm(options, constants, norm):
    problem, n_iter = Wavy(), 8
    images = np.random.default_rng(0).uniform(0, 1, (24, 3))
    labels = np.array([problem.logits(image)[0].argmax() for image in images])
    attacker = FAB(0.0, n_iter=n_iter, norm=norm, **options)
    found = attacker.closest(problem.keras_model(), images, labels)
    alphas = []
    for image, label, ours in zip(images, labels, found, strict=True):
        nearest, used = published_fab(problem, image, label, norm, n_iter, *constants)
        np.testing.assert_allclose(ours, nearest, atol=1e-6)
        alphas += used
    assert 0.1 < (np.array(alphas) < constants[0]).mean() < 0.9  # both halves of the minimum


@pytest.mark.parametrize("norm", NORMS)
def test_fab_restarts_from_random_points_of_half_the_ball(norm):
    images, labels = right(20)
    task = Task.of(MODEL, images, labels, (0.0, 1.0), 256).predict()
    attack = FAB(0.2, n_restarts=3, norm=norm)
    targets = attack.find_targets(task)
    starts = [attack.start_state(task, targets, k).point.numpy() for k in range(3)]
    np.testing.assert_array_equal(starts[0], images)
    for start in starts[1:]:
        sizes = _perturbation.get(norm).norm(tf.constant(start - images)).numpy()
        assert (sizes <= 0.1 + 1e-6).all()
        assert sizes.mean() > 0.07
    assert (starts[1] != starts[2]).any(axis=(1, 2, 3)).all()
