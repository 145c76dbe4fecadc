"""PGD, projected gradient descent, and MI-FGSM, its form with momentum."""

import collections
import numbers

import numpy as np
from keras import ops

from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._perturbation import finite, into, per_example
from hr_keras.attacks._slots import Slots


class PGD(IterativeAttack):
    """Projected gradient descent: steps of steepest ascent, each brought back into the ball.

    x ← Π(x + a·ε·d),  d = sign(∇L) for L∞, ∇L/‖∇L‖₂ for L2

    from a point drawn uniformly in the ball, Π the projection onto the ball of size ε around
    the image and onto the pixel bounds. The gradient is the closed form's, which neither
    vanishes nor rounds however saturated the softmax is.

    Costs `n_iter` forward + backward passes a restart, of the examples still standing, and
    one forward pass of all; one more a restart, of the points after the last step.

    Args:
        epsilon: size of the perturbation, in the units of the images; at least 0.
        objective: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a callable
            `(labels, logits) -> (n,)`.
        n_iter: steps in one attempt.
        step_size: a, the size of a step as a share of ε; by default 2.5 / n_iter.
        random_start: whether to start from a random point of the ball, or from the image.
        stop_early: whether an example ends with the first image that fools the model.
            Without it all steps are made and the image of the highest objective is
            returned, fooling or not: what `Transfer` wants of the models it attacks.
        **kwargs: `norm`, `n_restarts`, `seed`, `through`, `bounds`, `targeted`,
            `batch_size`, `jit_compile`, `name`: see `IterativeAttack`.

    Raises:
        ValueError: for an argument that is not as described.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial
        Attacks".

    Example:
        >>> adversarial = PGD(0.1, "margin", n_iter=20, n_restarts=5)(model, images, labels)
    """

    kind = "pgd"
    concludes = True

    def __init__(
        self,
        epsilon,
        objective="ce",
        n_iter=20,
        step_size=None,
        random_start=True,
        stop_early=True,
        **kwargs,
    ):
        super().__init__(epsilon, objective, n_iter=n_iter, **kwargs)
        self.step_size = _check_positive(
            "step_size", 2.5 / self.n_iter if step_size is None else step_size
        )
        self.random_start = bool(random_start)
        self.stop_early = bool(stop_early)

    def _start(self, state, epsilon):
        image = state["image"]
        if not self.random_start:
            return {"point": image}
        start = image + epsilon * self.ball.random(state["keys"], 0, image)
        return {"point": into(self.ball, start, image, epsilon, self.bounds)}

    def _step(self, model, state, epsilon):
        logits, score, gradient = self._look(model, state)
        judged = self._judged(state, logits, score, self.running(state))
        direction, changes = self._direction(state, gradient)
        point = state["point"] + self.step_size * epsilon * direction
        return {
            **judged,
            **changes,
            "point": into(self.ball, point, state["image"], epsilon, self.bounds),
        }

    def _direction(self, state, gradient):
        """The direction of the step, of size 1, and what else changes, a dict."""
        return self.ball.direction(gradient), {}

    def trace(self, task):
        """All points of the first attempt, seen one by one: what `diagnostics` judges it by.

        Costs n_iter forward + backward passes and a forward pass of every example, fooled
        or not.

        Args:
            task: a `Task`.

        Returns:
            Score, float64, and whether the model is fooled, bool, both `(n, n_iter + 1)`.
        """
        parts = []
        for first in range(0, len(task.images), task.batch_size):
            part = task.select(slice(first, first + task.batch_size))
            slots = Slots(self, part, self._targets(part))
            slots.fill(collections.deque((row, 0) for row in range(len(part.images))))
            parts.append([seen.numpy() for seen in slots.call("trace", slots.state, slots.epsilon)])
        return tuple(np.concatenate(seen) for seen in zip(*parts, strict=True))

    def _build_trace(self, model):
        import tensorflow as tf

        def trace(state, epsilon):
            epsilon = tf.cast(epsilon, state["image"].dtype)
            # Forgotten before each step, so that score and success are those of its point.
            unseen = {key: state[key] for key in ("score", "fooled")}
            scores = tf.TensorArray(tf.float64, self.n_iter + 1)
            fooled = tf.TensorArray(tf.bool, self.n_iter + 1)

            def step(k, state, scores, fooled):
                state = {**state, **self._step(model(), {**state, **unseen}, epsilon)}
                scores = scores.write(k, state["score"])
                return k + 1, state, scores, fooled.write(k, state["fooled"])

            _, state, scores, fooled = tf.while_loop(
                lambda k, *_: k < self.n_iter, step, (tf.constant(0), state, scores, fooled)
            )
            logits, score = self._glance(model(), state)
            scores = scores.write(self.n_iter, score)
            fooled = fooled.write(self.n_iter, self.is_fooled(logits, state["label"]))
            return tf.transpose(scores.stack()), tf.cast(
                tf.transpose(tf.cast(fooled.stack(), tf.int32)), tf.bool
            )

        return trace


class MomentumPGD(PGD):
    """MI-FGSM, the momentum iterative fast gradient sign method.

    g ← μ·g + ∇L/‖∇L‖₁,  x ← Π(x + a·ε·sign(g))   (g/‖g‖₂ for L2)

    from the image itself, with a = 1 / n_iter, so that the steps together just reach the
    border of the ball. Its examples carry over to other models better than PGD's.

    Costs `n_iter` forward + backward passes a restart, of the examples still standing, and
    one forward pass of all; one more a restart. Restarts are of use with `random_start=True` only.

    Args:
        epsilon, objective, n_iter, stop_early: as for `PGD`.
        step_size: a, the size of a step as a share of ε; by default 1 / n_iter.
        decay: μ, at least 0.
        random_start: whether to start from a random point of the ball; by default from the
            image.
        **kwargs: as for `PGD`.

    Raises:
        ValueError: for an argument that is not as described.

    Source: Dong et al. 2018, "Boosting Adversarial Attacks with Momentum".

    Example:
        >>> adversarial = MomentumPGD(0.1, n_iter=10)(model, images, labels)
    """

    kind = "mifgsm"

    def __init__(
        self,
        epsilon,
        objective="ce",
        n_iter=10,
        step_size=None,
        decay=1.0,
        random_start=False,
        **kwargs,
    ):
        super().__init__(epsilon, objective, n_iter, step_size, random_start, **kwargs)
        if step_size is None:
            self.step_size = 1.0 / self.n_iter
        self.decay = _check_positive("decay", decay, or_zero=True)

    def _start(self, state, epsilon):
        return {**super()._start(state, epsilon), "velocity": ops.zeros_like(state["image"])}

    def _direction(self, state, gradient):
        gradient = finite(gradient)
        axes = tuple(range(1, len(gradient.shape)))
        # By the largest first: a sum over pixels overflows in half precision.
        largest = ops.max(ops.abs(gradient), axis=axes)
        gradient = gradient / per_example(ops.where(largest > 0, largest, 1.0), gradient)
        size = ops.mean(ops.abs(gradient), axis=axes)
        velocity = self.decay * state["velocity"] + gradient / per_example(
            ops.where(size > 0, size, 1.0), gradient
        )
        return self.ball.direction(velocity), {"velocity": velocity}


def _check_positive(argument, value, or_zero=False):
    if not (isinstance(value, numbers.Real) and (value > 0 or (or_zero and value == 0))):
        least = "at least 0" if or_zero else "greater than 0"
        raise ValueError(f"`{argument}` must be {least}. Received: {value!r}")
    return float(value)
