"""What callbacks write between attacks, their keys, and validation data that they refuse."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_callbacks import KEYS, fit, small_model

from hr_keras import evaluation
from hr_keras.attacks import FGSM
from hr_keras.callbacks import AttackCallback, FGSMCallback


@pytest.fixture(scope="module")
def some(digits):
    train, validation = digits.train, digits.validation
    return (
        (train.images[:200], train.labels[:200]),
        (validation.images[:100], validation.labels[:100]),
    )


def saturated_model():
    """Logits so large that the softmax rounds to 0 and 1: its gradient is 0, that of logits not."""
    model = small_model()
    dense = model.layers[-1]
    dense.set_weights([1e4 * weights for weights in dense.get_weights()])
    return model


def test_the_route_reaches_the_attack(some):
    _, validation = some
    model = saturated_model()
    found = {}
    for through in ("logits", "probabilities"):
        callback = FGSMCallback(validation, (0.0, 0.3), every=1, through=through)
        callback.set_model(model)
        callback.on_epoch_end(0, logs := {})
        swept = evaluation.sweep(model, *validation, "ce", (0.0, 0.3), through)
        assert list(logs.values()) == list(swept.accuracy.values())
        found[through] = logs["val_fgsm_ce_0.3_accuracy"] - logs["val_fgsm_ce_0_accuracy"]
    assert found["probabilities"] > found["logits"]


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


@pytest.mark.parametrize("first", [0, 3])
def test_between_attacks_the_last_value_can_be_repeated(some, first):
    """From the first epoch on, so that trackers of a best value never see a NaN."""
    train, validation = some
    callback = FGSMCallback(validation, (0.1,), every=3, between="last")
    callback, recorder = copy.deepcopy(callback), Recorder()  # as tuners do for every trial
    attack = callback._values
    values = iter([0.1, 0.2, 0.3, 0.4])
    callback._values = lambda: {KEYS[0]: next(values)}
    best = keras.callbacks.EarlyStopping(KEYS[0], mode="max", patience=9)
    fit(small_model(), train, [callback, recorder, best], epochs=first + 5, initial_epoch=first)
    assert [logs[KEYS[0]] for logs in recorder.logs] == [0.1, 0.1, 0.2, 0.2, 0.3]
    assert best.best == 0.3
    assert set(attack()) == {KEYS[0]}


def test_keys_without_dots_are_formatted_by_checkpoints(some, tmp_path):
    train, validation = some
    callbacks = [
        FGSMCallback(validation, (0.1,), every=1, decimal_point="_"),
        AttackCallback(validation, FGSM(0.25), every=1, decimal_point="_"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "{val_fgsm_ce_0_1_accuracy:.3f} {val_fgsm_ce_0_25_accuracy:.3f}.keras"
        ),
    ]
    history = fit(small_model(), train, callbacks, epochs=1).history
    values = [history[f"val_fgsm_ce_{epsilon}_accuracy"][0] for epsilon in ("0_1", "0_25")]
    assert [path.name for path in tmp_path.iterdir()] == ["{:.3f} {:.3f}.keras".format(*values)]


class Batches(keras.utils.PyDataset):
    """Some batches of arrays, or batches without an end."""

    def __init__(self, images, labels, num_batches):
        super().__init__()
        self.images, self.labels, self.count = images, labels, num_batches

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, number):
        part = slice(50 * number, 50 * number + 50)
        return self.images[part], self.labels[part]


def test_datasets_are_streamed_and_may_be_of_unknown_length(some):
    """An end must be known, or a number of steps; the copies of tuners share the dataset."""
    train, (images, labels) = some
    stored = np.round(255 * images).astype("uint8")
    dataset = tf.data.Dataset.from_tensor_slices({"pixels": stored, "digit": labels})
    dataset = dataset.filter(lambda _: True).batch(30)
    options = {
        "preprocess": lambda pixels: pixels.astype("float32") / 255,
        "keys": ("pixels", "digit"),
    }
    callbacks = [
        FGSMCallback((images, labels), (0.1,), every=1),
        copy.deepcopy(FGSMCallback(dataset, (0.1,), every=1, prefix="stream", **options)),
        AttackCallback(Batches(images, labels, 2), FGSM(0.1), every=1),
    ]
    history = fit(small_model(), train, callbacks, epochs=2).history
    assert history["stream_ce_0.1_accuracy"] == history[KEYS[0]]
    assert history["val_fgsm_ce_0.1_accuracy"] == history[KEYS[0]]
    for endless in (Batches(images, labels, None), dataset.repeat()):
        with pytest.raises(ValueError, match="without an end"):
            FGSMCallback(endless, **options)
    with pytest.raises(ValueError, match=r"for a tf\.data\.Dataset"):
        FGSMCallback((np.zeros((2, 3)), np.zeros(2)), validation_steps=3)
    assert (
        len(FGSMCallback(dataset, validation_steps=2, **options).examples.read_first(256)[0]) == 60
    )


def test_validation_data_that_change_are_refused(some):
    train, (images, labels) = some
    batches = Batches(images, labels, 2)

    class Shrink(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            batches.count = 1

    callbacks = [AttackCallback(batches, FGSM(0.1), every=1), Shrink()]
    with pytest.raises(ValueError, match=r"`validation_data`.*100 examples at first, 50 now"):
        fit(small_model(), train, callbacks, epochs=2)


IMAGE = np.zeros((28, 28, 1), "float32")
BATCH = (np.zeros((3, 28, 28, 1), "float32"), np.zeros(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGE, 3), r"images\[None\]"),
        ([BATCH, BATCH], "a list of batches"),
        ([BATCH, BATCH, BATCH, BATCH], "a list of 4"),
        (([IMAGE, IMAGE[:5]], [0, 1]), "all of one shape"),
        (([BATCH[0], np.zeros((3, 4))], BATCH[1]), "all of one shape"),
        (({"image": BATCH[0]}, BATCH[1]), "one array.*dict"),
        ({"image": BATCH[0], "label": BATCH[1]}, "dict"),
        (
            tf.data.Dataset.from_tensor_slices({"x": BATCH[0]}).batch(2),
            "not batches of pairs.*dict",
        ),
        (
            tf.data.Dataset.from_tensor_slices(({"x": BATCH[0]}, BATCH[1])).batch(2),
            "two arrays.*dict",
        ),
    ],
)
def test_validation_data_of_another_structure_is_refused_with_one_line(data, message):
    with pytest.raises(ValueError, match=message):
        FGSMCallback(data)


def test_images_that_do_not_fit_the_model_are_found_when_training_begins(some):
    train, (images, labels) = some
    for wrong in (images[:, :20], images[..., None], np.repeat(images, 3, axis=-1)):
        with pytest.raises(ValueError, match=r"takes, \(None, 28, 28, 1\)"):
            fit(small_model(), train, [FGSMCallback((wrong, labels)), keras.callbacks.Callback()])
    callback = FGSMCallback((images[..., 0], labels), (0.1,))  # Keras adds the last axis
    callback.set_model(small_model())
    callback.on_train_begin()


def test_without_a_model_it_says_so(some):
    with pytest.raises(ValueError, match="set_model"):
        FGSMCallback(some[1]).on_epoch_end(0, {})
