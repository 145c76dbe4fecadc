"""Transfer: adversarial examples made on other models, the attacker who cannot see this one."""

import keras
import numpy as np

from hr_keras._core.logits import classifier_output
from hr_keras.attacks import objectives
from hr_keras.attacks._attack import Attack, Outcome, prepare


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

    def __init__(self, attack, models, batch_size=256, name=None):
        if not isinstance(attack, Attack):
            raise ValueError(f"`attack` must be an attack. Received: {attack!r}")
        self.attack = attack
        self.models = (models,) if isinstance(models, keras.Model) else tuple(models)
        if not self.models or not all(isinstance(model, keras.Model) for model in self.models):
            raise ValueError(
                f"`models` must hold at least one keras.Model. Received: {self.models!r}"
            )
        super().__init__(
            name or f"transfer_{attack.name}", attack.bounds, attack.targeted, batch_size
        )

    def _perturb(self, task):
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

    def _carried_over(self, model, task):
        """Images made on `model`, and the logits `(n, classes)` that the attacked model has."""
        prepare(model, task.images, task.labels, self.bounds)
        classes = classifier_output(model).num_classes
        if classes != task.logits.shape[1]:
            raise ValueError(
                f"`models` must have the {task.logits.shape[1]} classes of the attacked model. "
                f"Received: model {model.name!r} with {classes}"
            )
        images = self.attack._perturb(task.replace(model=model, logits=None)).images
        return images, task.replace(images=images, logits=None).predict().logits

    def _margin(self, labels, logits):
        margin = np.asarray(objectives.margin(labels, logits))
        return -margin if self.targeted else margin
