"""PGD, projected gradient descent, and MI-FGSM, its form with momentum."""

import numbers
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from keras import ops

from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._perturbation import finite, per_example
from hr_keras.attacks._task import State, Task

__all__ = ["PGD", "MomentumPGD"]


@dataclass(frozen=True)
class PGD(IterativeAttack):
    """Takes steps of steepest ascent, each projected onto the ball: projected gradient descent.

    ```
    x ← Π(x + a·ε·d),  d = sign(∇L) for L∞, ∇L/‖∇L‖₂ for L2
    ```

    It starts from a point drawn uniformly in the ball. Π is the projection onto the ball of
    size ε around the image and onto the pixel bounds. The gradient of CE and HR is taken in
    closed form: saturation of the softmax cannot make it vanish.

    Costs `n_iter` forward + backward passes a restart and one forward pass of the last points,
    for the examples not yet fooled, and one forward pass of all.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: What to maximise: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a
            callable `(labels, logits) -> (n,)`. Default `"ce"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"pgd_ce_0.1"`.
        n_iter: Steps in one attempt. Default 20.
        n_restarts: Attempts, each with other random numbers. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: Whether an example ends with the first image that fools the model. If
            not, all steps are made and the image of the highest objective is returned,
            fooling or not, which transfers better to other models. Default `True`.
        step_size: a, the size of a step as a share of ε. Default `None`: 2.5 / n_iter.
        random_start: Whether to start from a random point of the ball (default), or from the
            image.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks"

    Example:
        ```python
        from hr_keras.attacks import PGD

        adversarial = PGD(0.1, "margin", n_iter=5, n_restarts=2)(model, images, labels)
        ```
    """

    _: KW_ONLY
    step_size: float | None = None
    random_start: bool = True

    evaluates_last_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        step_size = self.step_size
        if step_size is not None:
            step_size = _check_number("step_size", step_size)
        self._normalise(
            step_size=step_size,
            random_start=bool(self.random_start),
        )
        super().__post_init__()

    def default_step_size(self) -> float:
        """Returns the step size that `step_size=None` means."""
        return 2.5 / self.n_iter

    def start(self, state: State) -> State:
        return state._replace(point=self.draw_point(state, 0)) if self.random_start else state

    def step(self, model: Any, state: State) -> State:
        logits, score, gradient = self.differentiate(model, state)
        state = self.judge(state, logits, score)
        direction, memory = self.find_direction(state, gradient)
        share = self.default_step_size() if self.step_size is None else self.step_size
        point = state.point + share * self.sizes(state) * direction
        return state._replace(point=self.project(point, state), memory=memory)

    def find_direction(self, state: State, gradient: Any) -> tuple[Any, Any]:
        """Returns the direction of the step, of size 1, and the new `memory`."""
        return self.ball.direction(gradient), state.memory

    def trace(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates all points of the first attempt; `diagnostics` judges the attack by them.

        Costs `n_iter` forward + backward passes and a forward pass of every example, fooled
        or not.

        Args:
            task: A `Task`.

        Returns:
            Scores, float64, and whether the model is fooled, bool, both `(n, n_iter + 1)`.
        """
        parts = []
        for first in range(0, len(task.images), task.batch_size):
            part = task.select(slice(first, first + task.batch_size))
            state = self.start_state(part, self.find_targets(part), 0)
            parts.append([seen.numpy() for seen in self.run_part("trace", task.model, state)])
        scores, fooled = (np.concatenate(seen) for seen in zip(*parts, strict=True))
        return scores, fooled

    def _build_trace(self, model_ref: Any) -> Any:
        import tensorflow as tf

        def trace(state: State) -> tuple[Any, Any]:
            # Reset before each step, so that score and success are those of its point.
            unseen = {"score": state.score, "fooled": state.fooled}
            scores = tf.TensorArray(tf.float64, self.n_iter + 1)
            fooled = tf.TensorArray(tf.bool, self.n_iter + 1)

            def step(k: Any, state: State, scores: Any, fooled: Any) -> tuple[Any, ...]:
                state = self.step(model_ref(), state._replace(**unseen))
                scores = scores.write(k, state.score)
                return k + 1, state, scores, fooled.write(k, state.fooled)

            _, state, scores, fooled = tf.while_loop(
                lambda k, *_: k < self.n_iter, step, (tf.constant(0), state, scores, fooled)
            )
            logits, score = self.predict(model_ref(), state)
            scores = scores.write(self.n_iter, score)
            fooled = fooled.write(self.n_iter, self.is_fooled(logits, state.label))
            return tf.transpose(scores.stack()), tf.cast(
                tf.transpose(tf.cast(fooled.stack(), tf.int32)), tf.bool
            )

        return trace


@dataclass(frozen=True)
class MomentumPGD(PGD):
    """Takes steps along the sum of past gradients: MI-FGSM, the momentum iterative FGSM.

    ```
    g ← μ·g + ∇L/‖∇L‖₁,  x ← Π(x + a·ε·sign(g))   (g/‖g‖₂ for L2)
    ```

    It starts from the image, with a = 1 / n_iter, so that the steps together just reach the
    border of the ball. Its examples transfer better to other models than those of `PGD`. It
    costs as much as `PGD`.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: What to maximise: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a
            callable `(labels, logits) -> (n,)`. Default `"ce"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"mifgsm_ce_0.1"`.
        n_iter: Steps in one attempt. Default 10.
        n_restarts: Attempts; more than 1 needs `random_start=True`. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: As for `PGD`. Default `True`.
        step_size: a, the size of a step as a share of ε. Default `None`: 1 / n_iter.
        random_start: Whether to start from a random point of the ball. Default `False`.
        decay: μ, at least 0. Default 1.0.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Dong et al. 2018, "Boosting Adversarial Attacks with Momentum"

    Example:
        ```python
        from hr_keras.attacks import MomentumPGD

        adversarial = MomentumPGD(0.1, n_iter=10)(model, images, labels)
        ```
    """

    _: KW_ONLY
    n_iter: int = 10
    random_start: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        self._normalise(decay=_check_number("decay", self.decay, or_zero=True))
        super().__post_init__()

    def default_name(self) -> str:
        return super().default_name().replace("momentumpgd", "mifgsm", 1)

    def default_step_size(self) -> float:
        return 1.0 / self.n_iter

    def start(self, state: State) -> State:
        return super().start(state)._replace(memory=ops.zeros_like(state.image))

    def find_direction(self, state: State, gradient: Any) -> tuple[Any, Any]:
        gradient = finite(gradient)
        axes = tuple(range(1, len(gradient.shape)))
        # By the largest first: a sum over pixels overflows in half precision.
        largest = ops.max(ops.abs(gradient), axis=axes)
        gradient = gradient / per_example(ops.where(largest > 0, largest, 1.0), gradient)
        size = ops.mean(ops.abs(gradient), axis=axes)
        velocity = self.decay * state.memory + gradient / per_example(
            ops.where(size > 0, size, 1.0), gradient
        )
        return self.ball.direction(velocity), velocity


def _check_number(argument: str, value: Any, or_zero: bool = False) -> float:
    positive = isinstance(value, numbers.Real) and float(value) > 0
    if not (positive or (or_zero and value == 0)):
        least = "at least 0" if or_zero else "greater than 0"
        raise ValueError(f"`{argument}` must be {least}. Received: {value!r}")
    return float(value)
