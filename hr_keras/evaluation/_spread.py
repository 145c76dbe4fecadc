"""Spreads chunks of examples over the devices of a `tf.distribute` strategy.

A chunk is computed on one device as it would be on the only one, so that its results are the same
bits. Threads call the same compiled code on their devices. Variables are read from the first
replica.
"""

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import keras
import numpy as np

from hr_keras import training
from hr_keras._core.examples import Chunk
from hr_keras._core.finished import Finished, Results, find_digest
from hr_keras._core.logits import classifier_output
from hr_keras.training.strategy import sum_over_workers

_ERROR = "error"
_here = threading.local()


class _Devices(NamedTuple):
    """Where chunks are computed: devices of this process, and which of the workers it is."""

    names: tuple[str | None, ...] = (None,)
    worker: int = 0
    workers: int = 1
    strategy: Any = None


def spread(
    function: Callable[[Chunk], Results],
    chunks: Iterator[Chunk],
    model: keras.Model,
    finished: Finished | None = None,
    strategy: Any = None,
) -> Iterator[tuple[Chunk, Results]]:
    """Computes results of chunks on all devices of a strategy.

    Chunk number k is computed by worker k mod workers. Every worker reads all examples, and gets
    all results after each round of a chunk for each device.

    Args:
        function: Computes the results of a chunk. What it evaluates in turn is not spread.
        chunks: Chunks of examples.
        model: The model that `function` evaluates.
        finished: Results that need not be computed again.
        strategy: A `tf.distribute` strategy. Default: that of the model.

    Yields:
        Each chunk and its results, in order. The images of chunks of other workers are missing.
    """
    devices = _find_devices(model, find_strategy(model, strategy))
    if finished is not None:
        _check_same(len(finished), devices)
    size = len(devices.names) * devices.workers
    pool = ThreadPoolExecutor(len(devices.names)) if len(devices.names) > 1 else None
    error: Exception | None = None  # other workers must hear of it
    with pool or contextlib.nullcontext():
        while True:
            round_of: list[tuple[Chunk, str, Results | None]] = []
            own: dict[int, Future[Results]] = {}
            try:
                for position, chunk in enumerate(islice(chunks, size)):
                    digest = "" if finished is None else find_digest(chunk.images, chunk.labels)
                    known = None if finished is None else finished.find(chunk, digest)
                    if position % devices.workers != devices.worker:
                        chunk = chunk._replace(images=chunk.images[:0].copy())
                    elif known is None:
                        name = devices.names[position // devices.workers]
                        own[position] = _compute(function, chunk, name, pool)
                    round_of.append((chunk, digest, known))
            except Exception as caught:
                error = caught
            found = _exchange(own, devices, error)
            if not round_of:
                return
            for position, (chunk, digest, known) in enumerate(round_of):
                results = found.get(position) if known is None else known
                if results is None:
                    raise ValueError(
                        "All workers must read the same examples in the same order. Received: no "
                        f"results of the examples from {chunk.first_index} on"
                    )
                try:
                    if finished is not None and known is None:
                        finished.add(digest, results)
                except OSError as caught:  # of the chief, which alone writes
                    error = caught
                yield chunk, results


def find_strategy(model: keras.Model, strategy: Any = None) -> Any:
    """Returns the strategy, or that of the model that a view shows, or `None`."""
    while hasattr(model, "view_config"):
        model = model.model
    return getattr(model, "distribute_strategy", None) if strategy is None else strategy


def _find_devices(model: keras.Model, strategy: Any) -> _Devices:
    inside = getattr(_here, "inside", False)
    if inside or strategy is None or strategy.num_replicas_in_sync < 2:
        return _Devices()
    if classifier_output(model).is_random:  # its random numbers depend on the passes before
        return _Devices()
    names = tuple(strategy.extended.worker_devices)
    return _Devices(names, *training.find_worker(strategy), strategy)


def _compute(
    function: Callable[[Chunk], Results],
    chunk: Chunk,
    device: str | None,
    pool: ThreadPoolExecutor | None,
) -> Future[Results]:
    import tensorflow as tf

    def run() -> Results:
        before, _here.inside = getattr(_here, "inside", False), True
        try:
            with tf.device(device) if device else contextlib.nullcontext():
                return function(chunk)
        finally:
            _here.inside = before

    if pool is not None:
        return pool.submit(run)
    future: Future[Results] = Future()
    try:
        future.set_result(run())
    except Exception as error:  # other workers must hear of it
        future.set_exception(error)
    return future


def _exchange(
    own: dict[int, Future[Results]], devices: _Devices, error: Exception | None
) -> dict[int, Results]:
    """Returns the results of this round by position, those of other workers too.

    Raises:
        Exception: `error`, or that of a result; in the other workers a ValueError that says so.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        if error is not None:
            raise error
        if devices.workers == 1:
            return {position: one.result() for position, one in own.items()}
        for position, one in own.items():
            for name, array in one.result().items():
                arrays[f"{position} {name}"] = array
    except Exception as caught:
        if devices.workers == 1:
            raise
        error = caught
        arrays = {_ERROR: np.array(str(caught))}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    found: dict[int, Results] = {}
    failed = []
    for content in _gather(buffer.getvalue(), devices):
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            for key in file.files:
                if key == _ERROR:
                    failed.append(str(file[key]))
                    continue
                position, name = key.split(" ", 1)
                found.setdefault(int(position), {})[name] = file[key]
    if error is not None:
        raise error
    if failed:
        raise ValueError(failed[0])
    return found


def _gather(content: bytes, devices: _Devices) -> list[bytes]:
    """Returns what each worker has given to this call."""
    row = np.frombuffer(content, "uint8")
    sizes = np.zeros(devices.workers, "int64")
    sizes[devices.worker] = len(row)
    sizes = sum_over_workers(sizes, devices.strategy)
    table = np.zeros((devices.workers, int(sizes.max())), "int64")
    table[devices.worker, : len(row)] = row
    table = sum_over_workers(table, devices.strategy)
    return [line[:size].astype("uint8").tobytes() for line, size in zip(table, sizes, strict=True)]


def _check_same(count: int, devices: _Devices) -> None:
    """Raises a ValueError unless all workers have found the same number of finished chunks."""
    if devices.workers == 1:
        return
    chief = training.from_chief(count, devices.strategy)
    if training.any_worker(count != chief, devices.strategy):
        raise ValueError(
            "The file of finished examples must be in a folder that all workers share. Received: "
            f"{count} finished chunks here, {chief} at the chief"
        )
