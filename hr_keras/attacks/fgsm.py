"""FGSM, the fast gradient sign method: one step of size ε along the sign of the gradient."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hr_keras._core.checks import check_epsilon, check_epsilons
from hr_keras._core.compiled import in_batches
from hr_keras._core.logits import logits_of
from hr_keras.attacks import objectives
from hr_keras.attacks._attack import Attack, Outcome, Task, match_type
from hr_keras.attacks._input_gradient import InputGradient
from hr_keras.attacks._perturbation import linf_direction, perturb


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method.

    x' = clip(x + ε·sign(∇_x L(x, y)))

    with L the objective of the example alone: other examples of the batch have no effect. With
    `through="logits"` (the default) the sign is that of the gradient in closed form, which
    neither vanishes nor rounds however saturated the softmax is. `"probabilities"` is the
    published pipeline, through the clipped float32 softmax, to show the difference.

    Args:
        epsilon: Size of the perturbation in L∞, in the units of the images; at least 0.
        objective: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a callable
            `(labels, logits) -> (n,)`. A Keras loss or a callable is differentiated as it is.
        through: `"logits"` or `"probabilities"`.
        bounds: `(lowest, highest)` pixel value.
        targeted: Whether labels are the classes to reach.
        batch_size: Examples in one compiled step.
        jit_compile: Whether to compile with XLA.
        name: Name in logs and tables; the default is like `fgsm_ce_0.1`.

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
        step = self.compiled(task.model, "step")
        (adversarial,) = in_batches(
            step, task.images, task.labels, task.batch_size, per_example=(sizes[:, None],)
        )
        return Outcome(adversarial[:, 0], None)

    def sweep(self, model: keras.Model, images: Any, labels: Any, epsilons: Any) -> Any:
        """Makes adversarial images at several ε from one gradient, which does not depend on ε.

        Args:
            model: A Keras classifier.
            images: `(n, ...)`, as in a call.
            labels: As in a call.
            epsilons: ε values, each at least 0.

        Returns:
            `(len(epsilons), n, ...)`, of the type and dtype of `images`.

        Raises:
            ValueError: If an argument is not as described.
        """
        sizes = np.array(check_epsilons(epsilons), "float64")
        task = Task.of(model, images, labels, self.bounds, self.batch_size)
        sizes = np.broadcast_to(sizes, (len(task.images), len(sizes)))
        step = self.compiled(task.model, "step")
        (adversarial,) = in_batches(
            step, task.images, task.labels, task.batch_size, per_example=(sizes,)
        )
        return match_type(np.moveaxis(adversarial, 1, 0), images)

    def _build_step(self, model_ref: Any) -> Any:
        import tensorflow as tf

        def step(images: Any, labels: Any, epsilons: Any) -> tuple[Any]:
            objective = objectives.get(self.objective)
            _, (gradient,) = compute_gradients(
                model_ref(), images, labels, (objective,), self.through, self.targeted
            )
            direction = linf_direction(gradient)[:, None]
            sizes = tf.cast(epsilons, images.dtype)
            sizes = tf.reshape(sizes, (*tf.unstack(tf.shape(sizes)), *(1,) * (images.ndim - 1)))
            return (perturb(images[:, None], direction, sizes, self.bounds),)

        return step


def compute_gradients(
    model: Any,
    images: Any,
    labels: Any,
    chosen: Any,
    through: objectives.Route,
    targeted: bool = False,
) -> tuple[Any, list[Any]]:
    """Makes one forward pass, and one backward pass for each objective, in a TensorFlow graph.

    Args:
        model: A Keras classifier.
        images: `(n, ...)`.
        labels: `(n,)` or `(n, classes)`.
        chosen: Objectives to maximise; to minimise where `targeted`.
        through: Route of the gradient.
        targeted: Whether labels are the classes to reach.

    Returns:
        The logits `(n, classes)`, and for each objective a gradient `(n, ...)`: zero where
        the images have no path to the logits.
    """
    import tensorflow as tf

    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = logits_of(model, images)
        values = [objective.through(through, labels, logits) for objective in chosen]
        values = [-value for value in values] if targeted else values
    return logits, list(map(InputGradient(tape, images), values))
