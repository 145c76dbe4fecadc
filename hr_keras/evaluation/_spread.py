"""Spreads chunks of examples over the devices of a `tf.distribute` strategy.

A chunk is computed on one device as it would be on the only one, so that its results are the same
bits. Threads call the same compiled code on their devices. Variables are read from the first
replica.

The threads of a process share the state of random layers. Chunks of a model that draws random
numbers are therefore spread over processes only, and each begins with a state of its own.
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
from hr_keras.training._cluster import wait_beside_workers
from hr_keras.training.strategy import find_other_workers, sum_over_workers

_ERROR = "error"
_here = threading.local()


class _Devices(NamedTuple):
    """Where chunks are computed: devices of this process, and which of the workers it is."""

    names: tuple[str | None, ...] = (None,)
    worker: int = 0
    workers: int = 1
    strategy: Any = None

    @property
    def others(self) -> list[str]:
        """Addresses of the other workers."""
        return [] if self.workers == 1 else find_other_workers(self.strategy)


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

    Raises:
        tf.errors.UnavailableError: If another worker ends meanwhile.
    """
    devices = _find_devices(model, find_strategy(model, strategy))
    if finished is not None:
        _check_same(len(finished), devices)
    size = len(devices.names) * devices.workers
    random_state = None if getattr(_here, "inside", False) else RandomState(model)
    end = 0
    error: Exception | None = None  # other workers must hear of it
    with _open_pool(len(devices.names) if size > 1 else 0) as pool:
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
                        own[position] = _compute(function, chunk, name, pool, random_state)
                    round_of.append((chunk, digest, known))
            except Exception as caught:
                error = caught
            found = _exchange(own, devices, error)
            if not round_of:
                break
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
                end = chunk.first_index + len(chunk.labels)
    if random_state is not None:
        random_state.set(end)  # the next evaluation draws other numbers


def run_beside_workers(function: Callable[[], Any], strategy: Any) -> Any:
    """Returns what a function returns, unless another worker of the strategy ends meanwhile.

    Raises:
        tf.errors.UnavailableError: If one ends.
    """
    if strategy is None or not (others := find_other_workers(strategy)):
        return function()
    with _open_pool(1) as pool:
        work = pool.submit(function)
        wait_beside_workers([work], others)
        return work.result()


@contextlib.contextmanager
def _open_pool(threads: int) -> Iterator[Any]:
    """Opens a pool of threads, `None` of no threads. An error does not wait for their work."""
    if threads == 0:
        yield None
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class RandomState:
    """State of a model's random layers, made of that at first and of the index of an example."""

    def __init__(self, model: keras.Model) -> None:
        variables = getattr(model, "non_trainable_variables", ())
        states = [one for one in variables if one.name == "seed_generator_state"]
        if not (states and model.built and classifier_output(model).is_random):
            states = []  # such as those of dropout, for training
        self._states = [(state, keras.ops.convert_to_numpy(state)) for state in states]

    def set(self, index: int) -> None:
        """Makes the state with which the chunk that begins at an example is computed."""
        for state, first in self._states:
            entropy = [*(int(number) % 2**32 for number in first), index]
            state.assign(np.random.SeedSequence(entropy).generate_state(2).astype(first.dtype))

    def restore(self) -> None:
        """Makes the state at first."""
        for state, first in self._states:
            state.assign(first)


def find_strategy(model: keras.Model, strategy: Any = None) -> Any:
    """Returns the strategy, or that of the model that a view shows, or `None`."""
    while hasattr(model, "view_config"):
        model = model.model
    return getattr(model, "distribute_strategy", None) if strategy is None else strategy


def _find_devices(model: keras.Model, strategy: Any) -> _Devices:
    inside = getattr(_here, "inside", False)
    if inside or strategy is None or strategy.num_replicas_in_sync < 2:
        return _Devices()
    is_random = classifier_output(model).is_random
    names = (None,) if is_random else tuple(strategy.extended.worker_devices)
    return _Devices(names, *training.find_worker(strategy), strategy)


def _compute(
    function: Callable[[Chunk], Results],
    chunk: Chunk,
    device: str | None,
    pool: ThreadPoolExecutor | None,
    random_state: RandomState | None,
) -> Future[Results]:
    import tensorflow as tf

    def run() -> Results:
        before, _here.inside = getattr(_here, "inside", False), True
        if random_state is not None:
            random_state.set(chunk.first_index)
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
        tf.errors.UnavailableError: If another worker has ended.
    """
    if error is None:
        wait_beside_workers(own.values(), devices.others)
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
    sizes = np.zeros(devices.workers, "int64")
    sizes[devices.worker] = len(content)
    sizes = sum_over_workers(sizes, devices.strategy)
    table = np.zeros((devices.workers, -(-int(sizes.max()) // 4)), "uint32")
    table[devices.worker].view("uint8")[: len(content)] = np.frombuffer(content, "uint8")
    table = sum_over_workers(table.astype("int64"), devices.strategy).astype("uint32")
    return [line.tobytes()[:size] for line, size in zip(table, sizes, strict=True)]


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
