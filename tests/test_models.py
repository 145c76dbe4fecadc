import keras
import numpy as np
import pytest

from hr_keras.models import mnist_cnn, resnet, resnet8


def test_architectures_have_the_layers_of_the_paper():
    cnn = mnist_cnn()
    assert cnn.count_params() == 225_034
    kinds = [type(layer).__name__ for layer in cnn.layers]
    assert kinds == ["InputLayer", *["Conv2D", "MaxPooling2D"] * 2, "Flatten", "Dense", "Dense"]
    for n in (1, 3):
        weighted = [
            layer
            for layer in resnet(n).layers
            if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
            and "projection" not in layer.name
        ]
        assert len(weighted) == 6 * n + 2
    filters = [layer.filters for layer in resnet8().layers if hasattr(layer, "filters")]
    assert sorted(set(filters)) == [16, 32, 64]
    # 8 convolutions on the path or beside it, each with an L2 penalty of 1e-4
    assert len(resnet8().losses) == 9


@pytest.mark.parametrize("make", [mnist_cnn, resnet8])
def test_builders(make):
    mean = np.random.default_rng(0).random((12, 12, 1)).astype("float32")
    images = np.random.default_rng(1).random((3, 12, 12, 1)).astype("float32")
    plain = make((12, 12, 1), 5, seed=3)
    centred = make((12, 12, 1), 5, mean_image=mean, seed=3)
    np.testing.assert_allclose(centred(images), plain(images - mean), atol=1e-6)
    np.testing.assert_allclose(plain(images).numpy().sum(axis=-1), 1, rtol=1e-6)
    again, other = make((12, 12, 1), 5, seed=3), make((12, 12, 1), 5, seed=4)
    np.testing.assert_array_equal(again(images), plain(images))
    assert np.abs(other(images) - plain(images)).max() > 1e-3
    with pytest.raises(ValueError, match="num_classes=1"):
        make(num_classes=1)
    with pytest.raises(ValueError, match="mean_image"):
        make((12, 12, 1), mean_image=np.zeros((3, 3)))


def test_a_resnet_without_blocks_is_refused():
    with pytest.raises(ValueError, match="n=0"):
        resnet(0)


def test_a_saved_mean_image_model_needs_nothing_custom(tmp_path):
    model = mnist_cnn((12, 12, 1), 5, mean_image=np.full((12, 12, 1), 0.3))
    images = np.random.default_rng(1).random((3, 12, 12, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
