"""Pixel bounds of each channel: every attack keeps them, uses them, and takes them in any form."""

import keras
import numpy as np
import pytest
from attack_cases import ATTACKS, MODEL, NORMS, fooled, right
from conftest import linear_model

from hr_keras import diagnostics, evaluation, training
from hr_keras.attacks import FAB, FGSM, PGD, Square, Task
from hr_keras.attacks._perturbation import L2
from hr_keras.attacks.fab import step_onto_plane
from hr_keras.callbacks import FGSMCallback
from hr_keras.diagnostics.data_checks import RANGES, epsilon_size, pixel_range

LOW, HIGH = np.array([-1.0, 0.0, 2.0]), np.array([1.0, 1.0, 2.5])
BOUNDS = (tuple(LOW), tuple(HIGH))
EVERY = {**ATTACKS, "fgsm": lambda epsilon, norm="linf", **k: FGSM(epsilon, **k)}

# APGD's other objectives have the same bounds, and FGSM has one norm.
CASES = [
    (name, norm)
    for name in EVERY
    if name not in ("apgd_dlr", "apgd_t")
    for norm in (NORMS if name != "fgsm" else ("linf",))
]


def spread(n=12, shape=(2, 2, 3)):
    """Images that fill the range of each channel."""
    unit = np.random.default_rng(0).random((n, *shape)).astype("float32")
    return (LOW + unit * (HIGH - LOW)).astype("float32")


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_same_bounds_in_each_channel_are_those_numbers(name, norm):
    images, labels = right(12)
    numbers = EVERY[name](0.3, norm=norm)
    tuples = EVERY[name](0.3, norm=norm, bounds=((0.0,) * 3, (1.0,) * 3))
    np.testing.assert_array_equal(tuples(MODEL, images, labels), numbers(MODEL, images, labels))


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_no_attack_leaves_the_bounds_of_a_channel(name, norm):
    """ε is larger than every range: each channel ends within its own, and some pixel at its end."""
    images = spread()
    labels = np.asarray(MODEL(images)).argmax(axis=-1)
    found = EVERY[name](3.0, norm=norm, bounds=BOUNDS)(MODEL, images, labels)
    assert (found >= LOW.astype("float32")).all()
    assert (found <= HIGH.astype("float32")).all()
    if norm == "linf" and name not in ("fab", "noise"):  # which seldom reach an end
        moved = found[(found != images).any(axis=(1, 2, 3))].reshape(-1, 3)
        assert (np.minimum(moved - LOW, HIGH - moved).min(axis=0) < 1e-6).all()


@pytest.mark.parametrize("shape", [(3,), (4, 3), (1, 2, 2, 3)])
@pytest.mark.parametrize("kind", [FGSM, Square, FAB])
def test_the_channel_is_the_last_axis_of_images_of_any_rank(kind, shape):
    generator = np.random.default_rng(2)
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    images = spread(6, shape)
    labels = np.asarray(model(images)).argmax(axis=-1)
    few = {Square: {"n_queries": 10}, FAB: {"n_iter": 3}}.get(kind, {})
    found = kind(3.0, bounds=BOUNDS, **few)(model, images, labels)
    assert kind is FAB or (found != images).any()  # in few pixels no image may fool the model
    assert (found >= LOW.astype("float32")).all()
    assert (found <= HIGH.astype("float32")).all()


def test_the_smallest_step_onto_a_plane_stays_in_each_range():
    """Two pixels have no room: the third makes the whole way."""
    moves = step_onto_plane(
        L2(),
        keras.ops.convert_to_tensor([[1.0, 1.0, 2.0]]),
        keras.ops.convert_to_tensor([[1.0, 1.0, 1.0]]),
        keras.ops.convert_to_tensor([-0.25]),
        BOUNDS,
    )
    np.testing.assert_allclose(moves, [[0.0, 0.0, 0.25]], atol=1e-6)


def test_arrays_lists_and_tuples_are_the_same_bounds():
    expected = FGSM(0.1, bounds=BOUNDS)
    for bounds in ((LOW, HIGH), np.stack([LOW, HIGH]), [list(LOW), list(HIGH)],
                   (LOW.reshape(1, 1, 1, 3), HIGH.reshape(1, 1, 3))):  # fmt: skip
        assert FGSM(0.1, bounds=bounds) == expected
        assert hash(FGSM(0.1, bounds=bounds)) == hash(expected)
    assert FGSM(0.1, bounds=(-1, HIGH)).bounds == ((-1.0, -1.0, -1.0), tuple(HIGH))
    assert FGSM(0.1, bounds=(0, 1)).bounds == (0.0, 1.0)
    assert FGSM(0.1, bounds=BOUNDS).to_config()["bounds"] == [list(LOW), list(HIGH)]


@pytest.mark.parametrize(
    "bounds", [(LOW, [0.0, 0.0, 3.0]), (LOW, HIGH[:2]), ([], []), (np.eye(3), 2 + np.eye(3)), 1.0]
)
def test_bounds_that_are_none_are_refused(bounds):
    with pytest.raises(ValueError, match=r"one for each channel\. Received"):
        PGD(0.1, bounds=bounds)


def test_another_number_of_channels_is_refused():
    images, labels = right(4)
    with pytest.raises(ValueError, match=r"each of the 3 channels.*Received: 2"):
        FGSM(0.1, bounds=((0.0, 0.0), (1.0, 1.0)))(MODEL, images, labels)
    inside = images * (HIGH - LOW) + LOW
    inside[0, 0, 0, 2] = 1.9
    with pytest.raises(ValueError, match="must lie inside bounds"):
        FGSM(0.1, bounds=BOUNDS)(MODEL, inside.astype("float32"), labels)


def test_evaluation_callbacks_and_training_take_them():
    images = spread()
    model = linear_model(1.0)
    labels = np.asarray(model(images)).argmax(axis=-1)
    swept = evaluation.sweep(model, images, labels, "ce", (0.3,), bounds=(LOW, HIGH))
    found = FGSM(0.3, bounds=BOUNDS)(model, images, labels)
    right = np.asarray(model(found)).argmax(axis=-1) == labels
    np.testing.assert_array_equal(swept.correct[0, 0], right)
    attack = FGSM(0.3, bounds=(LOW, HIGH))
    robust = evaluation.robust_accuracy(model, images, labels, attack)
    np.testing.assert_array_equal(robust.robust, right)
    callback = FGSMCallback((images, labels), (0.3,), every=1, bounds=(LOW, HIGH))
    robust_model = training.AdversarialTraining(model, PGD(0.1, n_iter=1, bounds=(LOW, HIGH)))
    robust_model.compile("sgd", loss="sparse_categorical_crossentropy")
    logs = robust_model.fit(images, labels, callbacks=[callback], verbose=0).history
    assert np.isfinite(logs["val_fgsm_ce_0.3_accuracy"]).all()
    with pytest.raises(ValueError, match="must lie inside bounds"):
        robust_model.fit(images - 3, labels, verbose=0)


def test_diagnostics_measure_each_channel_in_its_range():
    """The widest channel decides whether ε makes an image grey."""
    assert epsilon_size(1.0, BOUNDS).verdict == "ok"
    assert epsilon_size(1.1, BOUNDS).verdict == "warning"
    images = spread(40)
    labels = np.asarray(MODEL(images)).argmax(axis=-1)
    found = pixel_range(Task.of(MODEL, images, labels, BOUNDS, 256).predict(), BOUNDS)
    assert "from (-1, 0, 2) to (1, 1, 2.5)" in found.meaning
    unit = (images - LOW) / (HIGH - LOW)
    others = [fooled(MODEL, low + (high - low) * unit, labels) for low, high in RANGES]
    assert found.measured == pytest.approx(-min(wrong.mean() for wrong in others))


@pytest.mark.slow
def test_a_check_with_bounds_of_each_channel_finds_no_fault():
    images = spread(40)
    labels = np.asarray(MODEL(images)).argmax(axis=-1)
    findings = diagnostics.check(MODEL, images, labels, 0.05, bounds=(LOW, HIGH))
    assert {one.name for one in findings if one.verdict == "fault"} <= {"pixel_range"}
