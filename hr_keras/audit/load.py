"""Saved models from anywhere: loaded without running their code, checked against the data."""

import hashlib
import json
import math
import pathlib
import re
import zipfile

import keras

from hr_keras._core.files import Path
from hr_keras._core.logits import classifier_output
from hr_keras.datasets import Dataset

__all__ = ["load_model"]

Shape = tuple[int | None, ...]
# Bytes of the description of a model: Keras reads all of it before it looks at any.
LARGEST_DESCRIPTION = 64 * 2**20
LARGEST_EXPANSION = 20


def load_model(path: Path) -> keras.Model:
    """Loads a model from a `.keras` or `.h5` file, in Keras' safe mode.

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
    if problem := _find_problem(path):
        raise ValueError(problem)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # damage and missing classes show as any of a dozen types
        raise ValueError(_explain(path, str(error))) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} does not hold a model. Received: {type(model).__name__}")
    return model


def _find_problem(path: pathlib.Path) -> str | None:
    """What is wrong with a file at the first look, or `None`."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return (
            f"{path} is a git-lfs pointer, not the model: {path.stat().st_size} bytes of text that "
            "stand for a file elsewhere. Fetch it with `git lfs pull`."
        )
    if path.suffix in (".h5", ".hdf5") and start.startswith(b"\x89HDF\r\n"):
        return None
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        return (
            f"{path} is not a Keras model: a .keras file was expected, as "
            "model.save('model.keras') writes it, or an .h5 file. Where another format loads, "
            "such as SavedModel, run keras.models.load_model(…, compile=False).save('model.keras')."
        )
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            limit = LARGEST_DESCRIPTION
            if not entry.filename.endswith(".json"):  # weights hardly shrink
                limit += LARGEST_EXPANSION * entry.compress_size
            if entry.file_size > limit:
                return (
                    f"{path} is refused: its part {_printable(entry.filename)!r} would unpack to "
                    f"{entry.file_size:,} bytes; at most {limit:,} were expected."
                )
    return None


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _find_keras_version(path: pathlib.Path) -> str | None:
    """The version that wrote a `.keras` file, if it says so and is older than 3."""
    try:
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
    except Exception:  # of a damaged file, or one that is no archive
        return None
    return version if re.fullmatch(r"[012]\.[\w.+-]{1,30}", str(version)) else None


def _explain(path: pathlib.Path, message: str) -> str:
    message = _printable(message)  # what Keras says holds names from the file
    # The first lines quote the configuration, the last one says what is wrong with it.
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no reason given"
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
    if version := _find_keras_version(path):
        return (
            f"{path} was saved by Keras {version}, and this is Keras {keras.__version__}, which "
            f"says: {last} Where it loads, run keras.models.load_model({path.name!r}, "
            f"compile=False).save('{path.stem}.h5') and audit that, or {in_python}."
        )
    if named := re.search(r"(?:Could not locate \w+|Unknown \w+:) '([^']*)'", message):
        return (
            f"{path} needs a class that is not known here, {named[1]!r}. Make the model of Keras' "
            f"own layers, or {in_python}."
        )
    return f"{path} could not be loaded as a Keras model: {last}"


def give_shape(model: keras.Model, dataset: Dataset, name: str) -> Dataset:
    """Returns a data set with its test images in the shape that a model takes.

    Args:
        model: A Keras classifier.
        dataset: The data set.
        name: Its name.

    Raises:
        ValueError: If the model takes other images, or has other classes.
    """
    given, wanted = dataset.test.images.shape[1:], _find_input_shape(model)
    if wanted is not None and not _fits(given, wanted):
        if not _is_same_order(given, wanted):
            raise ValueError(
                f"Model {model.name!r} takes images of shape {wanted}; those of {name} are "
                f"{given}. Audit it on the data that it was trained for."
            )
        images = dataset.test.images.reshape(-1, *(side or 1 for side in wanted))
        dataset = dataset._replace(test=dataset.test._replace(images=images))
    classes = classifier_output(model, dataset.test.images).num_classes
    if classes != dataset.num_classes:
        raise ValueError(
            f"Model {model.name!r} has {classes} classes; the labels of {name} are from 0 to "
            f"{dataset.num_classes - 1}. Audit it on the data that it was trained for."
        )
    return dataset


def _fits(given: Shape, wanted: Shape) -> bool:
    return len(wanted) == len(given) and all(
        side in (None, other) for side, other in zip(wanted, given, strict=True)
    )


def _is_same_order(given: tuple[int, ...], wanted: Shape) -> bool:
    """Whether only sides of 1 differ, or the model takes flat images: no axes are exchanged."""
    sides = [tuple(side for side in shape if side != 1) for shape in (given, wanted)]
    return sides[0] == sides[1] or (len(sides[1]) == 1 and math.prod(given) == sides[1][0])


def _find_input_shape(model: keras.Model) -> Shape | None:
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
