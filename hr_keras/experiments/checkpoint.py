"""The state of training in a file, so that it goes on with the same bits."""

import contextlib
import io
import json
import os
import time

import keras
import numpy as np

from hr_keras._core import replicas, runtime
from hr_keras._core.files import write_atomically
from hr_keras.experiments import jobs


class Checkpoint(keras.callbacks.Callback):
    """Everything that training needs to go on, in one file, after every epoch.

    The file of the epoch before is kept beside it. Keras' `BackupAndRestore` keeps neither the
    history nor the order of the data, and does not write atomically.

    Args:
        path: of the file, `.npz`.
        on_epoch: called with the number of epochs done; or `None`.
        writes: whether this process writes the file. All read it.
    """

    def __init__(self, path, on_epoch=None, writes=True):
        super().__init__()
        self.path = path
        self.previous = path.with_name(f"{path.stem}.previous.npz")
        self.on_epoch = on_epoch
        self.writes = writes
        self.epochs = []  # the logs of each epoch done
        self.seconds = 0.0  # spent by the sessions before this one
        self._started = time.perf_counter()
        self._is_whole = False  # what is at `path`: else it must not displace the one before

    def restore(self, model):
        """Bring `model` to the state of the last whole file, if there is one.

        Raises:
            ValueError: if it was trained on a CPU by another number of threads, or by another
                version of this package, Keras or TensorFlow.
        """
        variables = _variables(model)
        for path in (self.path, self.previous):
            found = _read(path, len(variables))
            if found is None:
                continue
            state, values = found
            if self.writes:  # other workers may have other machines
                self._check_threads(state["threads"])
                self._check_versions(state["versions"])
            self._is_whole = path == self.path
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            self.epochs, self.seconds = state["epochs"], state["seconds"]
            if self.on_epoch is not None:
                self.on_epoch(len(self.epochs))
            return

    def _check_threads(self, before):
        now = runtime.count_threads()
        if before in (None, now) or replicas.gpu_count() > 0:
            return
        fitting = jobs.jobs_for(before)
        way = f"give `--jobs {fitting}`" if fitting else f"take a machine of {before} cores"
        raise ValueError(
            f"{self.path.name} is of training with another number of threads, {before}; now it "
            f"would be {now}, which changes the last bits. To go on, {way}; or delete "
            f"{self.path.with_suffix('')}* to begin this model again."
        )

    def _check_versions(self, before):
        now = _versions()
        differ = [
            f"{name} {before[name]}, now {now[name]}" for name in now if before[name] != now[name]
        ]
        if differ:
            raise ValueError(
                f"{self.path.name} is of training with {'; '.join(differ)}: the last bits may "
                f"differ. Go on with that version, or delete {self.path.with_suffix('')}* to "
                "begin this model again."
            )

    def delete(self):
        """Remove the files."""
        for path in (self.path, self.previous):
            path.unlink(missing_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append({key: float(value) for key, value in (logs or {}).items()})
        if self.writes:
            self._write()
        if self.on_epoch is not None:
            self.on_epoch(epoch + 1)

    def _write(self):
        state = {
            "epochs": self.epochs,
            "seconds": self.seconds + time.perf_counter() - self._started,
            "threads": runtime.count_threads(),
            "versions": _versions(),
        }
        variables = {
            f"variable_{k}": keras.ops.convert_to_numpy(variable)
            for k, variable in enumerate(_variables(self.model))
        }
        buffer = io.BytesIO()
        np.savez(buffer, state=np.array(json.dumps(state)), **variables)
        if self._is_whole:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path, self.previous)
        write_atomically(self.path, buffer.getvalue())
        self._is_whole = True


def _read(path, count):
    """State and values of `count` variables; `None` where there is no whole file."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            state = json.loads(str(saved["state"]))
            made = {"threads": None, "versions": _versions()}  # which an earlier version left out
            made |= {key: state[key] for key in made if key in state}
            state = made | {key: state[key] for key in ("epochs", "seconds")}
            return state, [saved[f"variable_{k}"] for k in range(count)]
    except Exception:  # damage shows as any of a dozen types
        return None


def _versions():
    now = runtime.collect_versions()
    return {name: now[name] for name in ("hr_keras", "keras", "tensorflow")}


def _variables(model):
    return [*model.variables, *model.optimizer.variables]
