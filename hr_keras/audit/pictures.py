"""The adversarial examples that an audit shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from hr_keras._core.examples import Chunk
from hr_keras._core.inputs import join_examples
from hr_keras.attacks import Attack, Task
from hr_keras.audit.result import EncodedImage, Picture

PICTURES = 8


class Candidates:
    """The first fooled examples, of as many classes as possible, kept while data are streamed."""

    def __init__(self) -> None:
        self._firsts: dict[int, tuple[int, Any]] = {}  # class → index and image
        self._others: list[tuple[int, int, Any]] = []

    def add(self, chunk: Chunk, labels: np.ndarray, fooled: np.ndarray) -> None:
        """Keeps some of the examples of a chunk that are fooled, bool `(n,)`."""
        for k in np.flatnonzero(fooled[: len(chunk.images)]):  # other workers have theirs
            if len(self._firsts) == PICTURES:
                return
            label, index, image = (
                int(labels[k]),
                chunk.first_index + int(k),
                chunk.images[k : k + 1],
            )
            if label not in self._firsts:
                self._firsts[label] = index, image.copy()
            elif len(self._others) < PICTURES:
                self._others.append((label, index, image.copy()))

    def make_task(self, model: keras.Model, batch_size: int) -> Task | None:
        """Returns the chosen examples, in the order of the data; `None` if none is fooled."""
        firsts = [(index, label, image) for label, (index, image) in self._firsts.items()]
        others = [(index, label, image) for label, index, image in self._others]
        chosen = sorted((*firsts, *others)[:PICTURES], key=lambda one: one[0])
        if not chosen:
            return None
        indices, labels, images = zip(*chosen, strict=True)
        attacked, more = join_examples(images)
        numbers = (np.array(labels, "int32"), np.array(indices))
        return Task(model, attacked, *numbers, batch_size, others=more).predict()


def make_pictures(task: Task | None, attacks: Sequence[Attack]) -> tuple[Picture, ...]:
    """Shows each example with the images of the first attack that fools the model with it."""
    pictures: list[Picture] = []
    for attack in attacks:
        if task is None or len(task.images) == 0:
            break
        outcome = attack.attempt(task)
        done = np.asarray(outcome.fooled)
        if done.any():
            pictures += _draw(task.select(done), outcome.images[done], attack.name)
        task = task.select(~done)
    return tuple(sorted(pictures, key=lambda picture: picture.example))


def _draw(task: Task, adversarial: np.ndarray, attack: str) -> Iterator[Picture]:
    attacked = task.replace(images=adversarial, logits=None).predict()
    for k, example in enumerate(task.indices):
        yield Picture(
            int(example),
            attack,
            int(task.labels[k]),
            *_decide(np.asarray(task.logits)[k]),
            *_decide(np.asarray(attacked.logits)[k]),
            EncodedImage.encode(task.images[k]),
            EncodedImage.encode(adversarial[k]),
        )


def _decide(logits: np.ndarray) -> tuple[int, float | None]:
    """The decision and its probability, `None` if that is not finite."""
    exponents = np.exp(logits.astype("float64") - logits.max())
    probability = float(exponents.max() / exponents.sum())
    return int(logits.argmax()), probability if np.isfinite(probability) else None
