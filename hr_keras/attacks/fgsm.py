"""FGSM, the fast gradient sign method: one step of size ε along the sign of the gradient."""

import numpy as np

from hr_keras._core.logits import logits_of
from hr_keras.attacks._attack import (
    Attack,
    Outcome,
    Task,
    check_epsilon,
    check_epsilons,
    check_objective,
    check_route,
    compiled,
    in_batches,
    like,
)
from hr_keras.attacks._input_gradient import InputGradient
from hr_keras.attacks._perturbation import linf_direction, perturb


class FGSM(Attack):
    """Fast gradient sign method.

    x' = clip(x + ε·sign(∇_x L(x, y)))

    with L the objective of the example alone: batch-mates never matter. With
    `through="logits"` (the default) the sign is taken of the gradient's closed form, which
    neither vanishes nor rounds however saturated the softmax is; `"probabilities"` is the
    published pipeline, through the clipped float32 softmax, kept to show the difference.

    Args:
        epsilon: size of the perturbation in L∞, in the units of the images; at least 0.
        objective: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a callable
            `(labels, logits) -> (n,)`. A Keras loss or a callable is differentiated as it stands.
        through: `"logits"` or `"probabilities"`.
        bounds: `(lowest, highest)` pixel value.
        targeted: whether labels are the classes to be reached.
        batch_size: examples in one compiled step.
        jit_compile: compile the step with XLA.
        name: what it is called in logs and tables; by default as `fgsm_ce_0.1`.

    Raises:
        ValueError: for an argument that is not as described.

    Source: Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial
        Examples"; the objectives and the closed form: `hr_keras.attacks.objectives`.

    Example:
        >>> adversarial = FGSM(epsilon=0.1)(model, images, labels)
        >>> predictions = model(adversarial)
    """

    def __init__(
        self,
        epsilon,
        objective="ce",
        through="logits",
        bounds=(0.0, 1.0),
        targeted=False,
        batch_size=256,
        jit_compile=False,
        name=None,
    ):
        self.epsilon = check_epsilon(epsilon)
        self.objective = check_objective(objective, targeted)
        self.through = check_route(through)
        name = name or f"fgsm_{self.objective.name}_{self.epsilon:g}"
        super().__init__(name, bounds, targeted, batch_size, jit_compile)

    def _perturb(self, task):
        return Outcome(self._sweep(task, (self.epsilon,))[0], None)

    def sweep(self, model, images, labels, epsilons):
        """Adversarial images at several ε from one gradient, which does not depend on ε.

        Args:
            model, images, labels: as in a call.
            epsilons: ε values, each at least 0.

        Returns:
            `(len(epsilons), n, ...)`, of the type and dtype of `images`.

        Raises:
            ValueError: if an argument is not as described.
        """
        epsilons = check_epsilons(epsilons)
        task = Task.of(model, images, labels, self.bounds, self.batch_size)
        return like(images, self._sweep(task, epsilons))

    def _sweep(self, task, epsilons):
        key = ("fgsm", self.objective, self.through, self.bounds, self.targeted)
        step = compiled(task.model, key, self._build, self.jit_compile)
        epsilons = np.asarray(epsilons, "float64")
        (adversarial,) = in_batches(step, task.images, task.labels, task.batch_size, epsilons)
        return np.moveaxis(adversarial, 1, 0)

    def _build(self, model):
        import tensorflow as tf

        def step(images, labels, epsilons):
            _, (gradient,) = gradients(
                model(), images, labels, (self.objective,), self.through, self.targeted
            )
            direction = linf_direction(gradient)
            sizes = tf.reshape(tf.cast(epsilons, images.dtype), (-1,) + (1,) * (images.ndim - 1))
            return (perturb(images[:, None], direction[:, None], sizes, self.bounds),)

        return step


def gradients(model, images, labels, objectives, through, targeted=False):
    """One forward pass and one backward pass for each objective, in a TensorFlow graph.

    Args:
        model: a Keras classifier.
        images: `(n, ...)`.
        labels: `(n,)` or `(n, classes)`.
        objectives: what to maximise; minimised where `targeted`.
        through: one of `objectives.ROUTES`.
        targeted: whether labels are the classes to be reached.

    Returns:
        The logits `(n, classes)`, and for each objective a gradient `(n, ...)`: zero where
        the images have no path to the logits.
    """
    import tensorflow as tf

    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = logits_of(model, images)
        values = [objective.through(through, labels, logits) for objective in objectives]
        values = [-value for value in values] if targeted else values
    return logits, list(map(InputGradient(tape, images), values))
