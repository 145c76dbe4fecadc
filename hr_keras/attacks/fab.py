"""FAB, the fast adaptive boundary attack: the *nearest* image that fools the model."""

import copy
import math

import keras
from keras import ops

from hr_keras.attacks import objectives
from hr_keras.attacks._attack import Task, check_count, like
from hr_keras.attacks._iterative import IterativeAttack, likeliest_others, select
from hr_keras.attacks._perturbation import finite, per_example

# Newton's method on a piecewise linear function ends after few steps; this is never reached.
_NEWTON_STEPS = 50


class FAB(IterativeAttack):
    """Fast adaptive boundary attack, targeted: steps onto the linearised decision boundary.

    x ← (1 − α)·(x + η·d(x)) + α·(x₀ + η·d(x₀)),  α = min(‖d(x)‖ / (‖d(x)‖ + ‖d(x₀)‖), α_max)

    with d(·) the smallest step, inside the pixel bounds, onto the plane where the
    linearised logits of the label and of a target are equal, and x₀ the image; where x fools
    the model, x ← x₀ + β·(x − x₀). The targets are the likeliest other classes, one after
    the other. The direction of a logit difference neither vanishes nor depends on its scale.

    A call returns an image inside the ball of size ε, as soon as there is one, else the
    image unchanged; `closest` returns the nearest image that fools the model.

    Costs `n_iter` × (forward + backward, and forward) passes a target and restart, of the
    examples still standing, and one forward pass of all.

    Args:
        epsilon: size of the perturbation, in the units of the images; at least 0.
        n_iter: steps in one attempt.
        n_targets: classes to attempt, at most all but the label.
        alpha_max: α_max, most weight of the step from the image.
        eta: η, how far to overshoot the plane, at least 1.
        beta: β, how far to go back towards the image, in (0, 1).
        **kwargs: `norm`, `n_restarts` (all but the first from a random point of the ball of
            size ε/2), `seed`, `bounds`, `batch_size`, `jit_compile`, `name`: see
            `IterativeAttack`.

    Raises:
        ValueError: for an argument that is not as described.

    Source: Croce & Hein 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive
        Boundary Attack"; targeted as in "Reliable evaluation of adversarial robustness".

    Example:
        >>> nearest = FAB(0.1, norm="l2").closest(model, images, labels)
    """

    kind = "fab"

    def __init__(
        self, epsilon, n_iter=100, n_targets=9, alpha_max=0.1, eta=1.05, beta=0.9, **kwargs
    ):
        super().__init__(epsilon, objectives.LOGIT_DIFFERENCE, n_iter=n_iter, **kwargs)
        if self.targeted:
            raise ValueError("`targeted` must be False: FAB chooses its targets. Received: True")
        self.n_targets = check_count("n_targets", n_targets)
        if not (0 <= alpha_max <= 1 and eta >= 1 and 0 < beta < 1):
            raise ValueError(
                "`alpha_max` must be in [0, 1], `eta` at least 1 and `beta` in (0, 1). "
                f"Received: alpha_max={alpha_max!r}, eta={eta!r}, beta={beta!r}"
            )
        self.alpha_max, self.eta, self.beta = float(alpha_max), float(eta), float(beta)

    def closest(self, model, images, labels):
        """The nearest images that fool the model, whatever ε; unchanged where none was found.

        Args and errors as in a call; costs all steps of all targets for every example.
        """
        task = Task.of(model, images, labels, self.bounds, self.batch_size).predict()
        standing = ~self.is_fooled(task.logits, task.labels)
        result = task.images.copy()
        if standing.any():
            attack = copy.copy(self)
            attack.stop_early = False
            result[standing], _ = attack._run(task.select(standing))
        return like(images, result)

    def _targets(self, task):
        return likeliest_others(task, self.n_targets)

    def _start(self, state, epsilon):
        image = state["image"]
        point = image + epsilon / 2 * self.ball.random(state["keys"], 0, image)
        point = ops.clip(point, *self.bounds)
        return {"point": select(state["restart"] > 0, point, image)}

    def _step(self, model, state, epsilon):
        point = self._towards_boundary(model, state)
        logits, _ = self._glance(model, {**state, "point": point})
        fools = self.running(state) & self.is_fooled(logits, state["label"])
        image = state["image"]
        distance = ops.cast(self.ball.norm(point - image), "float64")
        better = fools & (-distance > state["score"])
        if self.stop_early:
            better = better & (distance <= ops.cast(epsilon, "float64"))
        return {
            "point": select(fools, image + self.beta * (point - image), point),
            "best": select(better, point, state["best"]),
            "score": ops.where(better, -distance, state["score"]),
            "fooled": (state["fooled"] | better) if self.stop_early else state["fooled"],
        }

    def _towards_boundary(self, model, state):
        point, image = state["point"], state["image"]
        _, gap, gradient = self._look(model, state)
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


def step_onto_plane(ball, points, normals, gaps, bounds):
    """The smallest δ with ⟨w, δ⟩ = −gap and x + δ in the bounds; as far as they allow.

    |δ_j| = min(λ·s_j, room_j), s_j = 1 for L∞ and |w_j| for L2. What λ reaches,
    Σ_j |w_j|·|δ_j|, is concave and piecewise linear in λ: Newton's method from λ = 0 rises
    to the solution and meets it exactly, in about as many steps as sets of pixels hit the
    bounds.

    Args:
        ball: `Linf()` or `L2()`, whose norm is to be smallest.
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
    room = tf.where(sign > 0, bounds[1] - x, x - bounds[0])
    weight, goal = tf.abs(w), tf.abs(gaps)
    speed = weight if ball.name == "l2" else tf.cast(weight > 0, x.dtype)

    def unfinished(missing, slope):
        return (missing > 1e-6 * goal) & (slope > 0)

    def newton(multiplier, missing, slope):
        # None once finished, or its last bits would depend on how long its batch-mates take.
        going = unfinished(missing, slope)
        step = tf.where(going, missing / tf.where(going, slope, 1.0), 0.0)
        return (multiplier + step, *reached(multiplier + step))

    def reached(multiplier):
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
