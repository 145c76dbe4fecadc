"""FGSM, the fast gradient sign method: one step of size ε along the sign of the gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hr_keras._core.attack_view import join_inputs
from hr_keras._core.checks import check_epsilon, check_epsilons
from hr_keras._core.compiled import in_batches
from hr_keras._core.logits import logits_of
from hr_keras._core.passes import average_passes, single_pass
from hr_keras.attacks import objectives
from hr_keras.attacks._attack import Attack
from hr_keras.attacks._input_gradient import InputGradient
from hr_keras.attacks._perturbation import Bounds, linf_direction, perturb
from hr_keras.attacks._task import Outcome, Task, is_correct, match_type

__all__ = ["FGSM"]


@dataclass(frozen=True)
class FGSM(Attack):
    """Takes one step of size ε along the sign of the gradient.

    ```
    x' = clip(x + ε·sign(∇_x L(x, y)))
    ```

    L is the objective of the example alone: other examples of the batch have no effect. With
    `through="logits"` (the default) the sign is that of the gradient in closed form, which
    neither vanishes nor rounds however saturated the softmax is. `"probabilities"` is the
    published pipeline, through the clipped float32 softmax, to show the difference.

    Args:
        epsilon: Size of the perturbation in L∞, in the units of the images; at least 0.
        objective: What to maximise: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a
            callable `(labels, logits) -> (n,)`. A Keras loss or a callable is differentiated as
            it is. Default `"ce"`.
        through: `"logits"` (default) or `"probabilities"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA. Default `False`.
        name: Name in logs and tables. Default: like `"fgsm_ce_0.1"`.

    Raises:
        ValueError: If an argument is not as described.

    References:
        - Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial Examples"

    Example:
        ```python
        from hr_keras.attacks import FGSM

        adversarial = FGSM(epsilon=0.1)(model, images, labels)
        predictions = model(adversarial)
        ```
    """

    epsilon: float
    objective: objectives.Identifier = "ce"
    through: objectives.Route = "logits"

    def __post_init__(self) -> None:
        self._normalise(
            epsilon=check_epsilon(self.epsilon),
            objective=objectives.check_objective(self.objective, self.targeted),
            through=objectives.check_route(self.through),
        )
        super().__post_init__()

    def default_name(self) -> str:
        return f"fgsm_{objectives.get(self.objective).name}_{self.epsilon:g}"

    def perturb(self, task: Task) -> Outcome:
        sizes = task.find_epsilons(self.epsilon)
        return Outcome(self._make_steps(task, sizes[:, None])[:, 0], None)

    def sweep(
        self, model: keras.Model, images: Any, labels: Any, epsilons: Any, first_index: int = 0
    ) -> Any:
        """Makes adversarial images at several ε from one gradient; see `Attack.sweep`."""
        sizes = np.array(check_epsilons(epsilons), "float64")
        task = Task.of(model, images, labels, self.bounds, self.batch_size, first_index)
        found = self._make_steps(task, np.broadcast_to(sizes, (len(task.images), len(sizes))))
        return match_type(model, np.moveaxis(found, 1, 0), images)

    def _make_steps(self, task: Task, sizes: np.ndarray) -> np.ndarray:
        """Makes a step of each of the sizes `(n, k)`: `(n, k, ...)`."""
        step = self.compiled(task.model, "step")
        (adversarial,) = in_batches(
            step,
            task.images,
            task.labels,
            task.batch_size,
            per_example=(sizes, *task.others),
            any_size=True,
        )
        return adversarial

    def _build_step(self, model_ref: Any) -> Any:
        import tensorflow as tf

        def step(images: Any, labels: Any, epsilons: Any, *others: Any) -> tuple[Any]:
            objective = objectives.get(self.objective)
            _, (gradient,) = compute_gradients(
                model_ref(), images, labels, (objective,), self.through, self.targeted, others
            )
            direction = linf_direction(gradient)[:, None]
            sizes = tf.cast(epsilons, images.dtype)
            sizes = tf.reshape(sizes, (*tf.unstack(tf.shape(sizes)), *(1,) * (images.ndim - 1)))
            return (perturb(images[:, None], direction, sizes, self.bounds),)

        return step


def compute_gradients(
    model: keras.Model,
    images: Any,
    labels: Any,
    chosen: Sequence[objectives.AnyObjective],
    through: objectives.Route,
    targeted: bool = False,
    others: tuple[Any, ...] = (),
) -> tuple[Any, list[Any]]:
    """Makes one forward pass, and one backward pass for each objective, in a TensorFlow graph.

    Both are means of several passes for a view that says so, see `models.attack_view`.

    Args:
        model: A Keras classifier.
        images: `(n, ...)`.
        labels: `(n,)` or `(n, classes)`.
        chosen: Objectives to maximise; to minimise where `targeted`.
        through: Route of the gradient.
        targeted: Whether labels are the classes to reach.
        others: The other inputs of a model of several.

    Returns:
        The logits `(n, classes)`, and for each objective a gradient `(n, ...)`: zero where
        the images have no path to the logits.
    """
    import tensorflow as tf

    def passes(model: Any, images: Any) -> Any:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = logits_of(model, join_inputs(model, images, others))
            values = [objective.through(through, labels, logits) for objective in chosen]
            values = [-value for value in values] if targeted else values
        return logits, *map(InputGradient(tape, images), values)

    several = single_pass(model)[1] > 1
    found = average_passes(model, passes, images) if several else passes(model, images)
    return found[0], list(found[1:])


def build_sweep(
    model_ref: Any,
    chosen: tuple[objectives.AnyObjective, ...],
    through: objectives.Route,
    bounds: Bounds,
) -> Any:
    """Makes the step of `evaluation.sweep`: FGSM, and what the model makes of its images.

    Args:
        model_ref: Weak reference to a Keras classifier.
        chosen: Objectives to maximise.
        through: Route of the gradient.
        bounds: Lowest and highest pixel value.

    Returns:
        `(images, labels, *others, epsilons)` → whether each example is classified correctly, bool
        `(n,)`; whether it is at each ε, int32 `(n, epsilons, objectives)`; and whether its gradient
        is zero, int32 `(n, objectives)`.
    """
    import tensorflow as tf

    def step(images: Any, labels: Any, *more: Any) -> tuple[Any, Any, Any]:
        *others, epsilons = more
        logits, found = compute_gradients(
            model_ref(), images, labels, chosen, through, others=tuple(others)
        )
        gradients = tf.stack(found)
        zero = tf.reduce_all(gradients == 0, axis=range(2, gradients.ndim))
        zero = tf.transpose(tf.cast(zero, tf.int32))  # oneDNN complains of a boolean transpose
        steps = linf_direction(gradients)

        def attack(cell: Any) -> Any:
            epsilon = tf.cast(epsilons[cell // len(chosen)], images.dtype)
            adversarial = perturb(images, steps[cell % len(chosen)], epsilon, bounds)
            inputs = join_inputs(model_ref(), adversarial, others)
            return tf.cast(is_correct(logits_of(model_ref(), inputs), labels), tf.int32)

        cells = tf.range(tf.size(epsilons) * len(chosen))
        # One after the other: in parallel the cells would multiply the memory of a batch.
        results = tf.map_fn(attack, cells, fn_output_signature=tf.int32, parallel_iterations=1)
        by_cell = tf.reshape(results, (-1, len(chosen), tf.shape(images)[0]))
        return is_correct(logits, labels), tf.transpose(by_cell, (2, 0, 1)), zero

    return step
