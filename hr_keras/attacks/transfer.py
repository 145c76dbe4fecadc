"""Transfer: adversarial examples made on other models, the attacker who cannot see this one."""

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from hr_keras._core.checks import Bounds
from hr_keras._core.logits import classifier_output
from hr_keras.attacks import closed_forms
from hr_keras.attacks._attack import Attack
from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._task import Outcome, Task, prepare
from hr_keras.attacks.worst_case import WorstCase

__all__ = ["Transfer"]


@dataclass(frozen=True)
class Transfer(Attack):
    """Attacks a model by adversarial examples that were made on other models.

    ```
    x' = attack(other, x, y) of the first model `other` for which x' fools the attacked model
    ```

    If no image fools the model, the one of the largest margin is returned. An iterative attack
    makes all its steps, as if `stop_early=False`: an image that just fools another model, or
    that the other model got wrong before, seldom fools this one. Of a `WorstCase` each part
    makes images.

    Costs what all steps of `attack` cost on each of the other models, and one forward pass of
    the model for each, of the examples not yet fooled, and one of all.

    Args:
        attack: Attack that makes the examples, without access to the model.
        models: Keras classifiers of the same images and classes; one, or several.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Has no effect here: `attack` has its own.
        name: Name in logs and tables. Default: `"transfer_"` and the name of the attack.

    Raises:
        ValueError: If an argument is not as described, or, in a call, for models with different
            numbers of classes.

    References:
        - Papernot et al. 2017, "Practical Black-Box Attacks against Machine Learning"
        - Dong et al. 2018, "Boosting Adversarial Attacks with Momentum"

    Example:
        ```python
        from hr_keras.attacks import MomentumPGD, Transfer

        other_model = keras.models.clone_model(model)
        attack = Transfer(MomentumPGD(0.1, n_iter=5), [other_model])
        adversarial = attack(model, images, labels)
        ```
    """

    attack: Attack
    models: Any  # a tuple after `__post_init__`
    bounds: Bounds = field(init=False, repr=False, default=(0.0, 1.0))
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
        logits = task.find_logits()
        images, fooled = task.images.copy(), self.is_fooled(logits, task.labels)
        margins = np.full(len(images), -np.inf)
        parts = _all_steps(self.attack)
        for model, attack in itertools.product(self.models, parts):
            rows = np.flatnonzero(~fooled)
            if len(rows) == 0:
                break
            labels = task.labels[rows]
            found = self._make_examples(attack, model, task.select(rows), logits.shape[1])
            seen = task.select(rows).replace(images=found, logits=None).find_logits()
            margin, fooled[rows] = self._margin(labels, seen), self.is_fooled(seen, labels)
            better = fooled[rows] | (margin > margins[rows])
            images[rows[better]], margins[rows[better]] = found[better], margin[better]
        return Outcome(images, fooled)

    def _make_examples(
        self, attack: Attack, model: keras.Model, task: Task, num_classes: int
    ) -> np.ndarray:
        """Attacks another model, which must have as many classes."""
        prepare(model, task.images, task.labels, self.bounds)
        classes = classifier_output(model).num_classes
        if classes != num_classes:
            raise ValueError(
                f"`models` must have the {num_classes} classes of the attacked model. "
                f"Received: model {model.name!r} with {classes}"
            )
        return attack.run(task.replace(model=model, logits=None)).images

    def _margin(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        margin = np.asarray(closed_forms.margin(labels, logits))
        return -margin if self.targeted else margin


def _all_steps(attack: Attack) -> tuple[Attack, ...]:
    """Returns the attacks that make images, none of which stops early."""
    if isinstance(attack, WorstCase):
        return tuple(itertools.chain.from_iterable(map(_all_steps, attack.attacks)))
    if isinstance(attack, IterativeAttack):
        attack = copy.copy(attack)
        attack._normalise(stop_early=False)
    return (attack,)
