"""What attacks that attempt other classes one after another share."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

from hr_keras._core.checks import check_count
from hr_keras.attacks import objectives
from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._task import State, Task


@dataclass(frozen=True)
class TargetChoosingAttack(IterativeAttack):
    """Base class of the attacks that attempt `n_targets` other classes, the likeliest first."""

    _: KW_ONLY
    n_targets: int = 9

    OBJECTIVES: ClassVar[dict[str, objectives.TargetedObjective]] = {
        one.name: one for one in (objectives.TARGETED_DLR, objectives.LOGIT_DIFFERENCE)
    }

    def __post_init__(self) -> None:
        self._normalise(n_targets=check_count("n_targets", self.n_targets))
        super().__post_init__()

    def _check_objective(self) -> Any:
        if not self.has_targets:
            return super()._check_objective()
        if self.targeted:
            raise ValueError(
                f"`targeted` must be False with objective={self.objective!r}, which chooses its "
                "targets. Received: targeted=True"
            )
        return self.objective

    @property
    def has_targets(self) -> bool:
        """Whether the objective leads to one class."""
        return isinstance(self.objective, str) and self.objective in self.OBJECTIVES

    def found_objective(self) -> Any:
        if not self.has_targets:
            return super().found_objective()
        return self.OBJECTIVES[str(self.objective)]

    def find_targets(self, task: Task) -> np.ndarray:
        if not self.has_targets:
            return super().find_targets(task)
        logits = np.array(task.find_logits())
        labels = task.labels if task.labels.ndim == 1 else task.labels.argmax(axis=-1)
        logits[np.arange(len(logits)), labels] = -np.inf
        order = np.argsort(-logits, axis=-1, kind="stable")
        return order[:, : min(self.n_targets, logits.shape[1] - 1)].astype("int32")

    def _labels(self, state: State) -> tuple[Any, ...]:
        return (state.label, state.target) if self.has_targets else super()._labels(state)
