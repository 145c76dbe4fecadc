"""What all attacks share: values, compiled code, checks of the data."""

import dataclasses
import gc
import json
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import MODEL, images_and_labels, right
from conftest import linear_model

from hr_keras import evaluation
from hr_keras._core.compiled import Same, in_batches
from hr_keras.attacks import FGSM, PGD, standard

GOOD, LABELS = images_and_labels(4)


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
    """A subclass with attributes that have no hash."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "notes", ["a list", np.zeros(2)])
        object.__setattr__(self, "weights", np.arange(3.0))


def test_a_subclass_may_have_attributes_without_a_hash():
    images, labels = right(5)
    np.testing.assert_array_equal(
        Listed(0.1, n_iter=3)(MODEL, images, labels), PGD(0.1, n_iter=3)(MODEL, images, labels)
    )


def test_a_model_is_freed_with_its_compiled_code():
    images, labels = images_and_labels(4, (8, 8, 1))
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    FGSM(0.1)(model, images, labels)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_one_attack_on_two_models_and_retrained_weights():
    images, labels = images_and_labels()
    first, second = linear_model(1.0), linear_model(-1.0)
    attacker = FGSM(0.1)
    before = attacker(first, images, labels)
    assert (attacker(second, images, labels) != before).any()
    np.testing.assert_array_equal(attacker(first, images, labels), before)
    first.set_weights(second.get_weights())
    np.testing.assert_array_equal(attacker(first, images, labels), attacker(second, images, labels))


def test_a_replaced_head_is_never_attacked_through_the_old_one():
    """The freed address of a layer may be that of the next one."""
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    images = np.random.default_rng(0).random((6, 2, 2, 3), dtype="float32")
    labels = np.arange(6) % 3
    for seed in range(6):
        if seed:
            model.pop()
        kernel = keras.initializers.RandomNormal(seed=seed)
        model.add(keras.layers.Dense(3, kernel_initializer=kernel))
        fresh = keras.Sequential(
            [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        fresh.set_weights(model.get_weights())
        expected = FGSM(0.1)(fresh, images, labels)
        np.testing.assert_array_equal(FGSM(0.1)(model, images, labels), expected)


def test_a_key_is_not_that_of_a_later_object_at_the_same_address():
    """Python gives the address of a freed object to the next of its size."""

    class Thing:
        pass

    for _ in range(100):
        thing = Thing()
        key, address = Same(thing), id(thing)
        assert key == Same(thing)
        del thing
        later = Thing()
        if id(later) == address:
            break
    assert id(later) == address
    assert hash(key) == hash(Same(later))
    assert key != Same(later)


class Wrapped(keras.layers.Layer):
    """A layer that holds another, which `model.layers` does not list."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(5, "relu")

    def call(self, x):
        return self.inner(x)


def new_weights(model):
    model.set_weights([0.5 + 2 * weight for weight in model.get_weights()])


CHANGES = {
    "activation": lambda m: setattr(m.layers[-1], "activation", keras.ops.tanh),
    "activation inside": lambda m: setattr(m.layers[0].inner, "activation", keras.ops.sin),
    "trainable": lambda m: setattr(m.layers[1], "trainable", False),
    "precision": lambda m: setattr(m.layers[-1], "dtype_policy", "mixed_bfloat16"),
    "weights": new_weights,
    "variables": lambda m: m.layers[-1].enable_lora(1, lora_alpha=9) or new_weights(m),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_in_place_is_seen(change):
    """Compiled code gives what the model gives when it is called outside of it."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            Wrapped(),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    before = evaluation.log_probabilities(model, GOOD)
    change(model)
    expected = keras.ops.log_softmax(keras.ops.cast(model(GOOD), "float32"))
    after = evaluation.log_probabilities(model, GOOD)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    if change is not CHANGES["trainable"]:
        assert np.abs(after - before).max() > 1e-4


def test_batches_are_of_one_shape(digits):
    shapes = []

    @tf.function
    def step(images, labels):
        tf.numpy_function(lambda x: shapes.append(x.shape), [images], [])
        return (labels,)

    (labels,) = in_batches(step, *digits.test, 256)
    np.testing.assert_array_equal(labels, digits.test.labels)
    assert set(shapes) == {(250, 28, 28, 1)}
    assert len(shapes) == 8


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD + 1, LABELS, "inside bounds"),
        (GOOD, ["a", "b", "c", "d"], "numbers"),
        (np.where(GOOD.max() == GOOD, np.nan, GOOD), LABELS, "nan"),
        ((255 * GOOD).astype("uint8"), LABELS, "floating point"),
        (GOOD[:0], LABELS[:0], "n ≥ 1"),
        (GOOD, [0, 1, 2, 3], "from 0 to 2.*to 3"),
        (GOOD, [0, 1, 2, -1], "from 0 to 2.*-1"),
        (GOOD, [0.5, 1, 2, 0], "class numbers"),
        (GOOD, LABELS[:3], r"\(4,\)"),
        (GOOD, np.full((4, 3), 0.5), "sum to 1"),
        (GOOD, np.tile([1.5, -0.5, 0], (4, 1)), "not be negative"),
    ],
)
def test_bad_images_and_labels_are_refused(images, labels, message):
    for act in (FGSM(0.1), PGD(0.1, n_iter=1), evaluation.sweep):
        with pytest.raises(ValueError, match=message):
            act(MODEL, images, labels)


def test_a_model_that_is_no_classifier_is_refused():
    flat = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"\(n, classes\)"):
        FGSM(0.1)(flat, GOOD, LABELS)


def test_bounds_are_compared_in_the_precision_of_the_images():
    lowest, highest = -0.1307 / 0.3081, 0.1
    images = np.array([[lowest] * 12, [highest] * 12], "float32").reshape(2, 2, 2, 3)
    adversarial = FGSM(0.3, bounds=(lowest, highest))(MODEL, images, [0, 1])
    FGSM(0.3, bounds=(lowest, highest))(MODEL, adversarial, [0, 1])
    assert adversarial.max() <= np.float32(highest)


def test_models_of_integer_images_are_refused():
    inputs = keras.Input((2, 2, 3), dtype="uint8")
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    with pytest.raises(ValueError, match="uint8"):
        FGSM(8.0, bounds=(0, 255))(keras.Model(inputs, outputs), 255 * GOOD, LABELS)
