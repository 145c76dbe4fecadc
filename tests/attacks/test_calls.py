"""What calls of an attack or an evaluation take and give back, and how they say what is wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import MODEL, right
from conftest import linear_model

from hr_keras import diagnostics, evaluation, training
from hr_keras.attacks import APGD, FAB, FGSM, PGD, Noise, Square, WorstCase
from hr_keras.audit.result import AuditProtocol
from hr_keras.models import logits_model

EVERY = [
    FGSM(0.1),
    PGD(0.1, n_iter=2),
    APGD(0.1, n_iter=3),
    FAB(0.1, n_iter=2),
    Square(0.1, n_queries=3),
    Noise(0.1, n_draws=2),
    WorstCase(FGSM(0.1)),
]


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
def test_images_of_the_other_byte_order_come_back_as_they_came(attack):
    images, labels = right(4)
    other = images.astype(images.dtype.newbyteorder())
    found = attack(MODEL, other, labels.astype(">i8"))
    assert found.dtype == other.dtype
    np.testing.assert_array_equal(found, attack(MODEL, images, labels))
    swept = attack.sweep(MODEL, other, labels, [0.1]) if attack.name[:5] != "worst" else found[None]
    assert swept.dtype == other.dtype


def test_arrays_of_other_libraries_come_back_as_numpy_has_them():
    class Foreign:
        dtype = "their.float32"
        shape = (2, 2, 2, 3)

        def __array__(self, dtype=None, copy=None):
            return np.full(self.shape, 0.5, dtype or "float32")

        def __len__(self):
            return 2

    moved = FGSM(0.1)(linear_model(1.0), Foreign(), [0, 1])
    assert moved.dtype == "float32"


def test_evaluation_takes_images_of_the_other_byte_order():
    images, labels = right(20)
    other = images.astype(">f4")
    sweeps = [evaluation.sweep(MODEL, x, labels, "ce", (0.1,)).correct for x in (images, other)]
    np.testing.assert_array_equal(*sweeps)
    logs = [evaluation.log_probabilities(MODEL, x) for x in (images, other)]
    np.testing.assert_array_equal(*logs)


def test_norms_as_other_libraries_have_them():
    for norms, name in (((np.inf, float("inf"), "inf", "Linf"), "linf"), ((2, 2.0, "2"), "l2")):
        for norm in norms:
            assert PGD(0.1, norm=norm) == PGD(0.1, norm=name)
            assert AuditProtocol(0.1, norm, ("fgsm",), 1).norm == name
    for norm in (1, 0, -np.inf, "l1", None, True):
        with pytest.raises(ValueError, match="`norm` must be one of"):
            PGD(0.1, norm=norm)


@pytest.mark.parametrize("loss", [keras.losses.CategoricalCrossentropy, keras.losses.KLDivergence])
def test_the_class_of_a_loss_is_refused_with_the_instance_to_pass(loss):
    for act in (lambda: FGSM(0.1, loss), lambda: evaluation.sweep(MODEL, *right(4), loss)):
        with pytest.raises(ValueError, match=rf"not its class: pass {loss.__name__}\(\)"):
            act()


class AttackingModel(keras.Sequential):
    def train_step(self, data):
        images, labels = data
        return super().train_step((FGSM(0.1)(MODEL, images, labels), labels))


def test_inside_compiled_code_it_says_what_to_do():
    images, labels = right(4)
    acts = (FGSM(0.1), PGD(0.1, n_iter=2).sweep, evaluation.sweep)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    for act in acts:
        arguments = ([0.1],) if act is acts[1] else ()
        with pytest.raises(ValueError, match=r"`dataset.map` or.*AdversarialTraining.*loop over"):
            dataset.map(lambda x, y, a=act, more=arguments: (a(MODEL, x, y, *more), y))
    model = AttackingModel([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"`train_step`.*AdversarialTraining"):
        model.fit(images, labels, verbose=0)
    with pytest.raises(ValueError, match="cannot run inside compiled code"):
        FGSM(0.1)(MODEL, keras.Input((2, 2, 3)), labels)
    with pytest.raises(ValueError, match="cannot run inside compiled code"):
        evaluation.confusion_matrix(MODEL, keras.Input((2, 2, 3)), labels)


def test_a_single_image_gets_the_hint_that_it_needs():
    images, labels = right(4)
    for act in (FGSM(0.1), evaluation.sweep):
        with pytest.raises(ValueError, match=r"images\[None\] and \[label\]"):
            act(MODEL, images[0], labels[0])
        with pytest.raises(ValueError, match=r"images\[None\] and \[label\]"):
            act(MODEL, images[0], labels[:1])
        with pytest.raises(ValueError, match=r"takes, \(None, 2, 2, 3\).*\(4, 2, 3, 2\)\.$"):
            act(MODEL, np.moveaxis(images, -1, 2), labels)


def test_a_model_of_keras_2_is_named_with_the_way_on():
    sequential = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})()
    images, labels = right(4)
    for act in (
        lambda: FGSM(0.1)(sequential, images, labels),
        lambda: evaluation.robust_accuracy(sequential, images, labels, FGSM(0.1)),
        lambda: diagnostics.check(sequential, images, labels, 0.1),
        lambda: logits_model(sequential),
        lambda: training.AdversarialTraining(sequential, PGD(0.1)),
    ):
        with pytest.raises(ValueError, match=r"of tf_keras .Keras 2.*load_model"):
            act()
    with pytest.raises(ValueError, match=r"must be a keras\.Model\. Received: int$"):
        FGSM(0.1)(3, images, labels)


def test_a_model_of_several_inputs_is_refused_in_one_line():
    inputs = [keras.Input((4,)), keras.Input((2,))]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(inputs)))
    with pytest.raises(ValueError, match=r"must take one input\. Received: .* with 2 inputs"):
        FGSM(0.1)(model, np.full((2, 4), 0.5, "float32"), [0, 1])


def test_a_model_of_a_decision_for_each_pixel_is_refused_in_one_line():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1)])
    images = np.full((2, 4, 4, 1), 0.5, "float32")
    with pytest.raises(ValueError, match=r"pixel.*not attacked.*Received: .*\(None, 4, 4, 3\)"):
        FGSM(0.1)(model, images, np.zeros((2, 4, 4), int))
