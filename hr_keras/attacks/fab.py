"""FAB, the fast adaptive boundary attack: the *nearest* image that fools the model."""

import dataclasses
import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from hr_keras._core.pixel_bounds import for_pixels
from hr_keras.attacks._perturbation import Ball, Bounds, finite, per_example
from hr_keras.attacks._targets import TargetChoosingAttack
from hr_keras.attacks._task import State, Task, match_type, select

__all__ = ["FAB"]

# Newton's method on a piecewise linear function ends after few steps; this is never reached.
_NEWTON_STEPS = 50


@dataclass(frozen=True)
class FAB(TargetChoosingAttack):
    """Steps onto the linearised decision boundary: fast adaptive boundary attack, targeted.

    ```
    x ← (1 − α)·(x + η·d(x)) + α·(x₀ + η·d(x₀)),  α = min(‖d(x)‖ / (‖d(x)‖ + ‖d(x₀)‖), α_max)
    ```

    d(·) is the smallest step, inside the pixel bounds, onto the plane where the linearised
    logits of the label and of a target are equal, and x₀ the image. Where x fools the model,
    x ← x₀ + β·(x − x₀). The targets are the likeliest other classes, one after another. The
    direction of a logit difference neither vanishes nor depends on its scale.

    A call returns the first fooling image inside the ball of size ε, or else the image
    unchanged. `closest` returns the nearest image that fools the model.

    Costs `n_iter` × (forward + backward, and forward) passes a target and restart, of the
    examples not yet fooled, and one forward pass of all.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Must be `False`: FAB chooses its targets.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"fab_targeted_0.1"`.
        n_iter: Steps in one attempt. Default 100.
        n_restarts: Attempts; all but the first start from a random point of the ball of size
            ε/2. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: Whether an example ends with the first image inside the ball that fools the
            model. If not, all steps are made and the nearest one is returned. Default `True`.
        n_targets: Classes to attempt, at most all but the label. Default 9.
        alpha_max: α_max, the largest weight of the step from the image, in [0, 1]. Default 0.1.
        eta: η, how far to overshoot the plane, at least 1. Default 1.05.
        beta: β, how far to go back towards the image, in (0, 1). Default 0.9.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Croce & Hein 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive
          Boundary Attack"
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness" (targeted)

    Example:
        ```python
        from hr_keras.attacks import FAB

        nearest = FAB(0.1, n_iter=5, n_targets=2, norm="l2").closest(model, images, labels)
        ```
    """

    objective: str = field(init=False, repr=False, default="targeted")
    _: KW_ONLY
    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    # Set by `closest`: whether images outside the ball count too.
    any_distance: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        if self.targeted:
            raise ValueError("`targeted` must be False: FAB chooses its targets. Received: True")
        if not (0 <= self.alpha_max <= 1 and self.eta >= 1 and 0 < self.beta < 1):
            raise ValueError(
                "`alpha_max` must be in [0, 1], `eta` at least 1 and `beta` in (0, 1). "
                f"Received: alpha_max={self.alpha_max!r}, eta={self.eta!r}, beta={self.beta!r}"
            )
        self._normalise(alpha_max=float(self.alpha_max), eta=float(self.eta), beta=float(self.beta))
        super().__post_init__()

    def closest(self, model: keras.Model, images: Any, labels: Any) -> Any:
        """Finds the nearest images that fool the model, whatever ε.

        Their distance is an upper bound of that to the decision boundary: on networks that a
        verifier had measured, the median was 5 % above the exact one.

        Costs all steps of all targets for every example. Arguments are those of a call.

        Returns:
            Images of the type, shape and dtype of `images`; unchanged if none was found.
        """
        task = Task.of(model, images, labels, self.bounds, self.batch_size).predict()
        correct = ~self.is_fooled(task.logits, task.labels)
        result = task.images.copy()
        if correct.any():
            attack = dataclasses.replace(self, stop_early=False)
            attack._normalise(any_distance=True)
            result[correct], _ = attack._attempt_all(task.select(correct))
        return match_type(model, result, images)

    def start(self, state: State) -> State:
        image = state.image
        point = image + self.sizes(state) / 2 * self.ball.random(state.keys, 0, image)
        point = ops.clip(point, *self.bounds)
        return state._replace(point=select(state.restart > 0, point, image))

    def step(self, model: Any, state: State) -> State:
        image, point = state.image, self._approach_boundary(model, state)
        logits, _ = self.predict(model, state._replace(point=point))
        fools = self.running(state) & self.is_fooled(logits, state.label)
        distance = ops.cast(self.ball.norm(point - image), "float64")
        better = fools & (-distance > state.score)
        if not self.any_distance:
            size = ops.cast(ops.cast(state.epsilon, image.dtype), "float64")
            better = better & (distance <= size)
        return state._replace(
            point=select(fools, image + self.beta * (point - image), point),
            best=select(better, point, state.best),
            score=ops.where(better, -distance, state.score),
            fooled=(state.fooled | better) if self.stop_early else state.fooled,
        )

    def _approach_boundary(self, model: Any, state: State) -> Any:
        point, image = state.point, state.image
        _, gap, gradient = self.differentiate(model, state)
        gradient = finite(gradient)
        n = ops.shape(point)[0]
        axes = tuple(range(1, len(point.shape)))
        way = ops.cast(gradient, gap.dtype) * ops.cast(image - point, gap.dtype)
        image_gap = gap + ops.sum(way, axis=axes)
        moves = step_onto_plane(
            self.ball,
            ops.concatenate([point, image]),
            ops.concatenate([gradient, gradient]),
            ops.concatenate([gap, image_gap]),
            self.bounds,
        )
        wide = keras.backend.result_type(point.dtype, "float32")  # 1e-8 is 0 in 16 bits
        sizes = ops.maximum(ops.cast(self.ball.norm(moves), wide), 1e-8)
        alpha = ops.minimum(sizes[:n] / (sizes[:n] + sizes[n:]), self.alpha_max)
        alpha = per_example(ops.cast(alpha, point.dtype), point)
        mixed = (1 - alpha) * (point + self.eta * moves[:n]) + alpha * (
            image + self.eta * moves[n:]
        )
        return ops.clip(mixed, *self.bounds)


def step_onto_plane(ball: Ball, points: Any, normals: Any, gaps: Any, bounds: Bounds) -> Any:
    """Finds the smallest δ with ⟨w, δ⟩ = −gap and x + δ in the bounds, as far as they allow.

    |δ_j| = min(λ·s_j, room_j), s_j = 1 for L∞ and |w_j| for L2. What λ reaches,
    Σ_j |w_j|·|δ_j|, is concave and piecewise linear in λ: Newton's method from λ = 0 increases
    to the exact solution, in about as many steps as sets of pixels reach the bounds.

    Args:
        ball: `Linf()` or `L2()`, whose norm is minimised.
        points: `(n, ...)`, inside the bounds.
        normals: w, `(n, ...)`; where it is 0, δ is 0.
        gaps: `(n,)`.
        bounds: `(lowest, highest)` pixel value.

    Returns:
        δ, `(n, ...)`, of the dtype of the points.
    """
    import tensorflow as tf

    shape = points.shape
    # Sums over pixels and squares overflow in half precision, ...
    dtype = "float64" if points.dtype == tf.float64 else "float32"
    x, w = (
        tf.cast(tf.reshape(part, (-1, math.prod(shape[1:]))), dtype) for part in (points, normals)
    )
    # ... and squares of large or small normals in any: by the largest first.
    largest = tf.reduce_max(tf.abs(w), axis=1, keepdims=True)
    largest = tf.where(largest > 0, largest, 1.0)
    w, gaps = w / largest, tf.cast(gaps, dtype)[:, None] / largest
    sign = -tf.sign(w) * tf.sign(gaps)
    low, high = (np.reshape(end, (-1,)) for end in for_pixels(bounds, shape[1:]))
    room = tf.where(sign > 0, high.astype(dtype) - x, x - low.astype(dtype))
    weight, goal = tf.abs(w), tf.abs(gaps)
    speed = weight if ball.name == "l2" else tf.cast(weight > 0, x.dtype)

    def unfinished(missing: Any, slope: Any) -> Any:
        return (missing > 1e-6 * goal) & (slope > 0)

    def newton(multiplier: Any, missing: Any, slope: Any) -> tuple[Any, Any, Any]:
        # No step once finished, or the last bits would depend on the other examples.
        unsolved = unfinished(missing, slope)
        step = tf.where(unsolved, missing / tf.where(unsolved, slope, 1.0), 0.0)
        return (multiplier + step, *reached(multiplier + step))

    def reached(multiplier: Any) -> tuple[Any, Any]:
        ahead = multiplier * speed
        gain = tf.reduce_sum(weight * tf.minimum(ahead, room), axis=1, keepdims=True)
        slope = tf.reduce_sum(tf.where(ahead < room, weight * speed, 0.0), axis=1, keepdims=True)
        return goal - gain, slope

    start = tf.zeros_like(goal)
    multiplier, _, _ = tf.while_loop(
        lambda _, *found: tf.reduce_any(unfinished(*found)),
        newton,
        (start, *reached(start)),
        maximum_iterations=_NEWTON_STEPS,
    )
    moves = sign * tf.minimum(multiplier * speed, room)
    return tf.cast(tf.reshape(moves, tf.shape(points)), points.dtype)
