"""Arrays of several inputs of a model, of which one is attacked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Inputs:
    """Holds what is attacked and the other inputs, with the examples on axis 0 of each.

    Args:
        attacked: `(n, ...)`.
        others: `(n, ...)` each, in the order of the model.
    """

    attacked: np.ndarray
    others: tuple[np.ndarray, ...]

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All inputs."""
        return self.attacked, *self.others

    @property
    def ndim(self) -> int:
        """Number of axes of what is attacked."""
        return self.attacked.ndim

    def __len__(self) -> int:
        return len(self.attacked)

    def __getitem__(self, rows: Any) -> Self:
        return type(self)(self.attacked[rows], tuple(other[rows] for other in self.others))

    def copy(self) -> Self:
        """Returns a copy of all arrays."""
        return type(self)(self.attacked.copy(), tuple(other.copy() for other in self.others))


def join_examples(parts: Sequence[Any]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Joins arrays, or `Inputs`, along axis 0: what is attacked, and the other inputs."""
    split = [part.arrays if isinstance(part, Inputs) else (part,) for part in parts]
    attacked, *others = (np.concatenate(arrays) for arrays in zip(*split, strict=True))
    return attacked, tuple(others)
