"""Build and fit the model of a protocol."""

import pathlib
from typing import Any

import keras

from hr_keras import callbacks, metrics, models, training
from hr_keras.attacks.objectives import ROUTES
from hr_keras.datasets import Dataset, Split
from hr_keras.experiments import pipeline
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.gradient_norms import GradientNorms
from hr_keras.experiments.methods import get_method
from hr_keras.experiments.protocol import Protocol


def train_model(
    protocol: Protocol, method: str, seed: int, data: Dataset, checkpoint: Checkpoint
) -> keras.Model:
    """Trains a model from the state of `checkpoint` to the last epoch.

    Args:
        protocol: A `Protocol`.
        method: Name of a method.
        seed: Of initial weights and data order.
        data: Its training images may be uint8.
        checkpoint: Is restored, and written after each epoch.

    Returns:
        The trained classifier, as its method finishes it.
    """
    classifier, trained = build_model(protocol, method, seed, data)
    checkpoint.restore(trained)
    done = len(checkpoint.epochs)
    _check_same_start(done, checkpoint.path, trained.distribute_strategy)
    if done < protocol.epochs:
        during = [
            *_make_attack_callbacks(protocol, data.validation),
            *_make_gradient_callbacks(protocol, classifier, trained, data.train),
            checkpoint,
        ]
        fit_model(trained, data, protocol.batch_size, seed, done, protocol.epochs, during)
    # Never in a checkpoint: training that resumes after its last epoch comes here once more.
    return get_method(method).finish_model(classifier, protocol)


def build_model(
    protocol: Protocol, method: str, seed: int, data: Dataset
) -> tuple[keras.Model, keras.Model]:
    """Builds the model of a protocol in the scope of its strategy.

    Args:
        protocol: A `Protocol`.
        method: Name of a method.
        seed: Of initial weights.
        data: Gives shape of the images, number of classes, and the mean image.

    Returns:
        The classifier, and the compiled model that trains it: the classifier itself unless the
        method wraps it.
    """
    make = {"mnist_cnn": models.mnist_cnn, "resnet8": models.resnet8}[protocol.model]
    strategy = training.get_strategy(protocol.strategy)
    replicas = strategy.num_replicas_in_sync
    if not training.is_multi_worker(strategy) and protocol.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {replicas} replicas: Keras fails on a first "
            f"batch that they cannot divide. Received: {protocol.batch_size}"
        )
    chosen = get_method(method)
    steps = pipeline.count_steps(data.train, protocol.batch_size)
    mean_image = pipeline.compute_mean_image(data.train.images) if protocol.mean_image else None
    with strategy.scope():
        classifier = make(
            data.train.images.shape[1:], data.num_classes, mean_image=mean_image, seed=seed
        )
        trained = chosen.wrap_model(classifier, protocol)
        _check_warmup(trained, method, protocol.epochs * steps)
        optimizer = _make_optimizer(protocol, protocol.find_learning_rate(method), steps)
        optimizer.build(trained.trainable_variables)
        trained.compile(
            optimizer,
            loss=chosen.make_loss(protocol),
            metrics=["accuracy", metrics.ErrorBound(protocol.alpha)],
            steps_per_execution=steps,
        )
    return classifier, trained


def _check_warmup(trained: keras.Model, method: str, steps: int) -> None:
    """With fewer steps ε never reaches what the protocol says."""
    warmup = getattr(trained, "warmup_steps", 0)
    if steps < warmup:
        raise ValueError(
            f"{method} must train for at least the {warmup} steps in which its ε rises: choose "
            f"more epochs. Received: {steps} steps"
        )


def _make_optimizer(
    protocol: Protocol, learning_rate: float, steps: int
) -> keras.optimizers.Optimizer:
    """The optimizer's step count, which a checkpoint keeps, drives the schedule."""
    make = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[protocol.optimizer]
    if not protocol.schedule:
        return make(learning_rate)
    boundaries = [epoch * steps - 1 for epoch, _ in protocol.schedule]  # the last step before
    factors = (1.0, *(factor for _, factor in protocol.schedule))
    rates = [learning_rate * factor for factor in factors]
    return make(keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates))


def fit_model(
    model: keras.Model,
    data: Dataset,
    batch_size: int,
    seed: int,
    initial_epoch: int,
    epochs: int,
    during: list[keras.callbacks.Callback] | None = None,
) -> keras.callbacks.History:
    """Calls `fit` with batches whose order depends on (seed, epoch), validated every epoch.

    Args:
        model: Compiled by `build_model`.
        data: Its training images may be uint8, `validation` may be `None`.
        batch_size: Of the training.
        seed: Of the order.
        initial_epoch: Number of the first epoch.
        epochs: Number of the epoch after the last.
        during: Keras callbacks. They see epochs, not batches.
    """
    batches = pipeline.make_training_batches(data.train, batch_size, seed, initial_epoch, epochs)
    arguments = {
        "steps_per_epoch": pipeline.count_steps(data.train, batch_size),
        "initial_epoch": initial_epoch,
        "epochs": epochs,
        "validation_data": data.validation and pipeline.make_validation_batches(data.validation),
        "callbacks": during or [],
        "verbose": 0,
    }
    if training.is_multi_worker(model.distribute_strategy):
        return training.fit(model, batches, **arguments)
    return model.fit(batches, shuffle=False, **arguments)


def _make_attack_callbacks(protocol: Protocol, validation: Split) -> list[callbacks.FGSMCallback]:
    """Attack the validation split while a model trains: exactly, and as published."""
    prefixes = {"logits": "val_fgsm", "probabilities": "val_published_fgsm"}
    return [
        callbacks.FGSMCallback(
            validation,
            epsilons=protocol.attack_epsilons,
            every=protocol.attack_every,
            through=through,
            prefix=prefixes[through],
        )
        for through in ROUTES
    ]


def _make_gradient_callbacks(
    protocol: Protocol, classifier: keras.Model, trained: keras.Model, train: Split
) -> list[GradientNorms]:
    """Only where one device trains: replicas would each have a part of the batch."""
    several = trained.distribute_strategy.num_replicas_in_sync > 1
    return [] if several else [GradientNorms(classifier, protocol, train)]


def _check_same_start(done: int, path: pathlib.Path, strategy: Any) -> None:
    chief_done = training.from_chief(done, strategy)
    if training.any_worker(done != chief_done, strategy):
        raise ValueError(
            "All workers must resume from the same checkpoint: put the run folder where each of "
            f"them sees it. Received: {path.name} after {done} epochs here, {chief_done} at the "
            "chief"
        )
