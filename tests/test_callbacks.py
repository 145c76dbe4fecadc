import csv
import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from test_evaluation import Counting, counted

from hr_keras import HRLoss, evaluation, training
from hr_keras.attacks import FGSM, PGD, Noise, WorstCase
from hr_keras.callbacks import AttackCallback, FGSMCallback

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


def test_two_routes_side_by_side_have_keys_of_their_own(some):
    train, validation = some
    model = small_model()
    routes = {"val_fgsm": "logits", "val_published": "probabilities"}
    callbacks = [
        FGSMCallback(validation, (0.1,), every=1, through=through, prefix=prefix)
        for prefix, through in routes.items()
    ]
    history = fit(model, train, callbacks, epochs=1).history
    for prefix, through in routes.items():
        swept = evaluation.sweep(model, *validation, "ce", (0.1,), through)
        assert history[f"{prefix}_ce_0.1_accuracy"] == [swept.accuracy["ce", 0.1]]


def test_training_is_the_same_bit_for_bit(some):
    """With Dropout, BatchNorm, shuffling, metrics and an optimizer that has state."""
    train, validation = some
    runs = []
    for callbacks in ([], [FGSMCallback(validation, objectives=("ce", "hr"), every=1)]):
        model = small_model()
        model.compile("adam", loss=HRLoss(), metrics=["accuracy"])
        history = fit(model, train, callbacks, epochs=3, validation_data=validation).history
        common = {key: history[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        draws = [random.random(), *tf.random.uniform([2]).numpy()]
        draws.append(np.random.random())  # noqa: NPY002 (the global state is what may change)
        runs.append((model.get_weights(), common, draws))
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

    original, callback._values = callback._values, attack
    fit(model, train, [callback], epochs=4)
    assert costs[1:] == 3 * [{"forward": 1 + 4, "backward": 2, "traces": 0}]


def test_log_readers_of_keras_work(some, tmp_path):
    """With epochs that have no value; the first of them must not count as the best."""
    train, validation = some
    early = keras.callbacks.EarlyStopping(
        KEYS[0], mode="max", patience=3, min_delta=2.0, start_from_epoch=1
    )
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras",
        monitor=KEYS[0],
        mode="max",
        save_best_only=True,
        initial_value_threshold=-1.0,
    )
    callbacks = [
        FGSMCallback(validation, every=2),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "tensorboard"),
        best,
        early,
    ]
    history = fit(small_model(), train, callbacks, epochs=9).history
    # best at epoch 2, no gain of 2.0 is possible: stopped after 3 more
    assert len(history["loss"]) == 5
    assert early.best == history[KEYS[0]][1]
    attacked = [value for value in history[KEYS[0]][:4] if not math.isnan(value)]
    assert best.best == max(attacked)
    # the epoch that turned out to be the last was attacked after all, too late for the others
    assert math.isnan(float(list(csv.DictReader((tmp_path / "log.csv").open()))[-1][KEYS[0]]))
    assert not math.isnan(history[KEYS[0]][-1])
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    np.testing.assert_allclose([float(row[KEYS[1]]) for row in rows[:4]], history[KEYS[1]][:4])
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


def test_workers_agree_on_when_they_attack(some, monkeypatch):
    """One that stops alone would wait for the others, which train on."""
    monkeypatch.setattr(training, "any_worker", lambda flag, strategy: True)
    callback = FGSMCallback(some[1], every=10)
    callback.set_model(small_model())
    callback.on_epoch_end(0, logs := {})
    assert all(np.isfinite(value) for value in logs.values())


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
    found, expected = (
        callback.examples.read_first(256) for callback in (from_dataset, from_arrays)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


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
        ({"epsilons": ()}, "at least one value"),
        ({"objectives": ()}, "at least one key"),
        ({"epsilons": (0.1, 0.1000000001)}, "none twice"),
        ({"objectives": ("dice",)}, "dice"),
        ({"epsilons": 0.1}, "epsilons"),
        ({"validation_data": np.zeros((3, 2))}, "ndarray"),
        ({"validation_data": (np.zeros((3, 2)), np.zeros(2))}, "3 images, 2 labels"),
        ({"validation_data": (np.full((3, 2), 1.5), np.zeros(3))}, "inside bounds"),
        ({"validation_data": tf.data.Dataset.from_tensor_slices(([0.0], [1])).take(0)}, "empty"),
        ({"validation_data": tf.data.Dataset.from_tensor_slices(([0.0], [1]))}, "not batches"),
        ({"validation_data": tf.data.Dataset.from_tensors(([[0.0]], [1])).repeat()}, "end"),
        ({"validation_data": tf.data.Dataset.from_tensors([[0.0]])}, "not batches of pairs"),
        ({"batch_size": 0}, "batch_size"),
        ({"bounds": (1, 1)}, "bounds"),
        ({"through": "x"}, "through"),
    ],
)
def test_bad_arguments_are_refused(some, arguments, message):
    with pytest.raises(ValueError, match=message):
        FGSMCallback(**{"validation_data": some[1], **arguments})


@pytest.mark.parametrize("built", [True, False])
def test_one_bad_label_is_refused_long_before_its_first_attack(some, built):
    train, (images, labels) = some
    labels = labels.copy()
    labels[77] = 10
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.compile("sgd", loss=HRLoss())
    if built:
        model(images[:1])
    epochs = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: epochs.append(epoch))
    with pytest.raises(ValueError, match="from 0 to 9"):
        fit(model, train, [FGSMCallback((images, labels), every=3), count])
    assert epochs == []


class NoisyAlways(keras.layers.Layer):
    """Draws noise at inference too, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=self.seed)


def test_any_attack_by_the_same_rules(some):
    """FGSM by either callback: the same keys, the same values, the same epochs."""
    train, validation = some
    attacks = [FGSM(0.1), FGSM(0.25), WorstCase([Noise(0.1, n_draws=2), PGD(0.1, n_iter=3)])]
    model = small_model()
    history = fit(model, train, [AttackCallback(validation, attacks, every=2)]).history
    assert [key for key in history if key.startswith("val_")] == [
        *KEYS,
        "val_worst_case_accuracy",
    ]
    other = fit(small_model(), train, [FGSMCallback(validation, every=2)]).history
    for key in KEYS:
        np.testing.assert_allclose(history[key], other[key], atol=0.0101)
    worst = history["val_worst_case_accuracy"]
    assert [math.isnan(value) for value in worst] == [True, False, True, False, False]
    result = evaluation.robust_accuracy(model, *validation, attacks)
    assert [history[key][-1] for key in result_keys(result)] == list(result.per_attack.values())


def result_keys(result):
    return [f"val_{name}_accuracy" for name in result.per_attack]


def test_state_that_changes_at_inference_is_put_back_under_any_attack(some):
    train, validation = some
    weights = []
    for callbacks in (
        [],
        [
            FGSMCallback(validation, every=1),
            AttackCallback(validation, PGD(0.1, n_iter=2), every=1),
        ],
    ):
        model = small_model([NoisyAlways()])
        fit(model, train, callbacks, epochs=2)
        weights.append(model.get_weights())
    for plain, attacked in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, attacked)


@pytest.mark.parametrize(
    ("attacks", "arguments", "message"),
    [
        ([], {}, "at least one attack"),
        ([FGSM(0.1), FGSM(0.1)], {}, "different names"),
        (PGD(0.1, targeted=True), {}, "targeted"),
        (PGD(0.1), {"every": 0}, "every"),
        (PGD(0.1), {"batch_size": 0}, "batch_size"),
        (PGD(0.1, bounds=(0.0, 0.5)), {}, "inside bounds"),
    ],
)
def test_bad_attacks_are_refused(some, attacks, arguments, message):
    with pytest.raises(ValueError, match=message):
        AttackCallback(some[1], attacks, **arguments)
