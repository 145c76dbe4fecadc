"""The classifiers of the paper, and any model as attacks need it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from hr_keras._core import replicas
from hr_keras._core.attack_view import attack_view
from hr_keras._core.logits import input_spec
from hr_keras._core.logits_model import logits_model

__all__ = ["attack_view", "logits_model", "mnist_cnn", "resnet", "resnet8", "with_preprocessing"]


def mnist_cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    classifier_activation: str | None = "softmax",
    mean_image: Any = None,
    seed: int | None = None,
) -> keras.Model:
    """Builds the paper's MNIST network: twice (convolution 3×3, max-pooling), two dense layers.

    It has 32 and 64 filters, a dense layer of 128 units and a classifier of `num_classes`
    units, with ReLU: 225,034 parameters for MNIST. The paper gives no widths; these are those
    of the MNIST example of Keras.

    Args:
        input_shape: `(height, width, channels)`, at least 10×10. Default `(28, 28, 1)`.
        num_classes: Number of classes, at least 2. Default 10.
        classifier_activation: Activation of the last layer, as in `keras.applications`.
            Default `"softmax"`; `None` returns logits.
        mean_image: Array that broadcasts to `input_shape`. It is subtracted from every image
            inside the model, so attacks and users see images in their original scale. Default
            `None`: nothing is subtracted.
        seed: The same integer gives the same initial weights. Default `None`: Keras' own seeds.

    Returns:
        A functional `keras.Model` on float images, `(n, *input_shape)` → `(n, num_classes)`.

    Raises:
        ValueError: If there are fewer than 2 classes, the images are smaller than 10×10, or
            the mean image does not broadcast to `input_shape`.

    References:
        - "A novel loss to train DNNs", section on experiments.

    Example:

    ```python
    from hr_keras import HRLoss
    from hr_keras.models import mnist_cnn

    model = mnist_cnn(seed=0)
    model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
    ```
    """
    _check_num_classes(num_classes)
    if min(input_shape[:2]) < 10:
        raise ValueError(f"Images must be at least 10×10. Received: input_shape={input_shape}")
    seeds = _seeds(seed)
    inputs = keras.Input(input_shape, name="images")
    x = _subtract_mean(inputs, mean_image)
    for k, filters in enumerate((32, 64)):
        x = layers.Conv2D(
            filters, 3, activation="relu", kernel_initializer=_glorot(seeds), name=f"conv{k + 1}"
        )(x)
        x = layers.MaxPooling2D(name=f"pool{k + 1}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", kernel_initializer=_glorot(seeds), name="dense")(x)
    outputs = layers.Dense(
        num_classes,
        activation=classifier_activation,
        kernel_initializer=_glorot(seeds),
        name="classifier",
    )(x)
    return keras.Model(inputs, outputs, name="mnist_cnn")


def resnet(
    n: int = 1,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    classifier_activation: str | None = "softmax",
    mean_image: Any = None,
    seed: int | None = None,
    synchronized: bool | None = None,
) -> keras.Model:
    """Builds the CIFAR ResNet v1 with 6n + 2 layers: three stages of n blocks.

    The stages have 16, 32 and 64 filters. Each convolution is followed by batch normalization.
    Kernels have He-normal initial values and an L2 penalty of 1e-4. A 1×1 convolution is on
    the shortcut where the shape changes.

    Args:
        n: Blocks per stage; 1 (default) gives ResNet-8, 3 gives ResNet-20.
        input_shape: `(height, width, channels)`. Default `(32, 32, 3)`.
        num_classes: Number of classes, at least 2. Default 10.
        classifier_activation: Activation of the last layer, as in `keras.applications`.
            Default `"softmax"`; `None` returns logits.
        mean_image: Array that broadcasts to `input_shape`. It is subtracted from every image
            inside the model, so attacks and users see images in their original scale. Default
            `None`: nothing is subtracted.
        seed: The same integer gives the same initial weights. Default `None`: Keras' own seeds.
        synchronized: Whether batch normalization uses the batches of all replicas (TensorFlow
            only). Without it, the moving statistics of the replicas differ. Default `None`: if
            the model is built in the scope of a strategy with several replicas.

    Returns:
        A functional `keras.Model` on float images, `(n, *input_shape)` → `(n, num_classes)`.

    Raises:
        ValueError: If `n` < 1, there are fewer than 2 classes, or the mean image does not
            broadcast to `input_shape`.

    References:
        - He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
        - Keras' CIFAR-10 ResNet example (projection shortcuts).

    Example:

    ```python
    from hr_keras.models import resnet

    model = resnet(n=3, num_classes=10)  # ResNet-20
    ```
    """
    if not (isinstance(n, int) and n >= 1):
        raise ValueError(f"`n` must be a positive integer (blocks a stage). Received: n={n!r}")
    _check_num_classes(num_classes)
    if synchronized is None:
        synchronized = replicas.replicas_in_scope() > 1
    seeds = _seeds(seed)
    convolution = functools.partial(_convolution, seeds=seeds, synchronized=synchronized)
    inputs = keras.Input(input_shape, name="images")
    x = convolution(_subtract_mean(inputs, mean_image), 16, name="stem")
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(n):
            strides = 2 if stage > 0 and block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            x = _residual_block(x, filters, strides, seeds, convolution, name)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    outputs = layers.Dense(
        num_classes,
        activation=classifier_activation,
        kernel_initializer=keras.initializers.HeNormal(seed=next(seeds)),
        name="classifier",
    )(x)
    return keras.Model(inputs, outputs, name=f"resnet{6 * n + 2}")


def resnet8(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    classifier_activation: str | None = "softmax",
    mean_image: Any = None,
    seed: int | None = None,
    synchronized: bool | None = None,
) -> keras.Model:
    """Builds the paper's ResNet-8 for CIFAR-10 and SVHN: `resnet(n=1, …)`.

    Args:
        input_shape: See `resnet`.
        num_classes: See `resnet`.
        classifier_activation: See `resnet`.
        mean_image: See `resnet`.
        seed: See `resnet`.
        synchronized: See `resnet`.

    Returns:
        A functional `keras.Model`, as from `resnet`.

    Example:

    ```python
    from hr_keras.models import resnet8

    model = resnet8(input_shape=(28, 28, 1), mean_image=x_train.mean(axis=0))
    ```
    """
    return resnet(
        1, input_shape, num_classes, classifier_activation, mean_image, seed, synchronized
    )


def with_preprocessing(
    model: keras.Model, function: Callable[[Any], Any], input_shape: tuple[int, ...] | None = None
) -> keras.Model:
    """Puts preprocessing in front of a model, so that attacks and users see the same images.

    The operations of the function become part of the model, without a `Lambda` layer: it can be
    saved and is loaded in Keras' safe mode. `keras.applications` with their `preprocess_input`
    then take pixels from 0 to 255: attack them with `bounds=(0, 255)` and ε in this unit.

    Args:
        model: A Keras model of one input. It shares its weights with the new model.
        function: A layer, or a function written with `keras.ops`, such as
            `keras.applications.mobilenet_v2.preprocess_input`.
        input_shape: Shape of an image before preprocessing, such as `(None, None, 3)` before a
            `Resizing` layer. Default `None`: that of the model.

    Returns:
        A functional `keras.Model` of float32 images.

    Raises:
        ValueError: If the function cannot be made part of a model, or the model has several
            inputs.

    Example:

    ```python
    from hr_keras.models import with_preprocessing

    network = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, weights=None, classes=10
    )
    classifier = with_preprocessing(network, keras.applications.mobilenet_v2.preprocess_input)
    ```
    """
    if not callable(function):
        raise ValueError(f"`function` must be a layer or a function. Received: {function!r}")
    batch_size, shape, _ = input_spec(model)
    inputs = keras.Input(input_shape or shape, batch_size, dtype="float32", name="images")
    try:
        images = function(inputs)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`function` must be a Keras layer, or written with `keras.ops` alone. "
            f"Received: {getattr(function, '__name__', function)}, which fails with: {error}"
        ) from error
    return keras.Model(inputs, model(images), name=f"{model.name}_with_preprocessing")


def _convolution(
    x: Any,
    filters: int,
    seeds: Iterator[int | None],
    synchronized: bool,
    name: str,
    strides: int = 1,
    relu: bool = True,
) -> Any:
    x = layers.Conv2D(filters, 3, strides, use_bias=False, name=f"{name}_conv", **_kernel(seeds))(x)
    x = layers.BatchNormalization(synchronized=synchronized, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _residual_block(
    x: Any,
    filters: int,
    strides: int,
    seeds: Iterator[int | None],
    convolution: Any,
    name: str,
) -> Any:
    y = convolution(x, filters, name=f"{name}_1", strides=strides)
    y = convolution(y, filters, name=f"{name}_2", relu=False)
    if x.shape[-1] != filters or strides != 1:
        x = layers.Conv2D(filters, 1, strides, name=f"{name}_projection", **_kernel(seeds))(x)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def _kernel(seeds: Iterator[int | None]) -> dict[str, Any]:
    return {
        "padding": "same",
        "kernel_initializer": keras.initializers.HeNormal(seed=next(seeds)),
        "kernel_regularizer": keras.regularizers.L2(1e-4),
    }


def _subtract_mean(inputs: Any, mean_image: Any) -> Any:
    if mean_image is None:
        return inputs
    shape = inputs.shape[1:]
    try:
        mean = np.broadcast_to(np.asarray(mean_image, "float32"), shape)
    except ValueError:
        raise ValueError(
            f"`mean_image` must broadcast to the input shape {tuple(shape)}. "
            f"Received: mean_image.shape={np.shape(mean_image)}"
        ) from None
    axes = tuple(range(1, len(shape) + 1))
    return layers.Normalization(
        axis=axes, mean=mean, variance=np.ones(shape, "float32"), name="subtract_mean"
    )(inputs)


def _check_num_classes(num_classes: int) -> None:
    if not num_classes >= 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: num_classes={num_classes}")


def _seeds(seed: int | None) -> Iterator[int | None]:
    """Yields one seed per layer, all determined by `seed`; `None` for `None`."""
    state = np.random.SeedSequence(seed)
    while True:
        yield None if seed is None else int(state.spawn(1)[0].generate_state(1)[0])


def _glorot(seeds: Iterator[int | None]) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=next(seeds))
