"""Saved models from anywhere: loaded without running their code, checked against the data."""

import hashlib
import pathlib
import re
import zipfile

import keras

from hr_keras._core.files import Path
from hr_keras._core.logits import classifier_output
from hr_keras.datasets import Dataset

__all__ = ["load_model"]


def load_model(path: Path) -> keras.Model:
    """Loads a model from a `.keras` file, in Keras' safe mode.

    Args:
        path: The file.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: If the file is missing, damaged or no Keras model, or would run its own code.

    Example:
        ```python
        from hr_keras.audit.load import load_model

        model.save("model.keras")
        model = load_model("model.keras")
        ```
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    if not zipfile.is_zipfile(path) or path.suffix != ".keras":
        raise ValueError(
            f"{path} is not a Keras model: a .keras file was expected, as "
            "model.save('model.keras') writes it. Load a model in another format (.h5, "
            "SavedModel) where it was made, and save it again in this one."
        )
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # damage and missing classes show as any of a dozen types
        raise ValueError(_explain(path, str(error))) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} does not hold a model. Received: {type(model).__name__}")
    return model


def _explain(path: pathlib.Path, message: str) -> str:
    # What Keras says holds names from the file.
    message = "".join(c if c.isprintable() or c == "\n" else " " for c in message)
    first = (message.strip().splitlines() or ["no reason given"])[0][:300]
    in_python = (
        "build the model in Python, load its weights, and call hr_keras.audit.audit(model, "
        "images, labels, epsilon) on it"
    )
    if "safe_mode" in message or "unsafe" in message:
        return (
            f"{path} holds code (such as a Lambda layer) that would run on loading, and is "
            "refused. If you trust where it comes from: replace the Lambda by a class registered "
            f"with keras.saving.register_keras_serializable and save again, or {in_python}."
        )
    if named := re.search(r"Could not locate \w+ '([^']*)'", message):
        return (
            f"{path} needs a class that is not known here, {named[1]!r}. Make the model of Keras' "
            f"own layers, or {in_python}."
        )
    return f"{path} could not be loaded as a Keras model: {first}"


def check_fit(model: keras.Model, dataset: Dataset, name: str) -> None:
    """Raises a ValueError unless a model takes the images of a data set, and has its classes.

    Args:
        model: A Keras classifier.
        dataset: The data set.
        name: Its name.
    """
    given = dataset.test.images.shape[1:]
    wanted = _find_input_shape(model)
    fits = wanted is None or (
        len(wanted) == len(given)
        and all(side in (None, other) for side, other in zip(wanted, given, strict=True))
    )
    if not fits:
        raise ValueError(
            f"Model {model.name!r} takes images of shape {wanted}; those of {name} are {given}. "
            "Audit it on the data that it was trained for."
        )
    classes = classifier_output(model, dataset.test.images).num_classes
    if classes != dataset.num_classes:
        raise ValueError(
            f"Model {model.name!r} has {classes} classes; the labels of {name} are from 0 to "
            f"{dataset.num_classes - 1}. Audit it on the data that it was trained for."
        )


def _find_input_shape(model: keras.Model) -> tuple[int | None, ...] | None:
    """Shape of one image, `None` for a side of any size; `None` if it is not known."""
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):  # a subclassed model
        return None
    return tuple(shape[1:]) if isinstance(shape, tuple) else None


def find_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
