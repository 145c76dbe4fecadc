"""Square: random search over square windows, which needs no gradient."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from hr_keras._core.checks import check_count
from hr_keras.attacks import _perturbation, objectives
from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._perturbation import per_example
from hr_keras.attacks._task import State

__all__ = ["Square"]

# Windows halve in area after these queries, of 10,000.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square(IterativeAttack):
    """Searches at random: changes a square window, and keeps the change if it is better.

    ```
    x ← x̃ if L(x̃, y) > L(x, y),  x̃ = x with one window of side √(p·height·width) changed
    ```

    L∞: starts from vertical stripes of ±ε; a window is set to ±ε in each channel. L2: starts
    from a grid of small hills and dales; the mass of one window, and what is left of ε, is
    moved to another. It needs no gradient, so that masked gradients cannot stop it.

    The share p of the pixels in a window is `p_init` at first and is halved after 10, 50, 200,
    500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries.

    Images are `(n, height, width, channels)`, or `(n, height, width)`; vectors `(n, d)` count
    as d × 1 pixels, frames `(n, …, height, width, channels)` as one below the other.

    Costs `n_queries` forward passes a restart, of the examples not yet fooled, and one of all.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: L, the score: `"margin"` (default), as published, or any of `PGD`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"square_margin_0.1"`.
        n_restarts: Attempts, each with other random numbers. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: As for `PGD`. Default `True`.
        n_queries: Images that the model is given for each example. Default 5000.
        p_init: Share of the pixels in the first window, in (0, 1]. Default 0.8.
        rescale_schedule: Whether p has the same course over `n_queries` as over 10,000
            (default), or is halved after the same numbers of queries.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial
          attack via random search"

    Example:
        ```python
        from hr_keras.attacks import Square

        adversarial = Square(0.1, n_queries=20)(model, images, labels)
        ```
    """

    objective: objectives.Identifier = "margin"
    _: KW_ONLY
    n_queries: int = 5000
    p_init: float = 0.8
    rescale_schedule: bool = True
    n_iter: int = field(init=False, repr=False, default=1)

    def __post_init__(self) -> None:
        n_queries = check_count("n_queries", self.n_queries)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"`p_init` must be in (0, 1]. Received: {self.p_init!r}")
        self._normalise(
            n_queries=n_queries,
            n_iter=n_queries,
            p_init=float(self.p_init),
            rescale_schedule=bool(self.rescale_schedule),
        )
        super().__post_init__()

    @property
    def _l2(self) -> bool:
        return self.norm == "l2"

    def start(self, state: State) -> State:
        pictures = _pictures(state.image)
        start = self._grid if self._l2 else self._stripes
        point = start(pictures, state, per_example(state.epsilon, pictures))
        return state._replace(point=self._inside(point, state.image))

    def step(self, model: Any, state: State) -> State:
        state = self.judge(state, *self.predict(model, state))
        pictures, best = _pictures(state.image), _pictures(state.best)
        side = self._side(state.steps, pictures)
        propose = self._move_mass if self._l2 else self._set_window
        point = propose(pictures, best, side, state, per_example(state.epsilon, pictures))
        return state._replace(point=self._inside(point, state.image))

    def _side(self, steps: Any, pictures: Any) -> Any:
        """Finds the side of each example's window `(n,)`, int32."""
        return ops.take(self._sides(*pictures.shape[1:3]), steps)

    def _sides(self, height: int, width: int) -> list[int]:
        """Lists the side of the window after each number of queries, 0 … n_queries."""
        found = []
        scheduled = self.n_iter if self.rescale_schedule else 10_000
        for query in range(self.n_iter + 1):
            halvings = sum(int(query / scheduled * 10_000) > after for after in _HALVINGS)
            side = round(math.sqrt(self.p_init / 2**halvings * height * width))
            if self._l2:  # odd, so that a hill has a top
                side = max(side, 3) + (max(side, 3) % 2 == 0)
            found.append(min(max(side, 1), height, width))
        return found

    def _stripes(self, pictures: Any, state: State, epsilon: Any) -> Any:
        _, _, width, channels = pictures.shape
        sign = _signs(_perturbation.uniform(state.keys, -1, (1, width, channels)))
        return pictures + epsilon * ops.cast(sign, pictures.dtype)

    def _set_window(self, pictures: Any, best: Any, side: Any, state: State, epsilon: Any) -> Any:
        channels = pictures.shape[-1]
        numbers = _perturbation.uniform(state.keys, state.steps, (2 + channels,))
        inside, _ = _window(numbers[:, :2], side, pictures)
        sign = ops.cast(_signs(numbers[:, None, None, 2:]), pictures.dtype)
        return ops.where(inside, pictures + epsilon * sign, best)

    def _grid(self, pictures: Any, state: State, epsilon: Any) -> Any:
        _, height, width, channels = pictures.shape
        hills, tiles, count = _tiled(height, width)
        numbers = _perturbation.uniform(state.keys, -1, (count, 1 + channels))
        turned = ops.take(numbers[:, :, 0], tiles, axis=1) > 0.5
        hills = ops.where(turned, hills[1], hills[0])[..., None]
        mass = hills * _signs(ops.take(numbers[:, :, 1:], tiles, axis=1))
        return self._normalised(pictures, ops.cast(mass, pictures.dtype), epsilon)

    def _move_mass(self, pictures: Any, best: Any, side: Any, state: State, epsilon: Any) -> Any:
        channels = pictures.shape[-1]
        # In 16 bits squares underflow, and so does what keeps a quotient from 0/0.
        dtype = keras.backend.result_type(pictures.dtype, "float32")
        wide = ops.cast(epsilon, dtype)
        numbers = _perturbation.uniform(state.keys, state.steps, (5 + channels,))
        first, corner = _window(numbers[:, :2], side, pictures)
        second, _ = _window(numbers[:, 2:4], side, pictures)
        old = ops.cast(best, dtype) - ops.cast(pictures, dtype)
        hill = self._hill(pictures, side, corner, numbers[:, 4] > 0.5)
        hill = ops.cast(hill[..., None] * _signs(numbers[:, None, None, 5:]), dtype)
        inside = ops.where(first, old, 0.0)
        new = ops.where(first, hill + inside / (1e-12 + _size(inside)), 0.0)
        # what the two windows had, and what was left of ε, goes into the first
        left = ops.maximum(wide**2 - per_example(self.ball.norm(old) ** 2, old), 0.0)
        mass = ops.sqrt(left / channels + _size(ops.where(first | second, old, 0.0)) ** 2)
        new = new / (1e-12 + _size(new)) * mass
        new = ops.where(first, new, ops.where(second, 0.0, old))
        return self._normalised(pictures, ops.cast(new, pictures.dtype), epsilon)

    def _normalised(self, pictures: Any, perturbation: Any, epsilon: Any) -> Any:
        """Adds the perturbation, scaled to size ε, to the pictures."""
        point = pictures + epsilon * self.ball.direction(perturbation)
        return pictures + self.ball.project(point - pictures, epsilon)

    def _inside(self, pictures: Any, images: Any) -> Any:
        """Reshapes pictures to the shape of the images, clipped to the bounds."""
        return ops.clip(ops.reshape(pictures, (-1, *images.shape[1:])), *self.bounds)

    def _hill(self, pictures: Any, side: Any, corner: Any, turned: Any) -> Any:
        """Makes a hill and a dale in each window, `(n, height, width)`; no meaning outside."""
        import tensorflow as tf

        _, height, width, _ = pictures.shape
        sides = sorted(set(self._sides(height, width)))
        largest = sides[-1]
        table = np.zeros((len(sides), 2, largest, largest), "float32")
        for place, size in enumerate(sides):
            table[place, 0, :size, :size] = _hill_and_dale(size)
            table[place, 1, :size, :size] = _hill_and_dale(size).T
        places = np.searchsorted(sides, range(largest + 1)).astype("int32")
        which = tf.gather(places, side) * 2 + tf.cast(turned, tf.int32)
        row = tf.clip_by_value(tf.range(height) - corner[0][:, None], 0, largest - 1)
        column = tf.clip_by_value(tf.range(width) - corner[1][:, None], 0, largest - 1)
        # One index into the flat table: three for `gather_nd` take longer.
        row += which[:, None] * largest
        return tf.gather(table.ravel(), row[:, :, None] * largest + column[:, None, :])


def _pictures(images: Any) -> Any:
    """Reshapes images of any rank to `(n, height, width, channels)`."""
    shape = (*images.shape[1:], 1, 1) if len(images.shape) == 2 else tuple(images.shape[1:])
    shape = (*shape, 1) if len(shape) == 2 else shape
    return ops.reshape(images, (-1, math.prod(shape[:-2]), *shape[-2:]))


def _signs(numbers: Any) -> Any:
    return ops.where(numbers < 0.5, -1.0, 1.0)


def _size(perturbation: Any) -> Any:
    """Computes √Σδ² of each channel, `(n, 1, 1, channels)`."""
    return ops.sqrt(ops.sum(perturbation**2, axis=(1, 2), keepdims=True))


def _window(numbers: Any, side: Any, pictures: Any) -> tuple[Any, list[Any]]:
    """Places a square at random: bool `(n, height, width, 1)`, and its corner, 2 × `(n,)`."""
    corner, inside = [], []
    for axis, length in enumerate(pictures.shape[1:3]):
        places = ops.cast(length - side + 1, "float32")
        first = ops.cast(ops.floor(numbers[:, axis] * places), "int32")
        pixel = ops.arange(length, dtype="int32") - first[:, None]
        corner.append(first)
        inside.append((pixel >= 0) & (pixel < side[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[..., None], corner


def _tiled(height: int, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Makes the first L2 perturbation: hills in both orientations, each pixel's tile, tiles."""
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    first = (height - rows * side) // 2, (width - columns * side) // 2
    hills = np.zeros((2, height, width), "float32")
    tiles = np.zeros((height, width), "int32")
    for row, column in np.ndindex(rows, columns):
        top, left = first[0] + row * side, first[1] + column * side
        place = slice(top, top + side), slice(left, left + side)
        hills[(0, *place)], hills[(1, *place)] = _hill_and_dale(side), _hill_and_dale(side).T
        tiles[place] = row * columns + column
    return hills, tiles, rows * columns


def _hill_and_dale(side: int) -> np.ndarray:
    """Makes a hill above a dale `(side, side)`, of L2 size 1."""
    upper = _pyramid(side // 2, side)
    both = np.concatenate([upper, -_pyramid(side - side // 2, side)])
    return both / np.sqrt((both**2).sum())


def _pyramid(height: int, width: int) -> np.ndarray:
    """Adds up rectangles around the middle, the k-th of height 1 / k², of L2 size 1 together."""
    found = np.zeros((height, width))
    top, left = height // 2, width // 2
    for k in range(1 + max(top, left)):
        found[max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1] += 1 / (k + 1) ** 2
    return found / np.sqrt((found**2).sum()) if found.size else found
