"""Noise: the best of several points drawn at random, the baseline that every attack must beat."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from hr_keras._core.checks import check_count
from hr_keras.attacks import objectives
from hr_keras.attacks._iterative import IterativeAttack, State


@dataclass(frozen=True)
class Noise(IterativeAttack):
    """Draws points uniformly in the ball, clipped to the pixel bounds, and takes the best.

    Costs `n_draws` forward passes of the examples not yet fooled, and one of all.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: What the draws are compared by; see `IterativeAttack`, as for all other
            arguments.
        n_draws: Points for each example.

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
