"""Attacks of many steps: PGD, MI-FGSM, APGD, Square, FAB, Noise, Transfer, WorstCase."""

import dataclasses
import json
import types

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import linear_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation import COUNTS, counted, counting_model

from hr_keras import evaluation
from hr_keras.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    MomentumPGD,
    Noise,
    Square,
    Transfer,
    WorstCase,
    _attack,
    _perturbation,
    apgd,
    fab,
    fast,
    objectives,
    square,
    standard,
)
from hr_keras.attacks._attack import Task

UNBOUNDED = (-1e3, 1e3)
NORMS = ("linf", "l2")
MODEL = linear_model(1.0)


def kind(attacker):
    return type(attacker).__name__.lower()


ATTACKS = {
    "pgd": lambda epsilon, **k: PGD(epsilon, "margin", n_iter=5, **k),
    "mifgsm": lambda epsilon, **k: MomentumPGD(epsilon, n_iter=5, **k),
    "apgd": lambda epsilon, **k: APGD(epsilon, n_iter=8, **k),
    "apgd_dlr": lambda epsilon, **k: APGD(epsilon, "dlr", n_iter=8, **k),
    "apgd_t": lambda epsilon, **k: APGD(epsilon, "targeted_dlr", n_iter=8, **k),
    "fab": lambda epsilon, **k: FAB(epsilon, n_iter=5, **k),
    "square": lambda epsilon, **k: Square(epsilon, n_queries=30, **k),
    "noise": lambda epsilon, **k: Noise(epsilon, n_draws=10, **k),
}
UNTARGETED = ("apgd_dlr", "apgd_t", "fab")


def right(n=60, model=MODEL, seed=1):
    """Images in the middle of the pixel range, with the labels that the model gives them."""
    images = np.random.default_rng(seed).uniform(0.2, 0.8, (n, 2, 2, 3)).astype("float32")
    return images, np.asarray(model(images)).argmax(axis=-1)


def fooled(model, images, labels):
    return np.asarray(model(images)).argmax(axis=-1) != labels


def distances(model, images, labels, norm):
    """Distance of each image to the decision boundary of a linear model, in float64."""
    kernel, bias = (weight.astype("float64") for weight in model.get_weights())
    logits = images.reshape(len(images), -1).astype("float64") @ kernel + bias
    rows = np.arange(len(images))
    nearest = np.full(len(images), np.inf)
    for k in range(kernel.shape[1]):
        w = kernel[:, [k]] - kernel[:, labels]
        size = np.abs(w).sum(axis=0) if norm == "linf" else np.sqrt((w**2).sum(axis=0))
        gap = logits[rows, labels] - logits[:, k]
        with np.errstate(invalid="ignore"):
            nearest = np.where(labels == k, nearest, np.minimum(nearest, gap / size))
    return nearest


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "make",
    [
        lambda e, **k: PGD(e, "margin", n_iter=40, n_restarts=2, **k),
        lambda e, **k: APGD(e, "targeted_dlr", n_iter=40, **k),
        lambda e, **k: FAB(e, n_iter=20, **k),
        lambda e, **k: WorstCase([APGD(e, **k), FAB(e, n_iter=20, **k)]),
    ],
    ids=["pgd", "apgd_t", "fab", "worst_case"],
)
def test_on_a_linear_model_an_attack_succeeds_exactly_beyond_the_distance(make, norm):
    images, labels = right()
    distance = distances(MODEL, images, labels, norm)
    epsilon = float(np.median(distance))
    for size in (0.97 * epsilon, 1.03 * epsilon):
        result = evaluation.robust_accuracy(
            MODEL, images, labels, make(size, norm=norm, bounds=UNBOUNDED)
        )
        clear = np.abs(distance / size - 1) > 0.01
        np.testing.assert_array_equal(result.robust[clear], distance[clear] > size)
        assert clear.mean() > 0.9
        assert 0.2 < result.worst_case < 0.8


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
        robust[kind(make())] = found.robust
    assert not robust["square"][distance < 0.75 * epsilon].any()
    assert robust["noise"].mean() > robust["square"].mean()


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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=8)
@given(epsilon=st.floats(1e-3, 2.0), seed=st.integers(0, 1000))
def test_every_attack_stays_in_its_ball_and_the_bounds(name, norm, epsilon, seed):
    images = np.random.default_rng(seed).random((6, 2, 2, 3)).astype("float32")
    labels = np.asarray(MODEL(images)).argmax(axis=-1)
    adversarial = ATTACKS[name](epsilon, norm=norm, seed=seed)(MODEL, images, labels)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    size = _perturbation.get(norm).norm(tf.constant(adversarial - images)).numpy()
    assert size.max() <= epsilon * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
def test_no_attack_leaves_a_ball_of_float64(name, norm):
    """0.1 in float32 is 1.5e-9 more."""
    wide = {"dtype": "float64"}
    model = keras.Sequential(
        [
            keras.Input((2, 2, 3), **wide),
            keras.layers.Flatten(**wide),
            keras.layers.Dense(3, **wide),
        ]
    )
    model.set_weights(MODEL.get_weights())
    images, labels = right(model=model)
    images = images.astype("float64")
    adversarial = ATTACKS[name](0.1, norm=norm)(model, images, labels)
    assert adversarial.dtype == "float64"
    size = _perturbation.get(norm).norm(tf.constant(adversarial - images)).numpy()
    assert 0 < size.max() <= 0.1 * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "mifgsm", "apgd", "apgd_t", "fab"])
def test_an_infinite_gradient_is_a_direction(name, norm):
    """√x at black pixels: nothing that is no number, nothing outside the ball, and a way out."""
    model = keras.Sequential(
        [keras.Input((2, 2, 3)), SquareRoot(), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.set_weights(MODEL.get_weights())
    images, _ = right()
    images[:, 0, 0] = 0
    labels = np.asarray(model(images)).argmax(axis=-1)
    for epsilon in (0.01, 0.5):
        adversarial = ATTACKS[name](epsilon, norm=norm)(model, images, labels)
        assert np.isfinite(adversarial).all()
        assert adversarial.min() >= 0
        size = _perturbation.get(norm).norm(tf.constant(adversarial - images)).numpy()
        assert size.max() <= epsilon * (1 + 1e-6) + 1e-6
    if norm == "linf":
        assert fooled(model, adversarial, labels).mean() > 0.5


class SquareRoot(keras.layers.Layer):
    def call(self, images):
        return tf.sqrt(images)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_example_does_not_depend_on_its_batch(name):
    images, labels = right(23)
    make = ATTACKS[name]
    together = make(0.15)(MODEL, images, labels)
    for size in (1, 5, 8):
        np.testing.assert_array_equal(make(0.15, batch_size=size)(MODEL, images, labels), together)
    # what comes after an example does not matter, nor does what becomes of it
    changed = labels.copy()
    changed[10:] = (labels[10:] + 1) % 3
    np.testing.assert_array_equal(make(0.15)(MODEL, images, changed)[:10], together[:10])
    task = _attack.Task.of(MODEL, images, labels, (0.0, 1.0), 256)
    rows = np.array([20, 3, 7])
    alone = make(0.15).perturb(task.select(rows)).images
    np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"mifgsm", "fab"}))
def test_seeds(name):
    images, labels = right(12)
    first, same, other = (ATTACKS[name](0.05, seed=s)(MODEL, images, labels) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in UNTARGETED])
def test_targeted_attacks_reach_their_class_or_come_nearer(name):
    images, labels = right(40)
    targets = (labels + 1) % 3
    adversarial = ATTACKS[name](0.5, targeted=True)(MODEL, images, targets)
    reached = ~fooled(MODEL, adversarial, targets)
    assert reached.mean() > (0.1 if name == "noise" else 0.6)
    # what is there already stays as it is
    np.testing.assert_array_equal(ATTACKS[name](0.5, targeted=True)(MODEL, images, labels), images)
    weak = ATTACKS[name](0.01, targeted=True)(MODEL, images, targets)
    before, after = (reference.log_softmax(np.log(MODEL(x).numpy())) for x in (images, weak))
    gain = after[np.arange(40), targets] - before[np.arange(40), targets]
    assert (gain > 0).mean() > 0.9


@pytest.mark.parametrize("name", [*ATTACKS, "fgsm", "fast"])
def test_no_attack_of_size_zero_and_the_kind_that_came(name):
    make = {**ATTACKS, "fgsm": FGSM, "fast": fast}[name]
    images, labels = right(7)
    for dtype in ("float16", "float32", "float64"):
        x = images.astype(dtype)
        same, moved = make(0.0)(MODEL, x, labels), make(0.3)(MODEL, tf.constant(x), labels)
        np.testing.assert_array_equal(same, x)
        assert same.dtype == dtype
        assert tf.is_tensor(moved)
        assert moved.dtype == dtype
        assert np.abs(moved.numpy().astype("float64") - x).max() <= 0.3 * (1 + 2e-3)


def simulated_pgd(model, images, labels, epsilon, n_iter):
    """Looks that PGD from the image takes at each example of a linear model, in float64."""
    kernel, bias = (weight.astype("float64") for weight in model.get_weights())
    looks = []
    for image, label in zip(images.reshape(len(images), -1).astype("float64"), labels, strict=True):
        x, count = image, 0
        for _ in range(n_iter):
            count += 1
            logits = x @ kernel + bias
            if logits.argmax() != label:
                break
            others = np.where(np.arange(len(bias)) == label, -np.inf, logits)
            direction = np.sign(kernel[:, others.argmax()] - kernel[:, label])
            x = np.clip(x + 2.5 / n_iter * epsilon * direction, image - epsilon, image + epsilon)
            x = np.clip(x, 0, 1)
        looks.append(count)
    return np.array(looks)


def test_pgd_costs_exactly_the_passes_that_each_example_needs():
    """Forward + backward until fooled, one forward after the last step, one of the image."""
    model = counting_model()
    images, labels = right(15)
    epsilon = 1.02 * float(np.median(distances(MODEL, images, labels, "linf")))
    make = lambda n: PGD(epsilon, "margin", n_iter=20, random_start=False, batch_size=n)  # noqa: E731
    make(1)(model, images, labels)
    adversarial, cost = counted(lambda: make(1)(model, images, labels))
    looks = simulated_pgd(MODEL, images, labels, epsilon, 20)
    assert len(set(looks)) > 2
    spent = int((~fooled(MODEL, adversarial, labels)).sum())
    late = int((looks == 20).sum())  # fooled by the last step, or not at all
    assert spent <= late
    assert cost == {"forward": 15 + looks.sum() + late, "backward": looks.sum(), "traces": 0}
    # all at once: as many passes as the slowest needs
    _, cost = counted(lambda: make(256)(model, images, labels))
    assert cost["backward"] == looks.max()


def test_batches_shrink_as_examples_are_fooled():
    """Rows in backward passes against those that the examples need, fooled at any step."""
    rows = []

    @tf.custom_gradient
    def count(x):
        def backward(g):
            (g,) = tf.py_function(lambda g: rows.append(len(g)) or [g], [g], [g.dtype])
            return tf.ensure_shape(g, x.shape)

        return x, backward

    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Flatten()(keras.layers.Lambda(count)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    model.set_weights(MODEL.get_weights())
    images, labels = right(600)
    epsilon = float(np.median(distances(MODEL, images, labels, "linf")))
    needed = simulated_pgd(MODEL, images, labels, epsilon, 40).sum()
    PGD(epsilon, "margin", n_iter=40, random_start=False, batch_size=64)(model, images, labels)
    assert max(rows) == 60
    assert needed <= sum(rows) < 1.3 * needed


def test_nothing_is_traced_again():
    model = counting_model()
    images, labels = right(30)
    attacks = [make(0.1) for make in ATTACKS.values()]
    evaluation.robust_accuracy(model, images, labels, attacks)
    traces = COUNTS["traces"]
    again = [make(0.2, seed=1) for make in ATTACKS.values()]
    evaluation.robust_accuracy(model, images[:17], labels[:17], again, batch_size=4)
    assert COUNTS["traces"] == traces


def test_the_budget_of_the_other_attacks():
    """An ε at which nothing is fooled: every pass that can be made is made."""
    model = counting_model()
    images, labels = right(10)
    budgets = {
        "mifgsm": (1 + 5 + 1, 5),
        "apgd": (1 + 8 + 1, 8),
        "apgd_t": (1 + 2 * (8 + 1), 2 * 8),
        "fab": (1 + 2 * 2 * 5, 2 * 5),
        "square": (1 + 30, 0),
        "noise": (1 + 10, 0),
    }
    for name, (forward, backward) in budgets.items():
        make = lambda: ATTACKS[name](1e-6)(model, images, labels)  # noqa: B023, E731
        make()
        _, cost = counted(make)
        assert cost == {"forward": forward, "backward": backward, "traces": 0}, name
        _, cost = counted(lambda: ATTACKS[name](0.0)(model, images, labels))  # noqa: B023
        assert cost == {"forward": 0, "backward": 0, "traces": 0}, name


def test_restarts_are_counted_for_each_example_and_help():
    model = counting_model()
    images, labels = right(20)
    epsilon = 0.6 * float(np.median(distances(MODEL, images, labels, "linf")))
    once, often = (Noise(epsilon, n_draws=3, n_restarts=r, batch_size=1) for r in (1, 20))
    left = []
    for attacker in (once, often):
        attacker(model, images, labels)
        adversarial, cost = counted(lambda: attacker(model, images, labels))  # noqa: B023
        left.append(~fooled(MODEL, adversarial, labels))
        # 3 draws a restart for whom none fools; fewer for the others
        assert 20 + left[-1].sum() * 3 * attacker.n_restarts <= cost["forward"]
        assert cost["forward"] <= 20 + 20 * 3 * attacker.n_restarts
    assert (left[1] <= left[0]).all()


def test_checkpoints_by_hand():
    assert apgd.checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.checkpoints(1000) == [0, 220, 410, 570, 700, 800, 870, 930, 990]
    assert apgd.checkpoints(10) == [0, 3, 5, 6, 7, 8, 9]
    assert apgd.checkpoints(1) == [0]
    windows = apgd.windows(100)
    assert len(windows) == 101
    assert {k: steps for k, steps in enumerate(windows) if steps} == {
        22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6,
    }  # fmt: skip


class Wavy:
    """Two layers on 3 pixels, logits and ∂ℓ/∂x in NumPy: steps overshoot, so they are halved."""

    def __init__(self):
        generator = np.random.default_rng(5)
        self.first = 4 * generator.normal(size=(3, 8))
        self.second = generator.normal(size=(8, 4))

    def keras_model(self):
        model = keras.Sequential(
            [
                keras.Input((3,), dtype="float64"),
                keras.layers.Dense(8, keras.ops.sin, dtype="float64"),
                keras.layers.Dense(4, dtype="float64"),
            ]
        )
        model.set_weights([self.first, np.zeros(8), self.second, np.zeros(4)])
        return model

    def logits(self, x):
        """Logits `(4,)` and their gradients `(3, 4)`."""
        hidden = x @ self.first
        return np.sin(hidden) @ self.second, self.first @ (np.cos(hidden)[:, None] * self.second)

    def log_odds(self, x, label):
        logits, slopes = self.logits(x)
        others = np.delete(logits, label)
        value = np.log(np.exp(others).sum()) - logits[label]
        output = np.exp(logits) / np.exp(others).sum()
        output[label] = -1.0
        return value, slopes @ output


def into_ball(x, image, epsilon, norm):
    delta = x - image
    if norm == "linf":
        delta = np.clip(delta, -epsilon, epsilon)
    else:
        delta = delta * min(1, epsilon / max(np.linalg.norm(delta), 1e-300))
    return np.clip(image + delta, 0, 1)


def steepest(gradient, norm):
    return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)


def published_apgd(problem, image, label, start, epsilon, norm, n_iter):
    """Algorithm 1 of Croce & Hein for one example, with whole histories; (best point, halvings)."""

    def project(x):
        return into_ball(x, image, epsilon, norm)

    def ascend(x, gradient, step):
        return project(x + step * steepest(gradient, norm))

    points, step, halvings = [start], 2 * epsilon, 0
    values, gradient = [], None
    value, gradient = problem.log_odds(start, label)
    values.append(value)
    best, best_value, best_gradient = start, value, gradient
    marks = apgd.checkpoints(n_iter)
    halved_at, best_at = {0: True}, {0: value}
    x, before = start, start
    for k in range(1, n_iter + 1):
        momentum = 0.75 if k > 1 else 1.0
        ahead = ascend(x, gradient, step)
        moved = project(x + momentum * (ahead - x) + (1 - momentum) * (x - before))
        before, x = x, moved
        value, gradient = problem.log_odds(x, label)
        values.append(value)
        points.append(x)
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        if k in marks:
            last = marks[marks.index(k) - 1]
            rises = sum(values[i + 1] > values[i] for i in range(last, k))
            first = rises <= 0.75 * (k - last)
            second = not halved_at[last] and best_at[last] == best_value
            halved_at[k], best_at[k] = first or second, best_value
            if halved_at[k]:
                step, x, gradient = step / 2, best, best_gradient
                halvings += 1
    return best, halvings, len(halved_at) - 1


class AllSteps(APGD):
    stop_early = False


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_equals_the_published_algorithm_step_by_step(norm):
    problem, n_iter, epsilon = Wavy(), 60, 0.4
    images = np.random.default_rng(0).uniform(0.1, 0.9, (12, 3))
    labels = np.arange(12) % 4
    attacker = AllSteps(epsilon, "ce", n_iter=n_iter, norm=norm)
    found = attacker(problem.keras_model(), images, labels)
    keys = _perturbation.random_keys(0, range(12), np.zeros(12, int))
    ball = _perturbation.get(norm)
    starts = np.clip(images + epsilon * ball.random(keys, 0, tf.constant(images)).numpy(), 0, 1)
    halvings = set()
    for image, label, start, ours in zip(images, labels, starts, found, strict=True):
        best, halved, checks = published_apgd(problem, image, label, start, epsilon, norm, n_iter)
        np.testing.assert_allclose(ours, best, atol=1e-6)
        halvings.add(halved)
    assert len(halvings) > 1  # every example has its own step size
    assert max(halvings) > checks / 2


def published_mifgsm(problem, image, label, epsilon, norm, n_iter, step_size, decay):
    """Algorithm 1 of Dong et al. 2018 for one example; its point of the highest objective."""
    x, velocity, points = image, np.zeros_like(image), [image]
    for _ in range(n_iter):
        _, gradient = problem.log_odds(x, label)
        velocity = decay * velocity + gradient / np.abs(gradient).sum()
        x = into_ball(x + step_size * epsilon * steepest(velocity, norm), image, epsilon, norm)
        points.append(x)
    return max(points, key=lambda point: problem.log_odds(point, label)[0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("options", "step_size", "decay"),
    [({}, 0.1, 1.0), ({"step_size": 0.3, "decay": 0.6}, 0.3, 0.6)],
    ids=["published", "long steps"],
)
def test_mifgsm_equals_the_published_algorithm(options, step_size, decay, norm):
    """Long steps leave the ball and are brought back."""
    problem, epsilon = Wavy(), 0.4
    images = np.random.default_rng(0).uniform(0.1, 0.9, (24, 3))
    labels = np.arange(24) % 4
    attacker = MomentumPGD(epsilon, norm=norm, stop_early=False, **options)
    found = attacker(problem.keras_model(), images, labels)
    changed = 0
    for image, label, ours in zip(images, labels, found, strict=True):
        run = problem, image, label, epsilon, norm, 10, step_size
        np.testing.assert_allclose(ours, published_mifgsm(*run, decay), atol=1e-6)
        changed += np.abs(ours - published_mifgsm(*run, 0.0)).max() > 1e-3
    assert changed > 5  # where momentum leads elsewhere


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


def test_saturation_changes_nothing():
    """The closed forms: direction and comparison of iterates whatever the scale of the logits."""
    images, labels = right(40)
    kernel, bias = MODEL.get_weights()
    saturated = linear_model(1.0)
    saturated.set_weights([1000 * kernel, 1000 * bias])
    for objective in ("margin", "dlr"):
        expected = PGD(0.1, objective)(MODEL, images, labels)
        found = PGD(0.1, objective)(saturated, images, labels)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for objective in ("ce", "hr"):
        left = evaluation.robust_accuracy(
            saturated,
            images,
            labels,
            [
                PGD(0.1, "margin"),
                PGD(0.1, objective, name="exact"),
                PGD(0.1, objective, through="probabilities", name="published"),
            ],
        ).per_attack
        assert left["exact"] == left["pgd_margin_0.1"] < left["published"] - 0.1


def float64_value(name, logits, label):
    log_q = reference.log_softmax(logits)
    q = np.exp(log_q)
    if name in ("margin", "dlr"):
        value = np.delete(logits, label).max() - logits[label]
        ordered = np.sort(logits)[::-1]
        return value if name == "margin" else value / (ordered[0] - ordered[2])
    # what is missing from 1 without cancellation
    error = np.exp(np.delete(log_q, label)).sum()
    value = -np.log1p(-error) if error < 0.5 else -log_q[label]
    if name == "hr":
        rest = q[q > 0] * -log_q[q > 0]
        rest_of_label = q[label] * value
        value = value + rest.sum() - q[label] * -log_q[label] + rest_of_label
    return value


@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.sampled_from([0.1, 1.0, 8.0, 20.0]))
def test_scores_rise_with_their_objectives(seed, classes, scale):
    """In float32, where the objectives themselves round to 0."""
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(8, classes))
    for name in ("ce", "hr", "margin", "dlr"):
        labels = np.full(8, 1)
        scores = objectives.get(name).score(
            "logits", tf.constant(labels), tf.constant(logits, "float32")
        )
        values = np.array([float64_value(name, row, 1) for row in logits])
        order = np.argsort(values)
        gaps = np.diff(values[order]) > 1e-4 * np.abs(values[order][1:])
        assert (np.diff(scores.numpy()[order])[gaps] > 0).all()


def test_dlr_by_hand_and_its_falls_back():
    logits = tf.constant([[4.0, 1.0, 3.0, 0.0]])
    assert objectives.dlr(tf.constant([0]), logits).numpy() == pytest.approx([-1 / 3])
    assert objectives.dlr(tf.constant([2]), logits).numpy() == pytest.approx([1 / 3])
    towards = objectives.targeted_dlr(tf.constant([0]), tf.constant([3]), logits)
    assert towards.numpy() == pytest.approx([-4 / 3.5])
    two, three = logits[:, :2], logits[:, :3]
    assert objectives.dlr(tf.constant([0]), two).numpy() == pytest.approx([-3])
    towards = objectives.targeted_dlr(tf.constant([0]), tf.constant([1]), three)
    assert towards.numpy() == pytest.approx([-3])


def test_models_of_two_classes_can_be_attacked():
    keras.utils.set_random_seed(4)  # some images of each class
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    images = np.random.default_rng(0).uniform(0.3, 0.7, (20, 6)).astype("float32")
    labels = np.asarray(model(images)).argmax(axis=-1)
    epsilon = float(np.median(distances(model, images, labels, "linf")))
    for name in ("apgd_dlr", "apgd_t", "fab", "square"):
        robust = evaluation.robust_accuracy(model, images, labels, ATTACKS[name](epsilon)).robust
        assert 0 < robust.mean() < 1
    np.testing.assert_array_equal(
        APGD(0.1, "dlr", n_iter=9)(model, images, labels),
        APGD(0.1, "margin", n_iter=9)(model, images, labels),
    )


@pytest.fixture(scope="module")
def binarised(cnn):
    """The features of a trained network under a head of two classes, to be set."""
    return keras.Sequential(
        [
            keras.Model(cnn.inputs, cnn.get_layer("dense").output),
            keras.layers.Dense(2, name="head"),
        ]
    )


def test_a_planted_adversarial_example_is_found(binarised, digits):
    """The binarization test: a head that is right around the image but for one planted point."""
    epsilon, generator = 0.1, np.random.default_rng(0)
    features = binarised.layers[0]
    attacks = [
        PGD(epsilon, "margin", n_iter=40, n_restarts=2),
        APGD(epsilon, n_iter=50),
        FAB(epsilon),
        Noise(epsilon, n_draws=100, seed=1),
    ]
    found = {kind(attacker): [] for attacker in attacks}
    for image in digits.test.images[:12]:
        corners = generator.choice([-epsilon, epsilon], size=(101, *image.shape))
        inside = generator.uniform(-epsilon, epsilon, size=(200, *image.shape))
        around = np.concatenate([image[None], image + inside, image + corners])
        points = np.clip(around, 0, 1).astype("float32")
        values = features.predict(points, verbose=0).astype("float64")
        benign, planted = values[:-1], values[-1]
        covariance = np.cov(benign.T) + 1e-3 * np.eye(benign.shape[1])
        w = np.linalg.solve(covariance, planted - benign.mean(axis=0))
        threshold = ((benign @ w).max() + planted @ w) / 2
        assert planted @ w > threshold > (benign @ w).max()
        scale = planted @ w - threshold
        kernel = np.stack([0 * w, w / scale], axis=1)
        binarised.get_layer("head").set_weights([kernel, np.array([0.0, -threshold / scale])])
        assert not fooled(binarised, points[:-1], 0).any()
        assert fooled(binarised, points[-1:], 0).all()
        for attacker in attacks:
            found[kind(attacker)].append(
                fooled(binarised, attacker(binarised, image[None], [0]), 0)[0]
            )
    assert all(found["pgd"])
    assert all(found["apgd"])
    assert all(found["fab"])
    assert not all(found["noise"])  # or the test would be too easy


def test_worst_case_is_all_its_attacks_and_their_order_does_not_matter(cnn, digits):
    images, labels = digits.test.images[:60], digits.test.labels[:60]
    attacks = [FGSM(0.08), PGD(0.08, n_iter=5), Square(0.08, n_queries=40)]
    one_by_one = evaluation.robust_accuracy(cnn, images, labels, attacks)
    forth, back = WorstCase(attacks, name="forth"), WorstCase(attacks[::-1], name="back")
    both = evaluation.robust_accuracy(cnn, images, labels, [forth, back])
    # the last bits of a convolution depend on the number of examples
    for robust in both.withstood.values():
        assert (robust != one_by_one.robust).sum() <= 1
    assert one_by_one.worst_case <= min(one_by_one.per_attack.values())
    assert max(one_by_one.per_attack.values()) <= one_by_one.clean
    adversarial = forth(cnn, images, labels)
    assert np.abs(adversarial - images).max() <= 0.08 + 1e-6
    still = ~fooled(cnn, adversarial, labels)
    assert (still != both.withstood["forth"]).sum() <= 1
    np.testing.assert_array_equal(adversarial[still], images[still])


def test_presets_are_at_least_as_strong_as_their_parts(cnn, digits):
    images, labels = digits.test.images[:12], digits.test.labels[:12]
    preset = fast(0.1)
    result = evaluation.robust_accuracy(cnn, images, labels, [preset, *preset.attacks])
    assert result.per_attack["fast_0.1"] == result.worst_case
    names = [attacker.name for attacker in standard(0.5, norm="l2").attacks]
    assert names == [
        "apgd_ce_l2_0.5",
        "apgd_targeted_dlr_l2_0.5",
        "fab_targeted_l2_0.5",
        "square_margin_l2_0.5",
    ]
    assert standard(0.5, norm="l2").name == "standard_l2_0.5"


def test_the_standard_attack_has_the_published_numbers_of_steps():
    ce, targeted, boundary, square = standard(0.1).attacks
    assert [each.n_iter for each in (ce, targeted, boundary, square)] == [100, 100, 100, 5000]
    assert [each.n_restarts for each in (ce, targeted, boundary, square)] == [1, 1, 1, 1]
    assert (targeted.n_targets, boundary.n_targets, square.p_init) == (9, 9, 0.8)


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


def unusual_classifier(shape, classes, dtype, bounds, images):
    """A linear one whose logits are about 0 in the middle of the bounds."""
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / bounds[1], dtype=dtype)(inputs)
    x = keras.layers.Flatten(dtype=dtype)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, dtype=dtype)(x))
    kernel = np.random.default_rng(1).normal(size=(int(np.prod(shape)), classes))
    model.set_weights([kernel, -kernel.sum(axis=0) / 2])
    return model, (bounds[1] * np.random.default_rng(0).random((9, *shape))).astype(images)


def classifier_of_light():
    """Its logits are NaN where an image is dark."""
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    dark = keras.ops.sqrt(keras.ops.mean(flat, axis=-1, keepdims=True) - 0.5)
    model = keras.Model(inputs, keras.layers.Dense(3)(flat) + dark)
    return model, np.random.default_rng(0).uniform(0.4, 0.7, (9, 4, 4, 1)).astype("float32")


@pytest.mark.parametrize(
    ("make", "bounds", "norm", "soft"),
    [
        (lambda b: unusual_classifier((13,), 2, "float32", b, "float32"), (0, 1), "l2", False),
        (
            lambda b: unusual_classifier((3, 4, 5, 2), 3, "float32", b, "float32"),
            (0, 1),
            "l2",
            True,
        ),
        (
            lambda b: unusual_classifier((7, 5, 3), 100, "float32", b, "float32"),
            (0, 255),
            "linf",
            True,
        ),
        (
            lambda b: unusual_classifier((6, 6, 3), 4, "mixed_float16", b, "float16"),
            (0, 1),
            "l2",
            False,
        ),
        (lambda b: classifier_of_light(), (0, 1), "linf", False),
    ],
    ids=["two classes of vectors", "frames", "100 classes to 255", "half precision", "NaN"],
)
def test_the_standard_attack_takes_any_classifier(make, bounds, norm, soft):
    """Its images are in the ball, and fool exactly where it says so, whatever the batch."""
    model, images = make(bounds)
    logits = model.predict(images, verbose=0).astype("float32")
    labels = np.where(np.isnan(logits), -np.inf, logits).argmax(axis=-1)
    if soft:
        labels = 0.1 / logits.shape[-1] + 0.9 * np.eye(logits.shape[-1])[labels]
    epsilon = bounds[1] * (0.05 if norm == "linf" else 0.3)
    attacker = WorstCase(
        [
            dataclasses.replace(part, **{"n_queries" if isinstance(part, Square) else "n_iter": 4})
            for part in standard(epsilon, norm, bounds=bounds).attacks
        ]
    )
    robust = [
        evaluation.robust_accuracy(model, images, labels, attacker, batch_size=size).robust
        for size in (1, 4, 100)
    ]
    np.testing.assert_array_equal(robust[1], robust[0])
    np.testing.assert_array_equal(robust[2], robust[0])
    adversarial = attacker(model, images, labels)
    withstood = _attack.is_correct(model.predict(adversarial, verbose=0), labels)
    np.testing.assert_array_equal(withstood, robust[0])
    assert not robust[0].all()
    moved = adversarial.astype("float32") - images
    size = _perturbation.get(norm).norm(tf.constant(moved)).numpy()
    assert size.max() <= epsilon * (1 + 2e-3)


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


def test_an_attack_that_goes_on_goes_further():
    images, labels = right(40)
    epsilon = 0.3
    margins = []
    for stop in (True, False):
        adversarial = PGD(epsilon, "margin", stop_early=stop)(MODEL, images, labels)
        logits = np.log(MODEL(adversarial).numpy())
        margins.append(objectives.margin(tf.constant(labels), tf.constant(logits)).numpy())
    assert (margins[1] > 0).mean() >= (margins[0] > 0).mean() > 0.5
    assert np.median(margins[1]) > np.median(margins[0]) + 0.1


def test_random_numbers_are_uniform_normal_and_their_own():
    keys = _perturbation.random_keys(0, range(50), np.zeros(50, int))
    numbers = _perturbation.uniform(keys, 0, (1000,)).numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 2500) ** 2 / 2500).sum() < 43.8  # χ² of 19 degrees, 0.1 %
    rows = np.corrcoef(numbers)[np.triu_indices(50, 1)]
    assert np.abs(rows).max() < 0.16  # 5 standard deviations
    other = _perturbation.uniform(keys, 1, (1000,)).numpy()
    assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]) < 0.02
    draws = np.arange(50, dtype="int32")
    each = _perturbation.uniform(keys, draws, (3,)).numpy()
    np.testing.assert_array_equal(each[7], _perturbation.uniform(keys[7:8], 7, (3,))[0])
    normal = _perturbation.normal(keys, 0, (1000,)).numpy()
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert abs((normal**4).mean() - 3) < 0.2


def test_balls():
    keys = _perturbation.random_keys(0, range(200), np.zeros(200, int))
    images = tf.zeros((200, 3, 4))
    for norm, median in (("linf", 0.5 ** (1 / 12)), ("l2", 0.5 ** (1 / 12))):
        ball = _perturbation.get(norm)
        points = ball.random(keys, 0, images)
        sizes = ball.norm(points).numpy()
        assert sizes.max() <= 1 + 1e-6
        # the radius of a uniform point in 12 dimensions is U^(1/12) in either norm
        assert (sizes < median).mean() == pytest.approx(0.5, abs=0.12)
        np.testing.assert_allclose(ball.norm(ball.project(10 * points, 0.3)), 0.3, rtol=1e-5)
        np.testing.assert_allclose(ball.project(points, 2.0), points)
    tiny = tf.constant(np.random.default_rng(0).normal(size=(5, 7)) * 1e-30, "float32")
    np.testing.assert_allclose(_perturbation.L2().norm(_perturbation.L2().direction(tiny)), 1, 1e-5)
    assert (_perturbation.L2().direction(tf.constant([[np.nan, 0.0]])).numpy() == 0).all()
    endless = tf.constant([[np.inf, 1.0, -np.inf, np.nan], [3.0, 0.0, 4.0, np.nan]])
    half = 0.5**0.5
    np.testing.assert_allclose(
        _perturbation.L2().direction(endless), [[half, 0, -half, 0], [0.6, 0, 0.8, 0]], rtol=1e-6
    )


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


@pytest.mark.parametrize("shape", [(7,), (5, 6), (1, 9, 2), (9, 6, 1), (2, 4, 5, 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_square_takes_images_of_any_shape(shape, norm):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])
    images = np.random.default_rng(0).random((5, *shape)).astype("float32")
    labels = np.asarray(model(images)).argmax(axis=-1)
    adversarial = Square(0.3, n_queries=20, norm=norm)(model, images, labels)
    assert adversarial.shape == images.shape
    assert (adversarial != images).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(-1), "epsilon"),
        (lambda: PGD(0.1, n_iter=0), "n_iter"),
        (lambda: PGD(0.1, step_size=0), "step_size"),
        (lambda: PGD(0.1, n_restarts=1.5), "n_restarts"),
        (lambda: PGD(0.1, seed=-1), "seed"),
        (lambda: PGD(0.1, norm="l1"), "norm"),
        (lambda: PGD(0.1, "targeted_dlr"), "targeted_dlr"),
        (lambda: PGD(0.1, through=""), "through"),
        (lambda: PGD(0.1, "dlr", targeted=True), "use 'margin'"),
        (lambda: MomentumPGD(0.1, decay=-1), "decay"),
        (lambda: APGD(0.1, "targeted_dlr", n_targets=0), "n_targets"),
        (lambda: APGD(0.1, "targeted_dlr", targeted=True), "targeted"),
        (lambda: Square(0.1, n_queries=0), "n_queries"),
        (lambda: Square(0.1, p_init=0), "p_init"),
        (lambda: Noise(0.1, n_draws=0), "n_draws"),
        (lambda: FAB(0.1, targeted=True), "targeted"),
        (lambda: FAB(0.1, eta=0.5), "eta"),
        (lambda: Transfer(PGD(0.1), []), "models"),
        (lambda: Transfer("pgd", [MODEL]), "attack"),
        (lambda: WorstCase([]), "attacks"),
        (lambda: WorstCase([PGD(0.1), "fgsm"]), "attacks"),
        (lambda: WorstCase([PGD(0.1, targeted=True)]), "targeted"),
        (lambda: WorstCase([PGD(0.1), PGD(0.1, bounds=(0, 2))]), "same bounds"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ATTACKS)
def test_bad_data_is_refused(name):
    images, labels = right(4)
    for bad, message in (
        ((images + 1, labels), "inside bounds"),
        ((images, labels + 3), "from 0 to 2"),
        ((images, labels[:3]), r"\(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ATTACKS[name](0.1)(MODEL, *bad)
    flat = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"\(n, classes\)"):
        ATTACKS[name](0.1)(flat, images, labels)


def test_a_trace_sees_what_the_attack_saw(cnn, digits):
    """A point of the trace fools where the attack does, whatever the batch."""
    images, labels = digits.test.images[:40], digits.test.labels[:40]
    attack = PGD(0.1, n_iter=6)
    task = Task.of(cnn, images, labels, (0.0, 1.0), 40).predict()
    task = task.select(~attack.is_fooled(task.logits, task.labels))
    scores, fooled = attack.trace(task)
    assert scores.shape == fooled.shape == (len(task.images), 7)
    assert np.array_equal(fooled.any(axis=1), attack.attempt(task).fooled)
    assert 0 < fooled.any(axis=1).mean() < 1
    assert (scores[:, -1] > scores[:, 0]).all()
    in_parts, _ = attack.trace(task.replace(batch_size=11))
    np.testing.assert_allclose(in_parts, scores, rtol=1e-3, atol=1e-3)


def test_attacks_are_frozen_values():
    assert PGD(0.1) == PGD(0.1) != PGD(0.2)
    assert hash(standard(0.1)) == hash(standard(0.1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PGD(0.1).step_size = 1e-6
    assert dataclasses.replace(PGD(0.1), epsilon=0.2, name=None) == PGD(0.2)
    assert "step_size" in repr(PGD(0.1, step_size=0.5))
    config = standard(0.1).to_config()
    assert [part["attack"] for part in config["attacks"]] == ["APGD", "APGD", "FAB", "Square"]
    json.dumps(config)


def test_no_attack_uses_the_arguments_of_another():
    """Compiled code of one attack must not serve one with other arguments."""
    images, labels = right(10)
    small = PGD(0.2, n_iter=3, step_size=1e-6, random_start=False)(MODEL, images, labels)
    large = PGD(0.2, n_iter=3, step_size=0.5, random_start=False)(MODEL, images, labels)
    assert np.abs(small - images).max() < 1e-5
    assert np.abs(large - images).max() > 0.05


class Listed(PGD):
    """A subclass with an attribute that has no hash."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "notes", ["a list"])


def test_a_subclass_may_have_attributes_without_a_hash():
    images, labels = right(5)
    np.testing.assert_array_equal(
        Listed(0.1, n_iter=3)(MODEL, images, labels), PGD(0.1, n_iter=3)(MODEL, images, labels)
    )


@pytest.mark.parametrize("name", ["pgd", "apgd_t", "square", "noise"])
def test_a_sweep_gives_what_each_size_gives_alone(name):
    """All pairs of an example and an ε in one batch; random numbers depend on the example."""
    images, labels = right(12)
    epsilons = (0.0, 0.05, 0.3)
    swept = ATTACKS[name](1.0).sweep(MODEL, images, labels, epsilons)
    for epsilon, found in zip(epsilons, swept, strict=True):
        alone = ATTACKS[name](epsilon)(MODEL, images, labels)
        np.testing.assert_allclose(found, alone, atol=1e-6)
