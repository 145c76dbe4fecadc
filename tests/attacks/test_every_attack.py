"""Laws that every attack obeys."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from attack_cases import ATTACKS, MODEL, NORMS, UNBOUNDED, distances, fooled, right
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
    Task,
    Transfer,
    WorstCase,
    _perturbation,
    fast,
    objectives,
)

UNTARGETED = ("apgd_dlr", "apgd_t", "fab")


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


class SquareRoot(keras.layers.Layer):
    def call(self, images):
        return tf.sqrt(images)


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
    task = Task.of(MODEL, images, labels, (0.0, 1.0), 256)
    rows = np.array([20, 3, 7])
    alone = make(0.15).perturb(task.select(rows)).images
    np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("name", ["pgd", "apgd_t", "square", "noise"])
def test_a_sweep_gives_what_each_size_gives_alone(name):
    """All pairs of an example and an ε in one batch; random numbers depend on the example."""
    images, labels = right(12)
    epsilons = (0.0, 0.05, 0.3)
    swept = ATTACKS[name](1.0).sweep(MODEL, images, labels, epsilons)
    for epsilon, found in zip(epsilons, swept, strict=True):
        alone = ATTACKS[name](epsilon)(MODEL, images, labels)
        np.testing.assert_allclose(found, alone, atol=1e-6)


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
        assert isinstance(same, np.ndarray)
        np.testing.assert_array_equal(same, x)
        assert same.dtype == dtype
        assert tf.is_tensor(moved)
        assert moved.dtype == dtype
        assert np.abs(moved.numpy().astype("float64") - x).max() <= 0.3 * (1 + 2e-3)


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


def test_models_of_two_classes_can_be_attacked():
    keras.utils.set_random_seed(4)  # some images of each class
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    images = np.random.default_rng(0).uniform(0.3, 0.7, (20, 6)).astype("float32")
    labels = np.asarray(model(images)).argmax(axis=-1)
    epsilon = float(np.median(distances(model, images, labels, "linf")))
    for name in ("apgd_dlr", "apgd_t", "fab", "square"):
        robust = evaluation.robust_accuracy(model, images, labels, ATTACKS[name](epsilon)).robust
        assert 0 < robust.mean() < 1


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
    found = {attacker.name: [] for attacker in attacks}
    for image in digits.test.images[:6]:
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
            found[attacker.name].append(
                fooled(binarised, attacker(binarised, image[None], [0]), 0)[0]
            )
    assert all(found["pgd_margin_0.1"])
    assert all(found["apgd_ce_0.1"])
    assert all(found["fab_targeted_0.1"])
    assert not all(found["noise_margin_0.1"])  # or the test would be too easy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM(-0.1), "-0.1"),
        (lambda: FGSM(float("nan")), "nan"),
        (lambda: FGSM("big"), "big"),
        (lambda: FGSM(0.1, "cee"), "Did you mean 'ce'"),
        (lambda: FGSM(0.1, 3), "3"),
        (lambda: FGSM(0.1, through="softmax"), "'softmax'"),
        (lambda: FGSM(0.1, bounds=(1, 0)), "bounds"),
        (lambda: FGSM(0.1, bounds=1), "bounds"),
        (lambda: FGSM(0.1, batch_size=0), "batch_size"),
        (lambda: FGSM(0.1, name=""), "name"),
        (lambda: PGD(-1), "epsilon"),
        (lambda: PGD(0.1, n_iter=0), "n_iter"),
        (lambda: PGD(0.1, step_size=0), "step_size"),
        (lambda: PGD(0.1, n_restarts=1.5), "n_restarts"),
        (lambda: PGD(0.1, seed=-1), "seed"),
        (lambda: PGD(0.1, norm="l1"), "norm"),
        (lambda: PGD(0.1, "targeted_dlr"), "targeted_dlr"),
        (lambda: PGD(0.1, objectives.TARGETED_DLR), "must choose"),
        (lambda: APGD(0.1, objectives.LOGIT_DIFFERENCE), "must choose"),
        (lambda: FGSM(0.1, objectives.targeted_dlr), "must choose"),
        (lambda: Square(0.1, objectives.logit_difference), "must choose"),
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
