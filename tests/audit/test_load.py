"""Saved models from anywhere: what is loaded, what is refused, and the shape of their images."""

import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import linear_model
from keras import layers

from hr_keras import audit, datasets, diagnostics
from hr_keras.audit import load, report


class NobodyKnows(layers.Layer):
    def call(self, inputs):
        return inputs


def _edited(whole, path, change, version=None):
    """A copy of a `.keras` file, its description and the version that wrote it changed."""
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as copy,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                assert change[0] in content.decode()
                content = content.decode().replace(*change, 1).encode()
            if name == "metadata.json" and version:
                content = json.dumps({"keras_version": version})
            copy.writestr(name, content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that are no model to be audited, by name."""
    tmp_path = tmp_path_factory.mktemp("models")
    (tmp_path / "text.keras").write_text("not a model")
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x), layers.Dense(3)]).save(
        tmp_path / "code.keras"
    )
    keras.Sequential([keras.Input((4,)), NobodyKnows(), layers.Dense(3)]).save(
        tmp_path / "unknown.keras"
    )
    model = linear_model(1.0)
    model.save(tmp_path / "whole.keras")
    _edited(tmp_path / "whole.keras", tmp_path / "lambda.keras",
            ('"units": 3', '"units": -3, "name": "lambda"'))  # fmt: skip
    _edited(tmp_path / "whole.keras", tmp_path / "escape.keras",
            ('"class_name": "Sequential"', r'"class_name": "X\u001b]0;p\u0007"'))  # fmt: skip
    model.save(tmp_path / "whole.h5")
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x)]).save(tmp_path / "code.h5")
    (tmp_path / "text.h5").write_text("not a model")
    (tmp_path / "pointer.keras").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    _edited(tmp_path / "whole.keras", tmp_path / "second.keras", ('"units"', '"unit"'), "2.13.1")
    _edited(tmp_path / "whole.keras", tmp_path / "large.keras", ("{", "{" + " " * 2**26))
    half = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(half[: len(half) // 2])
    np.savez(tmp_path / "arrays.npz", a=1)
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.keras")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.keras", "There is no file"),
        ("text.keras", "is not a Keras model: a .keras file was expected"),
        ("half.keras", "is not a Keras model"),
        ("arrays.keras", "could not be loaded as a Keras model"),
        ("text.h5", "is not a Keras model: a .keras file was expected"),
        ("code.h5", "holds code .* refused"),
        ("pointer.keras", "is a git-lfs pointer.*git lfs pull"),
        (
            "second.keras",
            r"saved by Keras 2\.13\.1, .*Dense.* compile=False\)\.save\('second\.h5'\)",
        ),
        ("large.keras", "'config.json' would unpack to 67,1"),
        ("code.keras", "holds code .* refused. If you trust where it comes from"),
        ("unknown.keras", "needs a class that is not known here, 'NobodyKnows'"),
        ("lambda.keras", "could not be loaded as a Keras model"),
        ("escape.keras", r"could not be loaded as a Keras model: [ -~]*keras\.X ]0;p [ -~]*$"),
    ],
)
def test_files_that_are_no_model(folder, name, message):
    with pytest.raises(ValueError, match=message):
        load.load_model(folder / name)


@pytest.mark.parametrize("name", ["whole.keras", "whole.h5"])
def test_a_whole_file_is_loaded(folder, name):
    images = np.random.default_rng(1).normal(size=(5, 2, 2, 3)).astype("float32")
    model = load.load_model(folder / name)
    np.testing.assert_array_equal(model(images), linear_model(1.0)(images))


def data_of(shape, n=6):
    images = np.random.default_rng(0).random((n, *shape)).astype("float32")
    return datasets.Dataset(*[datasets.Split(images, np.arange(n) % 3)] * 3)


def flat_model(shape):
    reduce = layers.GlobalAveragePooling2D() if None in shape else layers.Flatten()
    return keras.Sequential([keras.Input(shape), reduce, layers.Dense(3)])


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [((4, 4, 1), (4, 4)), ((4, 4, 1), (16,)), ((4, 4, 1), (1, 4, 4)), ((4, 4, 3), (48,)),
     ((4, 4, 1), (None, None, 1))],
)  # fmt: skip
def test_images_are_given_the_shape_that_a_model_takes(stored, wanted):
    """Pixels keep their order."""
    data = data_of(stored)
    model = flat_model(wanted)
    images = load.give_shape(model, data, "data").test.images
    assert images.shape[1:] == (stored if None in wanted else wanted)
    np.testing.assert_array_equal(images.ravel(), data.test.images.ravel())


@pytest.mark.parametrize(
    ("stored", "wanted"), [((4, 4, 3), (3, 4, 4)), ((4, 4, 1), (8, 2)), ((4, 4, 1), (5, 5, 1))]
)
def test_images_of_another_size_or_order_are_refused(stored, wanted):
    with pytest.raises(ValueError, match="takes images of shape"):
        load.give_shape(flat_model(wanted), data_of(stored), "data")


def test_pixels_and_shape_of_an_audit_of_a_file(tmp_path, monkeypatch):
    """A model of flat pixels from 0 to 255, in an .h5 file; diagnostics are not run here."""
    checked = {}
    monkeypatch.setattr(
        diagnostics, "check",
        lambda model, images, labels, epsilon, norm, bounds, *_: checked.update(
            images=images, epsilon=epsilon, bounds=bounds) or [],
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (30, 16), "uint8")
    images[0, 0] = 255
    labels = np.eye(3, dtype=int)[np.arange(30) % 3]
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    keras.Sequential(
        [keras.Input((16,)), layers.Rescaling(1 / 255), layers.Dense(3, activation="softmax")]
    ).save(tmp_path / "model.h5")
    _, result = audit.audit_file(
        tmp_path / "model.h5", tmp_path / "data.npz", 8.0, attacks="noise", bounds=(0, 255),
        examples=6, folder=tmp_path / "audit",
    )  # fmt: skip
    np.testing.assert_allclose(checked["images"], images[:6], atol=1e-4)
    assert (checked["epsilon"], checked["bounds"]) == (8.0, (0.0, 255.0))
    assert result.labels == (0, 1, 2, 0, 1, 2)
    text = report.format_audit(result)
    assert "images: of shape (4, 4, 1), reshaped to what the model takes" in text
    assert "pixels: from 0 to 255" in text
