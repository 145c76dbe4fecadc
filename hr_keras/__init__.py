"""Train Keras classifiers with the HR loss, attack them, and say which numbers to believe."""

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hr_keras")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "unknown"

__all__ = ["HRLoss", "__version__"]


def __getattr__(name):
    if name == "HRLoss":
        return importlib.import_module("hr_keras.losses").HRLoss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register():
    """Make our classes known to Keras: saved models then load without `custom_objects`."""
    importlib.import_module("hr_keras.losses")
    importlib.import_module("hr_keras.metrics")
    importlib.import_module("hr_keras.logits")


class _RegisterAfterKeras(importlib.abc.MetaPathFinder):
    """Registers our classes at the end of `import keras`, whoever imports it.

    Importing Keras takes seconds (its backend, and matplotlib where there is one). This way
    `import hr_keras` costs nothing, `hr-keras --help` answers at once, and still nobody who
    loads a saved model has to import our modules by name.
    """

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)  # the others know where it is
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)  # being looked for is not being imported
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                sys.meta_path.remove(self)
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register
        return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterAfterKeras())
