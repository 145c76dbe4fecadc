"""APGD, Auto-PGD: the step size is halved automatically, so that there is none to choose."""

import itertools
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

from keras import ops

from hr_keras.attacks._perturbation import per_example
from hr_keras.attacks._targets import TargetChoosingAttack
from hr_keras.attacks._task import State, select

__all__ = ["APGD"]

# Share of the steps between two checkpoints that must raise the objective.
_RISING = 0.75
_MOMENTUM = 0.75


class _Memory(NamedTuple):
    last_point: Any
    last_score: Any
    best_gradient: Any
    step_size: Any
    rises: Any
    checked_score: Any
    halved: Any


@dataclass(frozen=True)
class APGD(TargetChoosingAttack):
    """Takes steps with momentum, from size 2ε, halved at checkpoints if they do not help.

    ```
    z = Π(x_k + η·d),  x_{k+1} = Π(x_k + 0.75·(z − x_k) + 0.25·(x_k − x_{k−1}))
    ```

    d and Π are those of `PGD`. At each of the `checkpoints` η is halved, and the search
    continues from the best point found, if fewer than 3/4 of the steps since the last
    checkpoint raised the objective, or if neither η nor the best objective has changed since.

    Costs `n_iter` forward + backward passes a restart (for `"targeted_dlr"` a target and
    restart) and one forward pass, of the examples not yet fooled, and one forward pass of all.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: As for `PGD`, or `"targeted_dlr"`, which attempts one class after another,
            the likeliest first. With fewer than 3 classes `"dlr"`, with fewer than 4
            `"targeted_dlr"`, is the difference of the logits, undivided. Default `"ce"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"` and
            `"targeted_dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"apgd_ce_0.1"`.
        n_iter: Steps in one attempt. Default 100.
        n_restarts: Attempts, each with other random numbers. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: As for `PGD`. Default `True`.
        n_targets: Classes that `"targeted_dlr"` attempts, at most all but the label. Default 9.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
          diverse parameter-free attacks", algorithm 1

    Example:
        ```python
        from hr_keras.attacks import APGD

        adversarial = APGD(0.1, "targeted_dlr", n_iter=5, n_targets=2)(model, images, labels)
        ```
    """

    _: KW_ONLY
    n_iter: int = 100

    evaluates_last_point: ClassVar[bool] = True

    def start(self, state: State) -> State:
        point = self.draw_point(state, 0)
        memory = _Memory(
            last_point=point,
            last_score=ops.zeros_like(state.score) + float("inf"),
            best_gradient=ops.zeros_like(state.image),
            step_size=ops.cast(ops.zeros_like(state.score), state.image.dtype) + 2.0,
            rises=ops.zeros_like(state.steps),
            checked_score=state.score,
            halved=~state.fooled,
        )
        return state._replace(point=point, memory=memory)

    def step(self, model: Any, state: State) -> State:
        logits, score, gradient = self.differentiate(model, state)
        before, state = state, self.judge(state, logits, score)
        memory = state.memory
        memory = memory._replace(
            best_gradient=select(score > before.score, gradient, memory.best_gradient),
            rises=memory.rises + ops.cast(score > memory.last_score, "int32"),
            last_score=score,
        )
        halve, memory = self._check(state, memory)
        point = select(halve, state.best, state.point)
        gradient = select(halve, memory.best_gradient, gradient)
        moved = self._move(state, memory, point, gradient)
        return state._replace(point=moved, memory=memory._replace(last_point=point))

    def _check(self, state: State, memory: _Memory) -> tuple[Any, _Memory]:
        """Finds whether the step is halved, `(n,)`, and what changes at a checkpoint."""
        window = ops.take(windows(self.n_iter), state.steps)
        due = window > 0
        # "At most" as in the published code; the paper has "fewer than".
        oscillates = ops.cast(memory.rises, "float32") <= _RISING * ops.cast(window, "float32")
        stuck = ~memory.halved & (state.score <= memory.checked_score)
        halve = due & (oscillates | stuck)
        return halve, memory._replace(
            step_size=ops.where(halve, memory.step_size / 2, memory.step_size),
            rises=ops.where(due, 0, memory.rises),
            checked_score=ops.where(due, state.score, memory.checked_score),
            halved=ops.where(due, halve, memory.halved),
        )

    def _move(self, state: State, memory: _Memory, point: Any, gradient: Any) -> Any:
        image = state.image
        size = self.sizes(state) * per_example(memory.step_size, image)
        ahead = self.project(point + size * self.ball.direction(gradient), state)
        share = per_example(ops.where(state.steps > 0, _MOMENTUM, 1.0), image)
        moved = point + share * (ahead - point) + (1 - share) * (point - memory.last_point)
        return self.project(moved, state)


def checkpoints(n_iter: int) -> list[int]:
    """Lists the steps after which the step size may be halved: ⌈p_j·n_iter⌉, below n_iter.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)

    References:
        - Croce & Hein 2020, section 3.1
    """
    # In hundredths: 0.22 + 0.19 + … in floating point passes 0.7 by a little.
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    steps = (-(-share * n_iter // 100) for share in shares)
    return sorted({step for step in steps if step < n_iter})


def windows(n_iter: int) -> list[int]:
    """Lists, for 0 … n_iter steps, at a checkpoint the steps since the last one, else 0."""
    found = [0] * (n_iter + 1)
    for before, step in itertools.pairwise(checkpoints(n_iter)):
        found[step] = step - before
    return found
