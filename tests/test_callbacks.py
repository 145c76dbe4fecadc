import csv
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_distribution import mirrored
from test_evaluation import Counting, counted

from hr_keras import HRLoss, evaluation
from hr_keras.callbacks import FGSMCallback

KEYS = ["val_fgsm_ce_0.1_accuracy", "val_fgsm_ce_0.25_accuracy"]


def small_model(extra=()):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(),
            *extra,
            keras.layers.Dense(16),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile("sgd", loss=HRLoss(), metrics=["accuracy"])
    return model


@pytest.fixture
def some(digits):
    return (digits.train.images[:500], digits.train.labels[:500]), (
        digits.validation.images[:100],
        digits.validation.labels[:100],
    )


def fit(model, train, callbacks, epochs=5, **arguments):
    return model.fit(
        *train, epochs=epochs, batch_size=100, callbacks=callbacks, verbose=0, **arguments
    )


def test_keys_are_there_every_epoch_and_numbers_when_due(some):
    train, validation = some
    model = small_model()
    history = fit(model, train, [FGSMCallback(validation, every=2)]).history
    assert [key for key in history if "fgsm" in key] == KEYS
    for key in KEYS:
        assert [math.isnan(value) for value in history[key]] == [True, False, True, False, False]
    swept = evaluation.sweep(model, *validation, "ce", (0.1, 0.25))
    assert [history[key][-1] for key in KEYS] == list(swept.accuracy.values())


@pytest.mark.parametrize("shuffle", [True, False])
def test_training_is_the_same_bit_for_bit(some, shuffle):
    """With Dropout, BatchNorm, shuffling, metrics and an optimizer that has state."""
    train, validation = some
    runs = []
    for callbacks in ([], [FGSMCallback(validation, objectives=("ce", "hr"), every=1)]):
        model = small_model()
        model.compile("adam", loss=HRLoss(), metrics=["accuracy"])
        history = fit(
            model, train, callbacks, epochs=3, shuffle=shuffle, validation_data=validation
        ).history
        common = {key: history[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        runs.append((model.get_weights(), common, keras.random.normal((3,)).numpy()))
    for plain, attacked in zip(*(run[0] for run in runs), strict=True):
        np.testing.assert_array_equal(plain, attacked)
    assert runs[0][1] == runs[1][1]
    np.testing.assert_array_equal(runs[0][2], runs[1][2])


def test_nothing_is_compiled_after_the_first_attack_and_only_its_passes_are_paid(some):
    train, validation = some
    model = small_model([Counting()])
    callback = FGSMCallback(validation, objectives=("ce", "hr"), every=1)
    costs = []

    def attack():
        result, cost = counted(original)
        costs.append(cost)
        return result

    original, callback._attack = callback._attack, attack
    fit(model, train, [callback], epochs=4)
    assert costs[1:] == 3 * [{"forward": 1 + 4, "backward": 2, "traces": 0}]


def test_log_readers_of_keras_work(some, tmp_path):
    train, validation = some
    early = keras.callbacks.EarlyStopping(KEYS[0], mode="max", patience=1, min_delta=2.0)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor=KEYS[0], mode="max", save_best_only=True
    )
    callbacks = [
        FGSMCallback(validation, every=1),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "tensorboard"),
        best,
        early,
    ]
    history = fit(small_model(), train, callbacks, epochs=6).history
    assert len(history["loss"]) == 2  # stopped: no gain of 2.0 is possible
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    np.testing.assert_allclose([float(row[KEYS[1]]) for row in rows], history[KEYS[1]])
    events = list((tmp_path / "tensorboard").rglob("events.*"))
    assert any(b"fgsm_ce_0.1" in event.read_bytes() for event in events)
    keras.models.load_model(tmp_path / "best.keras")


def test_the_last_epoch_is_due_also_when_training_is_stopped(some):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    train, validation = some
    history = fit(small_model(), train, [Stop(), FGSMCallback(validation, every=10)]).history
    assert [math.isnan(value) for value in history[KEYS[0]]] == [True, False]


def test_datasets_objectives_and_names(some):
    train, (images, labels) = some
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    objectives = ("hr", keras.losses.SparseCategoricalCrossentropy(name="plain"))
    from_dataset = FGSMCallback(dataset, epsilons=(0, 0.1), objectives=objectives)
    from_arrays = FGSMCallback((images, labels), epsilons=(0, 0.1), objectives=objectives)
    names = [
        f"val_fgsm_{name}_{epsilon}_accuracy" for name in ("hr", "plain") for epsilon in (0, 0.1)
    ]
    for callback in (from_dataset, from_arrays):
        history = fit(small_model(), train, [callback], epochs=1).history
        assert list(history)[-4:] == names
        assert history[names[0]] == history[names[2]]
    np.testing.assert_array_equal(from_dataset.images, from_arrays.images)


def test_it_runs_under_replicas(some):
    train, validation = some
    with mirrored(2).scope():
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
        model.compile("sgd", loss=HRLoss())
    history = fit(model, train, [FGSMCallback(validation, every=1)], epochs=2).history
    swept = evaluation.sweep(model, *validation, "ce", (0.1, 0.25))
    assert [history[key][-1] for key in KEYS] == list(swept.accuracy.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every"),
        ({"epsilons": (-0.1,)}, "-0.1"),
        ({"epsilons": ()}, "at least one key"),
        ({"epsilons": (0.1, 0.1000000001)}, "none twice"),
        ({"objectives": ("dice",)}, "dice"),
        ({"validation_data": np.zeros((3, 2))}, "ndarray"),
        ({"validation_data": tf.data.Dataset.from_tensor_slices(([0.0], [1])).take(0)}, "empty"),
        ({"batch_size": 0}, "batch_size"),
        ({"bounds": (1, 1)}, "bounds"),
        ({"through": "x"}, "through"),
    ],
)
def test_bad_arguments_are_refused(some, arguments, message):
    with pytest.raises(ValueError, match=message):
        FGSMCallback(**{"validation_data": some[1], **arguments})


def test_unfit_validation_data_is_refused_before_the_first_epoch(some):
    train, (images, labels) = some
    model = small_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match="inside bounds"):
        fit(model, train, [FGSMCallback((255 * images, labels))])
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)
