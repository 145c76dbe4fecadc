"""A file of finished examples, with which an interrupted evaluation resumes."""

import contextlib
import hashlib
import io
import itertools
import json
import pathlib
import time
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from hr_keras._core.examples import Chunk
from hr_keras._core.files import Path, write_atomically
from hr_keras._core.inputs import Inputs

Results = dict[str, np.ndarray]

_VERSION = 1
_PREFIX = "result_"  # of the names of arrays in the file
# Share of the time that may be spent on writing the file.
_WRITING = 0.02


class Finished:
    """Results of the examples that are finished, in an `.npz` file.

    Args:
        path: The file. It need not exist.
        settings: What the results depend on apart from the examples, as JSON can hold it. A file
            of other settings is refused.
        writes: Whether to write the file. Default `True`.

    Raises:
        ValueError: If the file holds something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any], writes: bool = True) -> None:
        self._path, self._writes = pathlib.Path(path), writes
        self._settings = json.loads(json.dumps(settings | {"version": _VERSION}, default=str))
        self._digests: list[str] = []
        self._parts: list[Results] = []
        self._notes: dict[str, Any] = {}
        self._written, self._seconds = 0.0, 0.0
        if self._path.exists():
            self._read()
        self._found, self._next = len(self._parts), 0

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, chunk: Chunk, digest: str) -> Results | None:
        """Returns the results of the next chunk that was not asked for, `None` if it has none.

        Args:
            chunk: Examples.
            digest: Of their images and labels.

        Raises:
            ValueError: If the file holds results of other examples.
        """
        if self._next >= self._found:
            return None
        if self._digests[self._next] != digest:
            raise ValueError(
                f"{self._path} holds results of other examples than those from "
                f"{chunk.first_index} to {chunk.first_index + len(chunk.images) - 1}. A dataset "
                "must be in the same order in every run. Delete the file to start again."
            )
        self._next += 1
        return self._parts[self._next - 1]

    def add(self, digest: str, results: Results) -> None:
        """Adds the results of a chunk, and writes the file if that takes little of the time."""
        self._digests.append(digest)
        self._parts.append(results)
        if (time.monotonic() - self._written) * _WRITING >= self._seconds:
            self.write()

    def note(self, name: str, function: Callable[[], Any]) -> Any:
        """Returns a value that JSON can hold: that in the file, or by `function`."""
        if name not in self._notes:
            self._notes[name] = function()
            self.write()
        return self._notes[name]

    def check_end(self) -> None:
        """Raises a ValueError if the file holds more chunks than were asked for."""
        if self._next < self._found:
            raise ValueError(
                f"{self._path} holds results of more examples than the data have now. Delete it "
                "to start again."
            )

    def write(self) -> None:
        """Writes the file, whole or not at all, unless nothing is finished yet."""
        if not (self._writes and (self._parts or self._notes)):
            return
        started = time.monotonic()
        about = {
            "settings": self._settings,
            "notes": self._notes,
            "digests": self._digests,
            "sizes": [len(next(iter(part.values()))) for part in self._parts],
        }
        names = self._parts[0] if self._parts else ()
        joined = {f"{_PREFIX}{k}": np.concatenate([p[k] for p in self._parts]) for k in names}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=np.array(json.dumps(about)), **joined)  # type: ignore[arg-type]
        write_atomically(self._path, buffer.getvalue())
        self._written = time.monotonic()
        self._seconds = self._written - started

    def _read(self) -> None:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = {
                    name.removeprefix(_PREFIX): file[name]
                    for name in file.files
                    if name.startswith(_PREFIX)
                }
            settings, self._notes = dict(about["settings"]), dict(about["notes"])
            self._digests = list(map(str, about["digests"]))
            ends = np.cumsum(np.array(about["sizes"], int))
            if len(ends) != len(self._digests) or any(
                len(array) != (ends[-1] if len(ends) else 0) for array in arrays.values()
            ):
                raise ValueError("its parts do not fit each other")
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self._path} is not a file of finished examples, or is damaged: {error}. Choose "
                "another file, or delete it to start again."
            ) from error
        names = {*settings, *self._settings}
        differ = sorted(n for n in names if settings.get(n) != self._settings.get(n))
        if differ:
            raise ValueError(
                f"{self._path} holds finished examples of another evaluation, which differs in "
                f"{', '.join(differ)}. Choose another file, or delete it to start again."
            )
        starts = [0, *ends[:-1]]
        self._parts = [
            {name: array[start:end] for name, array in arrays.items()}
            for start, end in zip(starts, ends, strict=False)
        ]


def find_digest(*arrays: Any) -> str:
    """Returns the SHA-256 of the shapes, types and values of arrays."""
    digest = hashlib.sha256()
    parts = (one.arrays if isinstance(one, Inputs) else (one,) for one in arrays)
    for array in itertools.chain.from_iterable(parts):
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).view("uint8").data)
    return digest.hexdigest()


def find_model_digest(model: keras.Model) -> str:
    """Returns the SHA-256 of the operations of a model, how they are connected, and its weights.

    Names do not count: Keras numbers the layers of a process.
    """
    digest = hashlib.sha256()
    layers = model._flatten_layers()
    every = [one for layer in layers for one in (layer, *getattr(layer, "operations", ()))]
    numbers: dict[str, int] = {}
    for one in every:
        numbers.setdefault(one.name, len(numbers))
    for one in every:
        config: dict[str, Any] = {}
        if hasattr(one, "view_config"):  # see `attack_view`
            config = one.view_config()
        # Of a functional model it says how operations are connected, and their constants.
        elif not isinstance(one, keras.Model) or hasattr(one, "operations"):
            with contextlib.suppress(NotImplementedError):  # the user's own, cannot be saved
                config = one.get_config()
        text = json.dumps(
            _without_names(config, numbers), sort_keys=True, default=lambda x: type(x).__name__
        )
        digest.update(f"{type(one).__name__} {text};".encode())
    for weight in model.weights:
        digest.update(find_digest(keras.ops.convert_to_numpy(weight.value)).encode())
    return digest.hexdigest()


def _without_names(config: Any, numbers: dict[str, int]) -> Any:
    """Returns a configuration with the number of each operation in place of its name."""
    if isinstance(config, dict):
        return {key: _without_names(value, numbers) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_without_names(value, numbers) for value in config]
    return numbers.get(config, config) if isinstance(config, str) else config
