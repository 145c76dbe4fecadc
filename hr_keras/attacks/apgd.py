"""APGD, Auto-PGD: a step size that halves itself, so that there is none to choose."""

import itertools

from keras import ops

from hr_keras.attacks import objectives
from hr_keras.attacks._attack import check_count
from hr_keras.attacks._iterative import IterativeAttack, likeliest_others, select
from hr_keras.attacks._perturbation import into, per_example

# Share of the steps between two checkpoints that must raise the objective.
_RISING = 0.75
_MOMENTUM = 0.75


class APGD(IterativeAttack):
    """Auto-PGD: steps with momentum, from 2ε on, halved at checkpoints where they do no good.

    z = Π(x_k + η·d),  x_{k+1} = Π(x_k + 0.75·(z − x_k) + 0.25·(x_k − x_{k−1}))

    with d and Π as for `PGD`. At each of the `checkpoints` η is halved, and the search goes
    on from the best point found, where fewer than 3/4 of the steps since the last checkpoint
    raised the objective, or where neither η nor the best objective has changed since.

    Costs `n_iter` forward + backward passes a restart (for `"targeted_dlr"` a target and
    restart) and one forward pass, of the examples still standing, and one forward pass of all.

    Args:
        epsilon: size of the perturbation, in the units of the images; at least 0.
        objective: as for `PGD`, or `"targeted_dlr"`, which attempts one class after another,
            the likeliest first. With fewer than 3 classes `"dlr"`, with fewer than 4
            `"targeted_dlr"`, falls back to the difference of the logits, undivided.
        n_iter: steps in one attempt.
        n_targets: classes that `"targeted_dlr"` attempts, at most all but the label.
        **kwargs: `norm`, `n_restarts`, `seed`, `through`, `bounds`, `targeted` (not with
            `"targeted_dlr"`), `batch_size`, `jit_compile`, `name`: see `IterativeAttack`.

    Raises:
        ValueError: for an argument that is not as described.

    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
        ensemble of diverse parameter-free attacks", algorithm 1.

    Example:
        >>> adversarial = APGD(0.1, "targeted_dlr", n_targets=9)(model, images, labels)
    """

    kind = "apgd"
    concludes = True

    def __init__(self, epsilon, objective="ce", n_iter=100, n_targets=9, **kwargs):
        if objective == "targeted_dlr":
            objective = objectives.TARGETED_DLR
        super().__init__(epsilon, objective, n_iter=n_iter, **kwargs)
        self.n_targets = check_count("n_targets", n_targets)
        self._has_targets = self.objective is objectives.TARGETED_DLR
        if self.targeted and self._has_targets:
            raise ValueError(
                "`targeted` must be False with objective='targeted_dlr', which chooses its "
                "targets. Received: targeted=True"
            )

    def _targets(self, task):
        if self._has_targets:
            return likeliest_others(task, self.n_targets)
        return super()._targets(task)

    def _start(self, state, epsilon):
        image, number = state["image"], ops.zeros_like(state["score"])
        start = image + epsilon * self.ball.random(state["keys"], 0, image)
        point = into(self.ball, start, image, epsilon, self.bounds)
        return {
            "point": point,
            "last_point": point,
            "last_score": number + float("inf"),
            "best_gradient": ops.zeros_like(image),
            "step_size": ops.cast(number, image.dtype) + 2.0,
            "rises": ops.zeros_like(state["steps"]),
            "checked_score": state["score"],
            "halved": ~state["fooled"],
        }

    def _step(self, model, state, epsilon):
        logits, score, gradient = self._look(model, state)
        judged = self._judged(state, logits, score, self.running(state))
        state = {
            **state,
            **judged,
            "best_gradient": select(score > state["score"], gradient, state["best_gradient"]),
            "rises": state["rises"] + ops.cast(score > state["last_score"], "int32"),
            "last_score": score,
        }
        halve, changes = self._check(state)
        state = {**state, **changes}
        point = select(halve, state["best"], state["point"])
        gradient = select(halve, state["best_gradient"], gradient)
        return {**state, "point": self._move(state, point, gradient, epsilon), "last_point": point}

    def _check(self, state):
        """Whether the step is halved `(n,)`, and what changes at a checkpoint."""
        window = ops.take(windows(self.n_iter), state["steps"])
        due = window > 0
        # "At most" as in the published code; the paper has "fewer than".
        oscillates = ops.cast(state["rises"], "float32") <= _RISING * ops.cast(window, "float32")
        stuck = ~state["halved"] & (state["score"] <= state["checked_score"])
        halve = due & (oscillates | stuck)
        return halve, {
            "step_size": ops.where(halve, state["step_size"] / 2, state["step_size"]),
            "rises": ops.where(due, 0, state["rises"]),
            "checked_score": ops.where(due, state["score"], state["checked_score"]),
            "halved": ops.where(due, halve, state["halved"]),
        }

    def _move(self, state, point, gradient, epsilon):
        image = state["image"]
        size = epsilon * per_example(state["step_size"], image)
        ahead = point + size * self.ball.direction(gradient)
        ahead = into(self.ball, ahead, image, epsilon, self.bounds)
        share = per_example(ops.where(state["steps"] > 0, _MOMENTUM, 1.0), image)
        moved = point + share * (ahead - point) + (1 - share) * (point - state["last_point"])
        return into(self.ball, moved, image, epsilon, self.bounds)


def checkpoints(n_iter):
    """Steps after which the step size may be halved: ⌈p_j·n_iter⌉, ascending, below n_iter.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)

    Source: Croce & Hein 2020, section 3.1.

    Example:
        >>> checkpoints(100)
        [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    # In hundredths: 0.22 + 0.19 + … in floating point passes 0.7 by a little.
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    steps = (-(-share * n_iter // 100) for share in shares)
    return sorted({step for step in steps if step < n_iter})


def windows(n_iter):
    """After 0 … n_iter steps: at a checkpoint the steps since the last one, else 0."""
    found = [0] * (n_iter + 1)
    for before, step in itertools.pairwise(checkpoints(n_iter)):
        found[step] = step - before
    return found
