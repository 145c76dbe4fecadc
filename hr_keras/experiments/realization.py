"""One realization: train one model by a protocol, attack its test set, keep the result.

A realization is identified by `(loss, index)` in a run folder. It goes on where it was
interrupted, with the same bits as if it had not been: the state at the end of every epoch
is in one file, and the order of the data depends on seed and epoch alone.

With several workers the chief alone writes; the others only take their part in the training.
"""

import json
import math
import pathlib
import time

import keras
import numpy as np

from hr_keras import callbacks, datasets, evaluation, metrics, models, training
from hr_keras._core import runtime
from hr_keras._core.files import replacing, write_atomically
from hr_keras.attacks.objectives import ROUTES
from hr_keras.experiments import fitting, measurements
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.protocol import LOSSES
from hr_keras.losses import HRLoss


def run(protocol, loss, index, folder, data_dir=None, on_epoch=None):
    """Train and attack one model, or load the result if that was done before.

    Args:
        protocol: a `Protocol`.
        loss: `"ce"` or `"hr"`, what to train on.
        index: number of the realization; seed = `protocol.seed + index`.
        folder: run folder; gets `realization-{index}-{loss}.json`, the trained model as
            `.keras`, and while it trains a checkpoint.
        data_dir: where tensorflow-datasets has its data.
        on_epoch: called with the number of epochs done, after each one, and once at the
            start where training goes on or was done before.

    Returns:
        A dict: `loss, index, seed, history, test, test_size, confusion, terms, seconds,
        versions`; `test` is a list of rows `through, attack, epsilon, accuracy,
        zero_gradient_share`; for `confusion` and `terms` see `measurements`. Where the protocol
        says `evaluated_on="validation"`, `validation, validation_size` are in place of these
        four. `None` in a worker that is not the chief.

    Raises:
        ValueError: for an unknown loss; if training goes on from a checkpoint that not every
            worker sees.
    """
    if loss not in LOSSES:
        raise ValueError(f"`loss` must be one of {LOSSES}. Received: {loss!r}")
    path = result_path(folder, loss, index)
    strategy = training.get_strategy(protocol.strategy)  # before any other TensorFlow
    chief = training.is_chief(strategy)
    if training.from_chief(path.exists(), strategy):
        if on_epoch is not None:
            on_epoch(protocol.epochs)
        return _read_result(path, protocol) if chief else None
    started = time.perf_counter()
    seed = protocol.seed + index
    data = load(protocol, seed, data_dir)
    checkpoint = Checkpoint(path.with_suffix(".checkpoint.npz"), on_epoch, writes=chief)
    model = train(protocol, loss, seed, data, checkpoint)
    if not chief:
        return None
    _check_finite(model, protocol, path)
    result = {
        "loss": loss,
        "index": index,
        "seed": seed,
        "history": _history(checkpoint.epochs),
        **_evaluate(protocol, model, data),
        "seconds": round(checkpoint.seconds + time.perf_counter() - started, 1),
        "versions": runtime.collect_versions(),
    }
    with replacing(path.with_suffix(".keras")) as temporary:
        model.save(temporary)
    write_atomically(path, measurements.result_json(result))
    checkpoint.delete()
    return result


def _check_finite(model, protocol, path):
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError(
            f"{path.stem}: the training has diverged, its weights are not finite, and there is "
            "nothing to attack. Choose a learning rate lower than "
            f"{protocol.learning_rate:g}, and another output folder."
        )


def result_path(folder, loss, index):
    """The file of a result, which is there once the model is trained and attacked."""
    return pathlib.Path(folder) / f"realization-{index}-{loss}.json"


def load(protocol, seed, data_dir=None):
    """The data of a protocol; training images as they are stored: they are the most of it."""
    data = datasets.load(protocol.dataset, protocol.validation, seed, data_dir, dtype=None)
    test = _decoded(data.test) if protocol.evaluated_on == "test" else None  # out of reach
    return data._replace(validation=_decoded(data.validation), test=test)


def _decoded(split):
    return datasets.Split(datasets.to_unit_interval(split.images), split.labels)


def _read_result(path, protocol):
    try:
        result = json.loads(path.read_bytes())
        size = f"{protocol.evaluated_on}_size"
        if not {"loss", "index", "history", protocol.evaluated_on, size} <= result.keys():
            raise ValueError("a part is missing")
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a result of this version ({error}). Delete it to do it again."
        ) from error
    return result


def build(protocol, loss, seed, data):
    """The compiled model of a protocol, in the scope of its strategy."""
    make = {"mnist_cnn": models.mnist_cnn, "resnet8": models.resnet8}[protocol.model]
    strategy = training.get_strategy(protocol.strategy)
    by_keras = not training.is_multi_worker(strategy)
    if by_keras and protocol.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"`batch_size` must be a multiple of the {strategy.num_replicas_in_sync} replicas: "
            f"Keras fails on a first batch that they can't divide. Received: {protocol.batch_size}"
        )
    with strategy.scope():
        model = make(
            data.train.images.shape[1:],
            data.num_classes,
            mean_image=_mean_image(data.train.images) if protocol.mean_image else None,
            seed=seed,
        )
        steps = fitting.steps(data.train, protocol.batch_size)
        optimizer = _optimizer(protocol, steps)
        optimizer.build(model.trainable_variables)
        model.compile(
            optimizer,
            loss=HRLoss(protocol.alpha) if loss == "hr" else "sparse_categorical_crossentropy",
            metrics=["accuracy", metrics.ErrorBound(protocol.alpha)],
            steps_per_execution=steps,
        )
    return model


def _mean_image(images):
    mean = images.mean(axis=0, dtype="float64")
    return mean / 255 if images.dtype == "uint8" else mean


def _optimizer(protocol, steps):
    """The optimizer of a protocol; its steps, which a checkpoint keeps, lead the schedule."""
    make = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[protocol.optimizer]
    if not protocol.schedule:
        return make(protocol.learning_rate)
    return make(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps - 1 for epoch, _ in protocol.schedule],  # up to and with this step
            [
                protocol.learning_rate * factor
                for factor in (1.0, *dict(protocol.schedule).values())
            ],
        )
    )


def train(protocol, loss, seed, data, checkpoint):
    """The model of a protocol, trained from where `checkpoint` stands to the last epoch."""
    model = build(protocol, loss, seed, data)
    checkpoint.restore(model)
    done = len(checkpoint.epochs)
    _check_same_start(done, checkpoint.path, model.distribute_strategy)
    if done < protocol.epochs:
        callbacks = [*_attacks(protocol, data.validation), checkpoint]
        fitting.fit(model, data, protocol.batch_size, seed, done, protocol.epochs, callbacks)
    return model


def _attacks(protocol, validation):
    """Attacks on the validation split while the model trains: exactly, and as published."""
    prefixes = {"logits": "val_fgsm", "probabilities": "val_published_fgsm"}
    return [
        callbacks.FGSMCallback(
            validation,
            epsilons=[epsilon for epsilon in protocol.epsilons if epsilon > 0],
            every=protocol.attack_every,
            through=through,
            prefix=prefixes[through],
        )
        for through in ROUTES
    ]


def _check_same_start(done, path, strategy):
    chief_done = training.from_chief(done, strategy)
    if training.any_worker(done != chief_done, strategy):
        raise ValueError(
            "All workers must go on from the same checkpoint: put the run folder where each of "
            f"them sees it. Received: {path.name} after {done} epochs here, {chief_done} at the "
            "chief"
        )


def _evaluate(protocol, model, data):
    """What is kept of a trained model, on the split that the protocol says."""
    split = getattr(data, protocol.evaluated_on)
    kept = {
        protocol.evaluated_on: _attack(protocol, model, split),
        f"{protocol.evaluated_on}_size": len(split.images),
    }
    if protocol.evaluated_on == "test":
        kept |= measurements.measure(protocol, model, data)
    return kept


def _attack(protocol, model, split):
    rows = []
    for through in ROUTES:
        swept = evaluation.sweep(model, *split, LOSSES, protocol.epsilons, through)
        rows += [
            {
                "through": through,
                "attack": attack,
                "epsilon": epsilon,
                "accuracy": accuracy,
                "zero_gradient_share": swept.zero_gradient_share[attack],
            }
            for (attack, epsilon), accuracy in swept.accuracy.items()
        ]
    return rows


def _history(epochs):
    """One list a key; a value that is not a number, on an epoch without attack, is None."""
    keys = list(dict.fromkeys(key for logs in epochs for key in logs))
    return {
        key: [value if math.isfinite(value := logs[key]) else None for logs in epochs]
        for key in keys
    }
