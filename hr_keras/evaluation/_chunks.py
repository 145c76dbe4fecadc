"""Evaluates examples chunk by chunk: progress, resuming, and results example by example."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from hr_keras import training
from hr_keras._core.examples import Chunk, Examples
from hr_keras._core.files import Path
from hr_keras._core.finished import Finished, Results, find_model_digest
from hr_keras._core.runtime import collect_versions
from hr_keras.attacks import Attack
from hr_keras.evaluation._spread import find_strategy, spread


def evaluate(
    function: Callable[[Chunk], Results],
    model: keras.Model,
    examples: Examples,
    batch_size: int,
    progress: bool = False,
    finished: Finished | None = None,
    visit: Callable[[Chunk, Results], None] = lambda chunk, results: None,
    strategy: Any = None,
) -> Results:
    """Computes results of all examples, one chunk after another.

    Args:
        function: Computes arrays with the examples of a chunk on axis 0.
        model: The model that `function` evaluates.
        examples: Images and labels.
        batch_size: Examples in one compiled step.
        progress: Whether to show a progress bar.
        finished: Results that need not be computed again, and where to write new ones.
        visit: Is called with each chunk and its results, in order. Chunks of other workers come
            without images.
        strategy: A `tf.distribute` strategy, over whose devices chunks are spread. Default: that
            of the model.

    Returns:
        The arrays, those of all chunks joined.
    """
    parts: list[Results] = []
    chunks = examples.read(batch_size)
    with show_progress(progress) as show, saved(finished):
        for chunk, results in spread(function, chunks, model, finished, strategy):
            parts.append(results)
            visit(chunk, results)
            show(chunk)
        if finished is not None:
            finished.check_end()
    if finished is not None:  # the chief has written the file before anybody reads it again
        training.from_chief(0, find_strategy(model, strategy))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def saved(finished: Finished | None) -> Iterator[None]:
    """Writes the file of finished examples when the block ends, also by an error."""
    try:
        yield
    finally:
        if finished is not None:
            finished.write()


def describe(value: Any) -> Any:
    """Returns what an argument is, as JSON can hold it, so that a later process knows it again.

    Raises:
        ValueError: For a function, which cannot be told from another one.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [describe(part) for part in value]
    if isinstance(value, keras.Model):
        return find_model_digest(value)
    if isinstance(value, Attack):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"attack": kind} | {name: describe(getattr(value, name)) for name in fields}
    if isinstance(value, keras.losses.Loss):
        return {
            "loss": f"{type(value).__module__}.{type(value).__qualname__}",
            **value.get_config(),
        }
    raise ValueError(
        "`resume` needs arguments that a later process recognizes. An objective must be a name, "
        f"such as 'ce', or a keras.losses.Loss. Received: {value!r}"
    )


def open_finished(
    resume: Path | None, model: keras.Model, settings: dict[str, Any], strategy: Any = None
) -> Finished | None:
    """Opens a file of finished examples of a model, if there is a path.

    Args:
        resume: The file, or `None`.
        model: A Keras classifier.
        settings: What else the results depend on, see `describe`.
        strategy: Of its workers the chief writes the file. Default: that of the model.
    """
    if resume is None:
        return None
    versions = collect_versions()
    packages = {name: versions[name] for name in ("hr_keras", "keras", "tensorflow")}
    strategy = find_strategy(model, strategy)
    writes = strategy is None or training.is_chief(strategy)
    settings = {name: describe(value) for name, value in settings.items()}
    return Finished(resume, settings | {"model": find_model_digest(model)} | packages, writes)


@contextlib.contextmanager
def show_progress(progress: bool) -> Iterator[Callable[[Chunk], None]]:
    """Shows how many examples are done and the time left, on standard error.

    Yields:
        A function to call with each chunk when it is done.
    """
    if not progress:
        yield lambda chunk: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.fields[examples]:,} examples,"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=None, examples=0)

        def show(chunk: Chunk) -> None:
            done = chunk.first_index + len(chunk.labels)
            total = None if chunk.share is None else 1.0
            shown.update(task, total=total, completed=chunk.share or 0.0, examples=done)

        yield show


def check_distinct(argument: str, values: tuple[Any, ...]) -> None:
    """Raises a ValueError unless there is at least one value and none twice."""
    if not values or len(set(values)) < len(values):
        raise ValueError(
            f"`{argument}` must hold at least one value and none twice. Received: {values}"
        )
