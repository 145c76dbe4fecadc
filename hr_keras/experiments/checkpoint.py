"""The state of training in a file, so that training resumes with the same bits."""

import contextlib
import io
import json
import os
import pathlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from hr_keras._core.decode import decode
from hr_keras._core.files import write_atomically
from hr_keras._core.replicas import gpu_count
from hr_keras._core.runtime import collect_versions, count_threads
from hr_keras.experiments import workers
from hr_keras.experiments.protocol import LATER, MAY_CHANGE, Protocol


@dataclass(frozen=True)
class _State:
    """What a checkpoint holds besides variables."""

    method: str
    seed: int
    protocol: dict[str, Any]
    epochs: list[dict[str, Any]]  # the logs of each epoch, NaN where not due
    seconds: float
    threads: int
    versions: dict[str, str]


class Checkpoint(keras.callbacks.Callback):
    """Writes everything that training needs to resume into one file, after every epoch.

    The file of the epoch before is kept beside it. Keras' `BackupAndRestore` keeps neither the
    history nor the order of the data, and its writes are not atomic.

    Args:
        path: Of the file, `.npz`.
        protocol: Protocol of the training.
        method: Name of the method.
        seed: Seed of the realization.
        on_epoch: Called with the number of epochs done; or `None`.
        writes: Whether this process writes the file. All processes read it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        protocol: Protocol,
        method: str,
        seed: int,
        on_epoch: Callable[[int], None] | None = None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.path = path
        self.previous = path.with_name(f"{path.stem}.previous.npz")
        self.protocol, self.method, self.seed = protocol, method, seed
        self.on_epoch = on_epoch
        self.writes = writes
        self.epochs: list[dict[str, float]] = []  # the logs of each epoch done
        self.seconds = 0.0  # spent by earlier processes
        self._started = time.perf_counter()
        self._is_whole = False  # the file at `path`: if not, it must not replace the one before

    def restore(self, model: keras.Model) -> None:
        """Brings `model` to the state of the last complete file, if there is one.

        Args:
            model: Compiled, with a built optimizer.

        Raises:
            ValueError: If the file is of another model, protocol or seed, of more epochs than the
                protocol has, of another version of this package, Keras or TensorFlow, or on a
                CPU of another number of threads.
        """
        variables = _list_variables(model)
        for path in (self.path, self.previous):
            found = _read(path, variables)
            if found is None:
                continue
            state, values = found
            self._check_owner(state)
            if self.writes:  # other workers may have other machines
                self._check_threads(state.threads)
                self._check_versions(state.versions)
            self._is_whole = path == self.path
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            self.epochs, self.seconds = state.epochs, state.seconds
            if self.on_epoch is not None:
                self.on_epoch(len(self.epochs))
            return

    def _check_owner(self, state: _State) -> None:
        protocol = _describe_protocol(self.protocol, self.method)
        saved = LATER | state.protocol
        differences = [
            f"{name} {before!r}, now {now!r}"
            for name, before, now in (
                ("method", state.method, self.method),
                ("seed", state.seed, self.seed),
                *((name, saved.get(name), protocol[name]) for name in protocol),
            )
            if before != now
        ]
        if len(state.epochs) > self.protocol.epochs:
            differences.append(f"{len(state.epochs)} epochs done, now {self.protocol.epochs}")
        if differences:
            raise ValueError(
                f"{self.path.name} belongs to other training: {'; '.join(differences)}. Delete "
                f"{self.path.with_suffix('')}* to train this model from the start."
            )

    def _check_threads(self, before: int) -> None:
        now = count_threads()
        if before == now or gpu_count() > 0:
            return
        jobs = workers.find_jobs(before)
        hint = f"use `--jobs {jobs}`" if jobs else f"use a machine with {before} cores"
        raise ValueError(
            f"{self.path.name} was trained with {before} threads; now there are {now}, which "
            f"changes the last bits. To resume, {hint}; or delete "
            f"{self.path.with_suffix('')}* to train this model from the start."
        )

    def _check_versions(self, before: dict[str, str]) -> None:
        now = _list_versions()
        differences = [
            f"{name} {before.get(name)}, now {now[name]}"
            for name in now
            if before.get(name) != now[name]
        ]
        if differences:
            raise ValueError(
                f"{self.path.name} was trained with {'; '.join(differences)}: the last bits may "
                f"differ. Use that version, or delete {self.path.with_suffix('')}* to train this "
                "model from the start."
            )

    def delete(self) -> None:
        """Removes the files."""
        for path in (self.path, self.previous):
            path.unlink(missing_ok=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the state."""
        self.epochs.append({key: float(value) for key, value in (logs or {}).items()})
        if self.writes:
            self._write()
        if self.on_epoch is not None:
            self.on_epoch(epoch + 1)

    def _write(self) -> None:
        state = _State(
            method=self.method,
            seed=self.seed,
            protocol=_describe_protocol(self.protocol, self.method),
            epochs=self.epochs,
            seconds=self.seconds + time.perf_counter() - self._started,
            threads=count_threads(),
            versions=_list_versions(),
        )
        variables = {
            f"variable_{k}": keras.ops.convert_to_numpy(variable)
            for k, variable in enumerate(_list_variables(self.model))
        }
        buffer = io.BytesIO()
        np.savez(buffer, state=np.array(json.dumps(asdict(state))), **variables)
        if self._is_whole:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path, self.previous)
        write_atomically(self.path, buffer.getvalue())
        self._is_whole = True


def _read(path: pathlib.Path, variables: list[Any]) -> tuple[_State, list[np.ndarray]] | None:
    """State and values of the variables; `None` where there is no complete file of them."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            state = decode(_State, json.loads(str(saved["state"])))
            values = [saved[f"variable_{k}"] for k in range(len(variables))]
    except Exception:  # damage shows as any of a dozen types
        return None
    fits = all(
        value.shape == tuple(variable.shape) and value.dtype.name == variable.dtype
        for value, variable in zip(values, variables, strict=True)
    )
    return (state, values) if fits else None


def _describe_protocol(protocol: Protocol, method: str) -> dict[str, Any]:
    """What of a protocol determines the training of one model, as JSON keeps it."""
    values = json.loads(json.dumps(asdict(protocol)))
    values["learning_rate"] = protocol.find_learning_rate(method)
    return {name: value for name, value in values.items() if name not in MAY_CHANGE}


def _list_versions() -> dict[str, str]:
    versions = collect_versions()
    return {name: str(versions[name]) for name in ("hr_keras", "keras", "tensorflow")}


def _list_variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]
