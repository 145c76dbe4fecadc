"""Train Keras classifiers with the HR loss, attack them, and say which numbers to believe."""

import importlib
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hr_keras")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "unknown"

_MODULES = (
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
    "training",
)
# Every other public name, and the module that it is at home in.
_NAMES = {"HRLoss": "losses"}

__all__ = ["__version__", *_NAMES, *_MODULES]


def __getattr__(name):  # PEP 562: Keras and TensorFlow are imported with the first use
    if name in _MODULES:
        return importlib.import_module(f"hr_keras.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"hr_keras.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
