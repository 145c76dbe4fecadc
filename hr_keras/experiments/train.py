"""Train and measure the models of a run folder; what is done already is read.

A trial is one model: a method and the number of a realization. It resumes after an interruption
with the same bits: the state after every epoch is in one file, and the order of the data depends
on seed and epoch alone. With several workers only the chief writes.
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from hr_keras import datasets, training
from hr_keras._core.files import replacing
from hr_keras._core.replicas import gpu_count
from hr_keras._core.runtime import collect_versions, count_processors
from hr_keras.datasets import Dataset
from hr_keras.experiments import measure, pipeline, workers
from hr_keras.experiments.checkpoint import Checkpoint
from hr_keras.experiments.confidence import measure_confidence
from hr_keras.experiments.fit import train_model
from hr_keras.experiments.methods import BUILT_IN, get_method
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.result import Result
from hr_keras.experiments.run_folder import RunFolder

OnEpoch = Callable[[str, int, int], None]  # method, realization, epochs done
DataDir = str | pathlib.Path | None


def train_folder(
    folder: RunFolder, data_dir: DataDir = None, on_epoch: OnEpoch | None = None, jobs: int = 1
) -> list[Result | None]:
    """Trains and measures every model of a run folder that has no result yet.

    Args:
        folder: A run folder.
        data_dir: Folder of the data sets, see `datasets.load`.
        on_epoch: Called as `on_epoch(method, realization, epochs_done)`; first for what is done.
        jobs: How many models to train at once, see `workers.run_tasks`; 1: in this process, with
            all cores.

    Returns:
        One result for each realization and method. With several workers all of them must make
        this call; all but the chief get a list of `None`.

    Raises:
        ValueError: For more `jobs` than cores, or more than 1 where one model uses several
            devices; if another process works in the folder.
    """
    protocol = folder.protocol
    strategy = training.get_strategy(protocol.strategy)
    if workers.check_jobs(jobs) > 1 and _uses_several_devices(strategy):
        raise ValueError(
            "`jobs` must be 1 where a model trains on several devices or with workers. "
            f"Received: {jobs}"
        )
    trials = [
        (method, realization)
        for realization in range(protocol.realizations)
        for method in protocol.methods
    ]
    report = on_epoch or (lambda method, realization, done: None)
    with folder.lock() if training.is_chief(strategy) else contextlib.nullcontext():
        missing = [trial for trial in trials if not folder.has_result(*trial)]
        for trial in trials:
            if trial not in missing:  # before the reports of the processes
                report(*trial, protocol.epochs)
        if jobs > 1 and missing:
            _prepare_data(protocol, data_dir)
            _check_importable(protocol)
            tasks = [(folder.path, *trial, data_dir) for trial in missing]
            workers.run_tasks(
                _train_in_worker, tasks, jobs, lambda k, done: report(*missing[k], done)
            )
        return [
            train_trial(
                folder, *trial, data_dir, on_epoch if jobs == 1 and trial in missing else None
            )
            for trial in trials
        ]


def _train_in_worker(
    path: pathlib.Path,
    method: str,
    realization: int,
    data_dir: DataDir,
    report: Callable[[int], None],
) -> None:
    def on_epoch(method: str, realization: int, done: int) -> None:
        report(done)

    train_trial(RunFolder(path), method, realization, data_dir, on_epoch)


def _check_importable(protocol: Protocol) -> None:
    """A process of its own knows only the methods of this package."""
    own = [name for name in protocol.methods if name not in BUILT_IN]
    if own:
        raise ValueError(
            f"`jobs` must be 1 for methods that were added to METHODS, which other processes do "
            f"not know. Received: methods {', '.join(own)}"
        )


def _prepare_data(protocol: Protocol, data_dir: DataDir) -> None:
    """Downloads the data set once, not in all processes at once."""
    if protocol.dataset in datasets.NAMES:
        datasets.load(protocol.dataset, data_dir=data_dir)


def choose_jobs(protocol: Protocol) -> int:
    """Returns as many jobs as cores where a model trains on one device that is a CPU, else 1.

    It does not depend on the number of models. Each model gets one thread, so that more
    realizations do not change what is trained.
    """
    several = _uses_several_devices(training.get_strategy(protocol.strategy))
    return 1 if several or gpu_count() > 0 else count_processors()


def _uses_several_devices(strategy: Any) -> bool:
    return training.is_multi_worker(strategy) or strategy.num_replicas_in_sync > 1


def train_trial(
    folder: RunFolder,
    method: str,
    realization: int,
    data_dir: DataDir = None,
    on_epoch: OnEpoch | None = None,
) -> Result | None:
    """Trains and measures one model, or reads its result if that was done before.

    Args:
        folder: A run folder. It gets the result, the trained model, and while the model trains a
            checkpoint.
        method: Name of a method, see `methods.METHODS`.
        realization: Number of the realization. The seed is `protocol.seed + realization`.
        data_dir: Folder of the data sets, see `datasets.load`.
        on_epoch: Called as `on_epoch(method, realization, epochs_done)` after each epoch, and
            once at the start where training resumes or was done before.

    Returns:
        The result; `None` in a worker that is not the chief.

    Raises:
        ValueError: For an unknown method, a checkpoint that not every worker sees, and training
            that diverges.
    """
    get_method(method)
    protocol = folder.protocol
    strategy = training.get_strategy(protocol.strategy)  # before any other use of TensorFlow
    chief = training.is_chief(strategy)

    def report(done: int) -> None:
        if on_epoch is not None:
            on_epoch(method, realization, done)

    if training.from_chief(folder.has_result(method, realization), strategy):
        report(protocol.epochs)
        return folder.read_result(method, realization) if chief else None
    started = time.perf_counter()
    seed = protocol.seed + realization
    data = pipeline.load_data(protocol, seed, data_dir)
    checkpoint = Checkpoint(
        folder.checkpoint_path(method, realization), protocol, method, seed, report, writes=chief
    )
    twin = get_method(method).trains_as
    if training.from_chief(_is_trained(folder, twin, method, realization), strategy):
        model = measure.load_trained_model(folder, twin, realization)
        model = get_method(method).finish_model(model, protocol)
        history = folder.read_result(twin, realization).history
        report(protocol.epochs)
    else:
        model = train_model(protocol, method, seed, data, checkpoint)
        history = _collect_history(checkpoint.epochs)
    if protocol.evaluated_on == "test":  # in a search, other values may do better
        rate = protocol.find_learning_rate(method)
        _check_finite(model, rate, folder.result_path(method, realization).stem)
    result = Result(  # in every worker: they share the examples to attack
        method=method,
        realization=realization,
        seed=seed,
        history=history,
        accuracies=measure.measure_fgsm(protocol, model, getattr(data, protocol.evaluated_on)),
        **_measure_on_test(protocol, model, data),
        seconds=round(checkpoint.seconds + time.perf_counter() - started, 1),
        versions=collect_versions(),
    )
    if not chief:
        return None
    with replacing(folder.model_path(method, realization)) as temporary:
        model.save(temporary)
    folder.write_result(result)
    checkpoint.delete()
    return result


def _is_trained(folder: RunFolder, twin: str, method: str, realization: int) -> bool:
    """Whether the model of another method is this one's too, before it is finished."""
    rate = folder.protocol.find_learning_rate
    return (
        bool(twin)
        and rate(twin) == rate(method)
        and folder.has_result(twin, realization)
        and folder.model_path(twin, realization).exists()
    )


def _measure_on_test(protocol: Protocol, model: keras.Model, data: Dataset) -> dict[str, Any]:
    if protocol.evaluated_on != "test":
        return {"confusions": (), "error_terms": ()}
    return {
        "confusions": measure.measure_confusions(protocol, model, data.test),
        "error_terms": measure.measure_all_error_terms(protocol, model, data),
        "confidence": measure_confidence(protocol, model, data.test),
    }


def _check_finite(model: keras.Model, learning_rate: float, name: str) -> None:
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError(
            f"{name}: training has diverged, its weights are not finite. Choose a learning rate "
            f"lower than {learning_rate:g}, and another output folder."
        )


def _collect_history(epochs: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """A value that is not a number, on an epoch without attack, becomes None."""
    keys = dict.fromkeys(key for logs in epochs for key in logs)
    return {
        key: [value if math.isfinite(value := logs.get(key, math.nan)) else None for logs in epochs]
        for key in keys
    }
