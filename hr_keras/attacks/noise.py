"""Noise: the best of several points drawn at random, the baseline that every attack must beat."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from hr_keras._core.checks import check_count
from hr_keras.attacks import objectives
from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._task import State

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise(IterativeAttack):
    """Draws points uniformly in the ball, clipped to the pixel bounds, and takes the best.

    ```
    x' = argmax L(x_k, y),  x_k = clip(x + ε·u_k),  u_k uniform in the ball of size 1
    ```

    Costs `n_draws` forward passes of the examples not yet fooled, and one of all.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: L, what the draws are compared by; see `PGD`. Default `"margin"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"noise_margin_0.1"`.
        n_restarts: Attempts, each with other random numbers. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Seed of random numbers, an integer ≥ 0. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: As for `PGD`. Default `True`.
        n_draws: Points for each example. Default 100.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        ```python
        from hr_keras.attacks import Noise

        adversarial = Noise(0.1, n_draws=20)(model, images, labels)
        ```
    """

    objective: objectives.Identifier = "margin"
    _: KW_ONLY
    n_draws: int = 100
    n_iter: int = field(init=False, repr=False, default=1)

    def __post_init__(self) -> None:
        n_draws = check_count("n_draws", self.n_draws)
        self._normalise(n_draws=n_draws, n_iter=n_draws)
        super().__post_init__()

    def start(self, state: State) -> State:
        return state._replace(point=self.draw_point(state, 0 * state.restart))

    def step(self, model: Any, state: State) -> State:
        state = self.judge(state, *self.predict(model, state))
        return state._replace(point=self.draw_point(state, state.steps + 1))
