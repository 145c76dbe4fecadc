"""The paper's experiments: protocols, training, run folders, and tables and figures of them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hr_keras.experiments.methods import METHODS, Method
    from hr_keras.experiments.protocol import PRESETS, Protocol, from_preset
    from hr_keras.experiments.result import Result
    from hr_keras.experiments.run_folder import RunFolder

__all__ = ["METHODS", "PRESETS", "Method", "Protocol", "Result", "RunFolder", "from_preset"]

_MODULES = {
    "methods": ("METHODS", "Method"),
    "protocol": ("PRESETS", "Protocol", "from_preset"),
    "result": ("Result",),
    "run_folder": ("RunFolder",),
}


def __getattr__(name: str) -> Any:  # as in `hr_keras`: the command line's help imports little
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
