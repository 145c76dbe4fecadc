"""Classifiers of the paper; `logits_model` is at home in `logits`."""

import functools

import keras
import numpy as np
from keras import layers

from hr_keras._core import replicas
from hr_keras._core.logits import logits_model

__all__ = ["logits_model", "mnist_cnn", "resnet", "resnet8"]


def mnist_cnn(
    input_shape=(28, 28, 1),
    num_classes=10,
    classifier_activation="softmax",
    mean_image=None,
    seed=None,
):
    """The paper's MNIST network: two times (convolution 3×3, max-pooling), two dense layers.

    32 and 64 filters, a dense layer of 128, a classifier of `num_classes`; ReLU; 225,034
    parameters for MNIST. The paper gives no widths; these are those of Keras' own MNIST
    example.

    Args:
        input_shape: `(height, width, channels)`, at least 10×10.
        num_classes: at least 2.
        classifier_activation: activation of the last layer, as in `keras.applications`;
            `None` returns logits.
        mean_image: array that broadcasts to `input_shape`, subtracted from every image
            inside the model, so that attacks and users see the same scale.
        seed: integer; the same seed gives the same initial weights. `None`: Keras' own.

    Returns:
        A functional `keras.Model` on float images, `(n, *input_shape)` → `(n, num_classes)`.

    Raises:
        ValueError: for fewer than 2 classes, smaller images or a mean image of another shape.

    Example:
        >>> model = mnist_cnn(seed=0)
        >>> model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
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
    n=1,
    input_shape=(32, 32, 3),
    num_classes=10,
    classifier_activation="softmax",
    mean_image=None,
    seed=None,
    synchronized=None,
):
    """CIFAR ResNet v1 with 6n + 2 layers: three stages of n blocks, 16, 32 and 64 filters.

    Batch normalisation after each convolution, He-normal initialisation, L2 penalty 1e-4
    on the kernels, a 1×1 convolution on the shortcut where the shape changes.

    Args:
        n: blocks a stage; 1 gives ResNet-8, 3 ResNet-20.
        input_shape: `(height, width, channels)`.
        num_classes: at least 2.
        classifier_activation: activation of the last layer, as in `keras.applications`;
            `None` returns logits.
        mean_image: array that broadcasts to `input_shape`, subtracted from every image
            inside the model, so that attacks and users see the same scale.
        seed: integer; the same seed gives the same initial weights. `None`: Keras' own.
        synchronized: whether batch normalisation runs over the batches of all replicas
            (TensorFlow only). `None`: where the model is built in the scope of a strategy of
            several replicas. Without it every replica keeps moving statistics of its own.

    Returns:
        A functional `keras.Model` on float images, `(n, *input_shape)` → `(n, num_classes)`.

    Raises:
        ValueError: for `n` < 1, fewer than 2 classes or a mean image of another shape.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2;
        projection shortcuts as in Keras' CIFAR-10 ResNet example.

    Example:
        >>> model = resnet(n=3, num_classes=10)  # ResNet-20
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
    input_shape=(32, 32, 3),
    num_classes=10,
    classifier_activation="softmax",
    mean_image=None,
    seed=None,
    synchronized=None,
):
    """The paper's ResNet-8 for CIFAR-10 and SVHN: `resnet(n=1, …)`, same arguments.

    Example:
        >>> model = resnet8(mean_image=x_train.mean(axis=0))
    """
    return resnet(
        1, input_shape, num_classes, classifier_activation, mean_image, seed, synchronized
    )


def _convolution(x, filters, seeds, synchronized, name, strides=1, relu=True):
    x = layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(seed=next(seeds)),
        kernel_regularizer=keras.regularizers.L2(1e-4),
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(synchronized=synchronized, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _residual_block(x, filters, strides, seeds, convolution, name):
    y = convolution(x, filters, name=f"{name}_1", strides=strides)
    y = convolution(y, filters, name=f"{name}_2", relu=False)
    if x.shape[-1] != filters or strides != 1:
        x = layers.Conv2D(
            filters,
            1,
            strides=strides,
            padding="same",
            kernel_initializer=keras.initializers.HeNormal(seed=next(seeds)),
            kernel_regularizer=keras.regularizers.L2(1e-4),
            name=f"{name}_projection",
        )(x)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def _subtract_mean(inputs, mean_image):
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


def _check_num_classes(num_classes):
    if not num_classes >= 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: num_classes={num_classes}")


def _seeds(seed):
    """One seed a layer: independent draws that only `seed` determines."""
    state = np.random.SeedSequence(seed)
    while True:
        yield None if seed is None else int(state.spawn(1)[0].generate_state(1)[0])


def _glorot(seeds):
    return keras.initializers.GlorotUniform(seed=next(seeds))
