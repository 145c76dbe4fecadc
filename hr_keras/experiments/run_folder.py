"""Run folders: the only module that knows file names, and how results become tables."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hr_keras._core import files
from hr_keras.experiments.methods import METHODS
from hr_keras.experiments.protocol import Protocol
from hr_keras.experiments.result import (
    Accuracy,
    Confidence,
    ErrorTerms,
    Result,
    ScaledAccuracy,
)

if TYPE_CHECKING:
    import pandas as pd


class RunFolder:
    """A folder of results of one protocol.

    Args:
        path: A run folder that exists; see `create` for a new one.

    Raises:
        ValueError: If it is not a run folder, or its protocol is damaged.

    Example:

    ```python
    from hr_keras.experiments.protocol import from_preset
    from hr_keras.experiments.run_folder import RunFolder

    folder = RunFolder.create(tmp_path / "run", from_preset("quick"))
    accuracies = folder.accuracies()  # a pandas DataFrame, here without rows
    means = accuracies.groupby(["method", "attack", "through", "epsilon"])["accuracy"].mean()
    ```
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        if not self.is_run_folder(self.path):
            raise ValueError(f"{self.path} is not a run folder: it has no {_PROTOCOL}.")
        self.protocol = _read_protocol(self.path / _PROTOCOL)
        self._data_name = self.protocol.data_name
        self._decoded: dict[pathlib.Path, tuple[bytes, Result]] = {}  # a page asks 24 times

    @staticmethod
    def is_run_folder(path: str | pathlib.Path) -> bool:
        """Returns whether `path` is a run folder."""
        return (pathlib.Path(path) / _PROTOCOL).is_file()

    @staticmethod
    def find_in(path: str | pathlib.Path) -> list[pathlib.Path]:
        """Returns the run folders directly inside `path`, by name."""
        return sorted(found.parent for found in pathlib.Path(path).glob(f"*/{_PROTOCOL}"))

    @classmethod
    def create(cls, path: str | pathlib.Path, protocol: Protocol) -> "RunFolder":
        """Makes `path` a run folder of `protocol`, or opens it if it is one.

        Realizations, methods, `data_label`, and the learning rates of methods that have not
        trained here may change; everything else must be equal. Without a `data_label` that of the
        folder is kept.

        Args:
            path: A run folder of this protocol, an empty folder, or one that does not exist.
            protocol: The protocol.

        Raises:
            ValueError: If the folder holds another protocol, or something else.
        """
        path = pathlib.Path(path)
        if cls.is_run_folder(path):
            before = _read_protocol(path / _PROTOCOL)
            _check_same(path, before, protocol)
            label = protocol.data_label or before.data_label
            protocol = dataclasses.replace(protocol, data_label=label)
        elif path.is_file() or (path.is_dir() and files.holds_anything(path)):
            raise ValueError(
                f"{path} is not a run folder (it has no {_PROTOCOL}) and is not empty. "
                "Choose another output folder; nothing in it was changed."
            )
        text = protocol.to_json()
        if not cls.is_run_folder(path) or (path / _PROTOCOL).read_text() != text:
            files.write_atomically(path / _PROTOCOL, text)
        return cls(path)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes out of the folder; see `hr_keras._core.files.lock_folder`."""
        return files.lock_folder(self.path)

    def model_path(self, method: str, realization: int) -> pathlib.Path:
        """Returns where the trained model is kept."""
        return self.path / f"{_stem(method, realization)}.keras"

    def checkpoint_path(self, method: str, realization: int) -> pathlib.Path:
        """Returns where the state of unfinished training is kept."""
        return self.path / f"{_stem(method, realization)}.checkpoint.npz"

    def result_path(self, method: str, realization: int) -> pathlib.Path:
        """Returns where a result is kept."""
        return self.path / f"{_stem(method, realization)}.json"

    def has_result(self, method: str, realization: int) -> bool:
        """Returns whether a model is trained and measured."""
        return self.result_path(method, realization).exists()

    def read_result(self, method: str, realization: int) -> Result:
        """Returns a result.

        Raises:
            ValueError: If its file is damaged or belongs to another model.
        """
        path = self.result_path(method, realization)
        try:
            content = path.read_bytes()
            before, result = self._decoded.get(path, (None, None))
            if result is None or before != content:
                result = Result.from_json(content)
            if (result.method, result.realization) != (method, realization):
                raise ValueError(f"it is of {_stem(result.method, result.realization)}")
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a result of this version: {error}. Delete it to train this model "
                "again."
            ) from error
        self._decoded[path] = (content, result)
        return result

    def write_result(self, result: Result) -> None:
        """Writes a result in place of an earlier one of the same model."""
        path = self.result_path(result.method, result.realization)
        files.write_atomically(path, result.to_json())

    def results(self) -> list[Result]:
        """Returns the results that exist, of the protocol's methods and realizations."""
        return [
            self.read_result(method, realization)
            for realization in range(self.protocol.realizations)
            for method in self.protocol.methods
            if self.has_result(method, realization)
        ]

    def write(self, stem: str, **contents: str | bytes) -> None:
        """Writes files beside the results.

        Args:
            stem: Name of the files without the ending.
            contents: Content for each ending, such as `md="…"`.
        """
        for ending, content in contents.items():
            files.write_atomically(self.path / f"{stem}.{ending}", content)

    def accuracies(self) -> "pd.DataFrame":
        """Returns a row for each model, attack, route and ε.

        Columns: dataset, method, realization, and those of `Accuracy`.
        """
        rows = [
            self._identity(result) | dataclasses.asdict(accuracy)
            for result in self.results()
            for accuracy in result.accuracies
        ]
        return _frame(rows, [field.name for field in dataclasses.fields(Accuracy)])

    def histories(self) -> "pd.DataFrame":
        """Returns a row for each model, epoch and metric.

        Columns: dataset, method, realization, epoch (from 1), metric, value (NaN on epochs
        without one).
        """
        rows = [
            self._identity(result) | {"epoch": epoch, "metric": metric, "value": value}
            for result in self.results()
            for metric, values in result.history.items()
            for epoch, value in enumerate(values, 1)
        ]
        return _frame(rows, ["epoch", "metric", "value"]).astype({"value": "float64"})

    def confusions(self) -> "pd.DataFrame":
        """Returns a row for each model, attack and entry of its confusion matrix.

        Columns: dataset, method, realization, attack, through, epsilon, decision, label,
        probability (NaN for a class without images).
        """
        rows = [
            self._identity(result)
            | {"attack": one.attack, "through": one.through, "epsilon": one.epsilon}
            | {"decision": decision, "label": label, "probability": probability}
            for result in self.results()
            for one in result.confusions
            for decision, row in enumerate(one.matrix)
            for label, probability in enumerate(row)
        ]
        columns = ["attack", "through", "epsilon", "decision", "label", "probability"]
        return _frame(rows, columns).astype({"probability": "float64"})

    def error_terms(self) -> "pd.DataFrame":
        """Returns a row for each model, split and term of Proposition 1.

        Columns: dataset, method, realization, split, examples, classes, label_smoothing,
        quantity (`"error"`, `"uncertainty"`, `"entropy"`, `"divergence"`, `"smoothed_error"`,
        `"reversed_divergence"`), alpha (NaN where there is none), value.
        """
        rows = [
            self._identity(result) | row
            for result in self.results()
            for terms in result.error_terms
            for row in _term_rows(terms)
        ]
        columns = ["split", "examples", "classes", "label_smoothing", "quantity", "alpha", "value"]
        return _frame(rows, columns)

    def confidences(self) -> "pd.DataFrame":
        """Returns a row for each model on which confidence was measured.

        Columns: dataset, method, realization, and those of `Confidence`.
        """
        rows = [
            self._identity(result) | dataclasses.asdict(result.confidence)
            for result in self.results()
            if result.confidence is not None
        ]
        return _frame(rows, [field.name for field in dataclasses.fields(Confidence)])

    def saturation(self) -> "pd.DataFrame":
        """Returns a row for each model, factor of its logits, route and ε.

        Columns: dataset, method, realization, and those of `ScaledAccuracy`.
        """
        rows = [
            self._identity(result) | dataclasses.asdict(scaled)
            for result in self.results()
            for scaled in result.saturation
        ]
        found = _frame(rows, [field.name for field in dataclasses.fields(ScaledAccuracy)])
        return found.astype({"wanted_confidence": "float64"})

    def _identity(self, result: Result) -> dict[str, Any]:
        return {
            "dataset": self._data_name,
            "method": result.method,
            "realization": result.realization,
        }


_PROTOCOL = "protocol.json"


def _stem(method: str, realization: int) -> str:
    return f"realization-{realization}-{method}"


def _read_protocol(path: pathlib.Path) -> Protocol:
    try:
        return Protocol.from_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error


def _check_same(path: pathlib.Path, before: Protocol, now: Protocol) -> None:
    changes = [
        f"{name}={getattr(before, name)!r} in it, {getattr(now, name)!r} now"
        for name in before.differences(now)
    ]
    changes += [
        f"{name} trained with learning rate {before.find_learning_rate(name):g}, "
        f"{now.find_learning_rate(name):g} now"
        for name in METHODS
        if before.find_learning_rate(name) != now.find_learning_rate(name)
        and list(path.glob(f"realization-*-{name}.*"))
    ]
    if changes:
        raise ValueError(
            f"{path} holds results of a different protocol: {'; '.join(changes)}. "
            "Choose another output folder; nothing in it was changed."
        )


def _term_rows(terms: ErrorTerms) -> Iterator[dict[str, Any]]:
    shared = {
        name: getattr(terms, name) for name in ("split", "examples", "classes", "label_smoothing")
    }
    for quantity in ("error", "uncertainty", "entropy", "smoothed_error"):
        value = getattr(terms, quantity)
        yield shared | {"quantity": quantity, "alpha": float("nan"), "value": value}
    for quantity in ("divergence", "reversed_divergence"):
        for alpha, value in getattr(terms, quantity):
            yield shared | {"quantity": quantity, "alpha": alpha, "value": value}


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows, columns=["dataset", "method", "realization", *columns])
