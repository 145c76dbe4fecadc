"""Train Keras classifiers with the HR loss, attack them, and say which numbers to believe."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hr_keras import (
        attacks,
        audit,
        callbacks,
        datasets,
        diagnostics,
        error_bounds,
        evaluation,
        experiments,
        losses,
        metrics,
        models,
        report,
        training,
    )
    from hr_keras.losses import HRLoss

__all__ = [
    "HRLoss",
    "__version__",
    "attacks",
    "audit",
    "callbacks",
    "datasets",
    "diagnostics",
    "error_bounds",
    "evaluation",
    "experiments",
    "losses",
    "metrics",
    "models",
    "report",
    "training",
]

try:
    __version__ = version("hr_keras")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:  # PEP 562: Keras and TensorFlow are imported at first use
    if name == "HRLoss":
        return importlib.import_module("hr_keras.losses").HRLoss
    if name in __all__:
        return importlib.import_module(f"hr_keras.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
