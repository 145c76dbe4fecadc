"""Noise: the best of several points drawn at random, the baseline that every attack must beat."""

from hr_keras.attacks._attack import check_count
from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._perturbation import into


class Noise(IterativeAttack):
    """Points drawn uniformly in the ball, clipped to the pixel bounds; the best of them.

    Costs `n_draws` forward passes of the examples still standing, and one of all.

    Args:
        epsilon: size of the perturbation, in the units of the images; at least 0.
        objective: what the draws are compared by; see `IterativeAttack`.
        n_draws: points for each example.
        **kwargs: `norm`, `seed`, `through`, `bounds`, `targeted`, `batch_size`,
            `jit_compile`, `name`: see `IterativeAttack`.

    Raises:
        ValueError: for an argument that is not as described.

    Example:
        >>> adversarial = Noise(0.1, n_draws=100)(model, images, labels)
    """

    kind = "noise"

    def __init__(self, epsilon, objective="margin", n_draws=100, **kwargs):
        super().__init__(epsilon, objective, n_iter=check_count("n_draws", n_draws), **kwargs)

    def _start(self, state, epsilon):
        return {"point": self._draw(state, 0 * state["restart"], epsilon)}

    def _step(self, model, state, epsilon):
        judged = self._judged(state, *self._glance(model, state), self.running(state))
        return {**judged, "point": self._draw(state, state["steps"] + 1, epsilon)}

    def _draw(self, state, draw, epsilon):
        image = state["image"]
        point = image + epsilon * self.ball.random(state["keys"], draw, image)
        return into(self.ball, point, image, epsilon, self.bounds)
