"""Perturbations of bounded size: the steepest step and the clip to the pixel bounds."""

from keras import ops


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
