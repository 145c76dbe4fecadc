"""Perturbations of bounded size: balls, and the clip to the pixel bounds.

A ball is a value without a size: ε is an argument of what it does, a tensor in compiled code.
"""

from dataclasses import dataclass

from keras import ops

from hr_keras.attacks import _random_numbers


@dataclass(frozen=True)
class Linf:
    """max |δ| ≤ ε."""

    name: str = "linf"

    def norm(self, perturbation):
        """max |δ| of each example, `(n, ...)` → `(n,)`."""
        return ops.max(ops.abs(_rows(perturbation)), axis=-1)

    def direction(self, gradients):
        """The steepest ascent direction of size 1: see `linf_direction`."""
        return linf_direction(gradients)

    def project(self, perturbation, epsilon):
        """The nearest perturbation of size ≤ ε, `(n, ...)` → `(n, ...)`."""
        return ops.clip(perturbation, -epsilon, epsilon)

    def random(self, keys, draw, images):
        """Uniform in the ball of size 1, of the shape and dtype of `images`."""
        uniform = _random_numbers.uniform(keys, draw, images.shape[1:])
        return ops.cast(2.0 * uniform - 1.0, images.dtype)


@dataclass(frozen=True)
class L2:
    """√Σδ² ≤ ε."""

    name: str = "l2"

    def norm(self, perturbation):
        """√Σδ² of each example, `(n, ...)` → `(n,)`, float32 or better."""
        rows = _rows(perturbation)
        if rows.dtype != "float64":
            rows = ops.cast(rows, "float32")
        return ops.sqrt(ops.sum(rows**2, axis=-1))

    def direction(self, gradients):
        """The gradient, see `finite`, over its norm; 0 where it is 0."""
        gradients = finite(gradients)
        # By the largest first: squares of small gradients underflow.
        largest = per_example(ops.max(ops.abs(_rows(gradients)), axis=-1), gradients)
        scaled = gradients / ops.where(largest > 0, largest, 1.0)
        norm = per_example(self.norm(scaled), gradients)
        return scaled / ops.where(norm > 0, norm, 1.0)

    def project(self, perturbation, epsilon):
        """The nearest perturbation of size ≤ ε, `(n, ...)` → `(n, ...)`."""
        norm = per_example(self.norm(perturbation), perturbation)
        return perturbation * ops.minimum(1.0, epsilon / ops.where(norm > 0, norm, 1.0))

    def random(self, keys, draw, images):
        """Uniform in the ball of size 1: a direction, and a radius U^(1/d)."""
        shape = images.shape[1:]
        size = 1
        for side in shape:
            size *= side
        numbers = _random_numbers.normal(keys, draw, shape)
        radius = _random_numbers.uniform(keys, -1 - draw, (1,))[:, 0] ** (1.0 / size)
        inside = self.direction(numbers) * per_example(radius, numbers)
        return ops.cast(inside, images.dtype)


_BY_NAME = {"linf": Linf(), "l2": L2()}


def get(norm):
    """A ball from its name, `"linf"` or `"l2"`, or a ball itself.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(norm, (Linf, L2)):
        return norm
    if isinstance(norm, str) and norm.lower() in _BY_NAME:
        return _BY_NAME[norm.lower()]
    raise ValueError(f"`norm` must be one of {tuple(_BY_NAME)}. Received: {norm!r}")


def finite(gradients):
    """Gradients, (n, ...), without NaN and infinity: 0 in pixels where they are no number.

    Where some of an example are infinite, as at the zero of a square root, they alone count, ±1
    each, and the others are 0 beside them.
    """
    gradients = ops.where(ops.isnan(gradients), 0.0, gradients)
    infinite = ops.isinf(gradients)
    axes = tuple(range(1, len(gradients.shape)))
    some = ops.any(infinite, axis=axes, keepdims=True)
    return ops.where(some, ops.where(infinite, ops.sign(gradients), 0.0), gradients)


def linf_direction(gradients):
    """The steepest ascent direction of L∞ size 1: the sign of the gradient, (n, ...) → (n, ...).

    0 where the gradient is 0 or not a number: an attack leaves such pixels as they are.
    """
    return ops.where(ops.isnan(gradients), 0.0, ops.sign(gradients))


def perturb(images, directions, epsilon, bounds):
    """images + ε·directions, clipped to the pixel bounds.

    Args:
        images: `(n, ...)`.
        directions: `(n, ...)`, of size at most 1.
        epsilon: scalar, in the units of `images`.
        bounds: `(lowest, highest)` pixel value.

    Returns:
        `(n, ...)`, of the dtype of `images`.
    """
    return ops.clip(images + epsilon * directions, *bounds)


def into(ball, points, images, epsilon, bounds):
    """Points brought into the ball of size ε around their images, and into the pixel bounds.

    The clip to the bounds comes last: it moves every pixel towards the image, which is
    inside them, so it never leaves the ball.
    """
    return ops.clip(images + ball.project(points - images, epsilon), *bounds)


def per_example(values, like):
    """`(n,)` in the dtype of `like` `(n, ...)`, shaped to be multiplied with it."""
    return ops.reshape(ops.cast(values, like.dtype), (-1,) + (1,) * (len(like.shape) - 1))


def _rows(perturbation):
    shape = perturbation.shape[1:]
    size = 1
    for side in shape:
        size *= side
    return ops.reshape(perturbation, (-1, size))
