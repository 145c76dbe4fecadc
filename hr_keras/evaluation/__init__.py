"""What a classifier gets right, clean and under attack."""

from hr_keras.evaluation._confusion import confusion_matrix, log_probabilities
from hr_keras.evaluation._robust import RobustAccuracy, robust_accuracy
from hr_keras.evaluation._sweep import Sweep, sweep

__all__ = [
    "RobustAccuracy",
    "Sweep",
    "confusion_matrix",
    "log_probabilities",
    "robust_accuracy",
    "sweep",
]
