"""Perturbations of bounded size: balls, the clip to the pixel bounds, random numbers.

A ball has no size: ε is an argument of what it does, a tensor in compiled code.

The random numbers of an example depend on its key and on what is drawn, and on nothing else.
A generator with a state would give an example other numbers in another batch. Here number j of
draw d is a hash of (key, d, j), so that results depend neither on the batch size nor on the
order of the examples, nor on which of them were fooled before.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from hr_keras._core.checks import Bounds as Bounds
from hr_keras._core.checks import Norm as Norm
from hr_keras._core.checks import check_norm


@dataclass(frozen=True)
class Linf:
    """The ball max |δ| ≤ ε."""

    name: Norm = "linf"

    def norm(self, perturbation: Any) -> Any:
        """Computes max |δ| of each example, `(n, ...)` → `(n,)`."""
        return ops.max(ops.abs(_rows(perturbation)), axis=-1)

    def direction(self, gradients: Any) -> Any:
        """Computes the steepest ascent direction of size 1: see `linf_direction`."""
        return linf_direction(gradients)

    def project(self, perturbation: Any, epsilon: Any) -> Any:
        """Finds the nearest perturbation of size ≤ ε, `(n, ...)` → `(n, ...)`."""
        return ops.clip(perturbation, -epsilon, epsilon)

    def random(self, keys: Any, draw: Any, images: Any) -> Any:
        """Draws uniformly from the ball of size 1, in the shape and dtype of `images`."""
        numbers = uniform(keys, draw, images.shape[1:])
        return ops.cast(2.0 * numbers - 1.0, images.dtype)


@dataclass(frozen=True)
class L2:
    """The ball √Σδ² ≤ ε."""

    name: Norm = "l2"

    def norm(self, perturbation: Any) -> Any:
        """Computes √Σδ² of each example, `(n, ...)` → `(n,)`, float32 or better."""
        rows = _rows(perturbation)
        if rows.dtype != "float64":
            rows = ops.cast(rows, "float32")
        return ops.sqrt(ops.sum(rows**2, axis=-1))

    def direction(self, gradients: Any) -> Any:
        """Divides the gradient, see `finite`, by its norm; 0 where the gradient is 0."""
        gradients = finite(gradients)
        # By the largest first: squares of small gradients underflow.
        largest = per_example(ops.max(ops.abs(_rows(gradients)), axis=-1), gradients)
        scaled = gradients / ops.where(largest > 0, largest, 1.0)
        norm = per_example(self.norm(scaled), gradients)
        return scaled / ops.where(norm > 0, norm, 1.0)

    def project(self, perturbation: Any, epsilon: Any) -> Any:
        """Finds the nearest perturbation of size ≤ ε, `(n, ...)` → `(n, ...)`."""
        norm = per_example(self.norm(perturbation), perturbation)
        return perturbation * ops.minimum(1.0, epsilon / ops.where(norm > 0, norm, 1.0))

    def random(self, keys: Any, draw: Any, images: Any) -> Any:
        """Draws uniformly from the ball of size 1: a direction, and a radius U^(1/d)."""
        shape = images.shape[1:]
        numbers = normal(keys, draw, shape)
        radius = uniform(keys, -1 - draw, (1,))[:, 0] ** (1.0 / math.prod(shape))
        inside = self.direction(numbers) * per_example(radius, numbers)
        return ops.cast(inside, images.dtype)


Ball = Linf | L2
_BY_NAME: dict[str, Ball] = {"linf": Linf(), "l2": L2()}


def get(norm: Any) -> Ball:
    """Returns a ball from its name, see `check_norm`, or the ball that is given.

    Raises:
        ValueError: For anything else.
    """
    if isinstance(norm, (Linf, L2)):
        return norm
    return _BY_NAME[check_norm(norm)]


def finite(gradients: Any) -> Any:
    """Replaces NaN and infinity in gradients `(n, ...)`: pixels with NaN become 0.

    If some pixels of an example are infinite, as at the zero of a square root, only they count:
    they become ±1 and the others 0.
    """
    gradients = ops.where(ops.isnan(gradients), 0.0, gradients)
    infinite = ops.isinf(gradients)
    axes = tuple(range(1, len(gradients.shape)))
    some = ops.any(infinite, axis=axes, keepdims=True)
    return ops.where(some, ops.where(infinite, ops.sign(gradients), 0.0), gradients)


def linf_direction(gradients: Any) -> Any:
    """Computes the steepest ascent direction of L∞ size 1: the sign of the gradient.

    It is 0 where the gradient is 0 or NaN: an attack does not change such pixels.
    """
    return ops.where(ops.isnan(gradients), 0.0, ops.sign(gradients))


def perturb(images: Any, directions: Any, epsilon: Any, bounds: Bounds) -> Any:
    """Computes images + ε·directions, clipped to the pixel bounds.

    Args:
        images: `(n, ...)`.
        directions: `(n, ...)`, of size at most 1.
        epsilon: In the units of `images`; a scalar, or of a shape that multiplies `directions`.
        bounds: `(lowest, highest)` pixel value, numbers or tuples with one for each channel.

    Returns:
        `(n, ...)`, in the dtype of `images`.
    """
    return ops.clip(images + epsilon * directions, *bounds)


def project(ball: Ball, points: Any, images: Any, epsilon: Any, bounds: Bounds) -> Any:
    """Projects points onto the ball of size ε around their images, and into the pixel bounds.

    The clip to the bounds comes last: it moves every pixel towards the image, which is
    inside them, so that the point stays in the ball.
    """
    return ops.clip(images + ball.project(points - images, epsilon), *bounds)


def per_example(values: Any, images: Any) -> Any:
    """Shapes `(n,)` so that it multiplies `images` `(n, ...)`, in the dtype of `images`."""
    return ops.reshape(ops.cast(values, images.dtype), (-1,) + (1,) * (len(images.shape) - 1))


def _rows(perturbation: Any) -> Any:
    return ops.reshape(perturbation, (-1, math.prod(perturbation.shape[1:])))


def random_keys(seed: int, indices: Iterable[Any], attempts: Iterable[Any]) -> np.ndarray:
    """Makes keys `(n, 2)` uint32, one for each (seed, index, attempt).

    Args:
        seed: Integer ≥ 0.
        indices: Integers ≥ 0, `(n,)`: which example.
        attempts: Integers ≥ 0, `(n,)`: which restart.
    """
    rows = [
        np.random.SeedSequence((seed, int(index), int(attempt))).generate_state(2)
        for index, attempt in zip(indices, attempts, strict=True)
    ]
    return np.array(rows, "uint32").reshape(-1, 2)


def uniform(keys: Any, draw: Any, shape: tuple[int, ...]) -> Any:
    """Draws uniformly from [0, 1): float32 of 24 random bits, `(n, *shape)`.

    Args:
        keys: See `random_keys`.
        draw: Which draw with this key, an integer or int32 `(n,)`.
        shape: Shape of the numbers of one example.
    """
    import tensorflow as tf

    position = tf.cast(tf.range(math.prod(shape), dtype=tf.int64), tf.uint32)
    draw = tf.broadcast_to(tf.bitcast(tf.cast(draw, tf.int32), tf.uint32), tf.shape(keys)[:1])
    row = _mixed(keys[:, 0] + draw * _constant(0x9E3779B9))
    bits = _mixed(row[:, None] + position[None] * _constant(0x85EBCA6B))
    bits = _mixed(tf.bitwise.bitwise_xor(bits, keys[:, 1:]))
    numbers = tf.cast(tf.bitwise.right_shift(bits, _constant(8)), tf.float32) * 2.0**-24
    return tf.reshape(numbers, (-1, *shape))


def normal(keys: Any, draw: Any, shape: tuple[int, ...]) -> Any:
    """Draws standard normal float32 `(n, *shape)` by Box and Muller; see `uniform`."""
    pair = uniform(keys, draw, (2, *shape))
    radius = ops.sqrt(-2.0 * ops.log(1.0 - pair[:, 0]))
    return radius * ops.cos(2.0 * math.pi * pair[:, 1])


def _mixed(x: Any) -> Any:
    """Mixes 32 bits with little bias: "lowbias32" of C. Wellons' hash prospector, a bijection."""
    import tensorflow as tf

    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(shift)))
        x = x * _constant(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(16)))


def _constant(value: int) -> Any:
    import tensorflow as tf

    return tf.constant(value, tf.uint32)
