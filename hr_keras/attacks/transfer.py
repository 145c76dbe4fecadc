"""Transfer: adversarial examples made on other models, the attacker who cannot see this one."""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from hr_keras._core.logits import classifier_output
from hr_keras.attacks import objectives
from hr_keras.attacks._attack import Attack, Outcome, Task, prepare


@dataclass(frozen=True)
class Transfer(Attack):
    """Adversarial examples that an attack makes on other models, tried on this one.

    Returns the first image that fools the model; where none does, the one of the largest
    margin.

    Costs what `attack` costs on each of the other models, and one forward pass of the model
    for each, of the examples still standing; and one of all.

    Args:
        attack: makes the examples, without seeing the model. One that goes on after it has
            fooled the other model carries over better: `stop_early=False`.
        models: Keras classifiers of the same images and classes; at least one.
        batch_size: examples in one compiled step.
        name: what it is called in logs and tables; by default `transfer_` and the attack's.

    Raises:
        ValueError: for an argument that is not as described, or when called, for models with
            different numbers of classes.

    Source: Papernot et al. 2017, "Practical Black-Box Attacks against Machine Learning";
        Dong et al. 2018 for attacks that transfer.

    Example:
        >>> attack = Transfer(MomentumPGD(0.1, stop_early=False), [other_model])
        >>> adversarial = attack(model, images, labels)
    """

    attack: Attack
    models: Any  # a tuple after `__post_init__`
    bounds: tuple[float, float] = field(init=False, repr=False, default=(0.0, 1.0))
    targeted: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ValueError(f"`attack` must be an attack. Received: {self.attack!r}")
        single = isinstance(self.models, keras.Model)
        models = (self.models,) if single else tuple(self.models)
        if not models or not all(isinstance(model, keras.Model) for model in models):
            raise ValueError(f"`models` must hold at least one keras.Model. Received: {models!r}")
        self._normalise(models=models, bounds=self.attack.bounds, targeted=self.attack.targeted)
        super().__post_init__()

    def default_name(self) -> str:
        return f"transfer_{self.attack.name}"

    def perturb(self, task: Task) -> Outcome:
        task = task.predict()
        images, fooled = task.images.copy(), self.is_fooled(task.logits, task.labels)
        margins = np.full(len(images), -np.inf)
        for model in self.models:
            rows = np.flatnonzero(~fooled)
            if len(rows) == 0:
                break
            found, logits = self._carried_over(model, task.select(rows))
            margin = self._margin(task.labels[rows], logits)
            fooled[rows] = self.is_fooled(logits, task.labels[rows])
            better = fooled[rows] | (margin > margins[rows])
            images[rows[better]], margins[rows[better]] = found[better], margin[better]
        return Outcome(images, fooled)

    def _carried_over(self, model: Any, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Images made on `model`, and the logits `(n, classes)` that the attacked model has."""
        prepare(model, task.images, task.labels, self.bounds)
        classes = classifier_output(model).num_classes
        if classes != task.logits.shape[1]:
            raise ValueError(
                f"`models` must have the {task.logits.shape[1]} classes of the attacked model. "
                f"Received: model {model.name!r} with {classes}"
            )
        images = self.attack.perturb(task.replace(model=model, logits=None)).images
        return images, task.replace(images=images, logits=None).predict().logits

    def _margin(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        margin = np.asarray(objectives.margin(labels, logits))
        return -margin if self.targeted else margin
