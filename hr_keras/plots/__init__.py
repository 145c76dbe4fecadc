"""Figures from saved results, never from models: the same results give the same bytes."""

from hr_keras.audit.pictures import adversarial_pictures, security_curve
from hr_keras.plots.experiments import (
    accuracy_against_epoch,
    alpha_search,
    confusion_matrices,
    error_bounds,
)

__all__ = [
    "accuracy_against_epoch",
    "adversarial_pictures",
    "alpha_search",
    "confusion_matrices",
    "error_bounds",
    "security_curve",
]
