"""Classifiers of the paper, and `logits_model`: any Keras classifier as one that ends in logits."""

import weakref
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from hr_keras import information

_OUTPUTS = weakref.WeakKeyDictionary()
_TRACED = weakref.WeakKeyDictionary()


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
    seeds = _seeds(seed)
    inputs = keras.Input(input_shape, name="images")
    x = _convolution(_subtract_mean(inputs, mean_image), 16, seeds, "stem")
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(n):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _residual_block(x, filters, strides, seeds, f"stage{stage + 1}_block{block + 1}")
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
):
    """The paper's ResNet-8 for CIFAR-10 and SVHN: `resnet(n=1, …)`, same arguments.

    Example:
        >>> model = resnet8(mean_image=x_train.mean(axis=0))
    """
    return resnet(1, input_shape, num_classes, classifier_activation, mean_image, seed)


def _convolution(x, filters, seeds, name, size=3, strides=1, relu=True):
    x = layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(seed=next(seeds)),
        kernel_regularizer=keras.regularizers.L2(1e-4),
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _residual_block(x, filters, strides, seeds, name):
    y = _convolution(x, filters, seeds, f"{name}_1", strides=strides)
    y = _convolution(y, filters, seeds, f"{name}_2", relu=False)
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


def check_backend():
    """A ValueError unless Keras runs on TensorFlow, which attacks are written in."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Attacks, `evaluation.sweep`, `FGSMCallback` and `logits_model` need the TensorFlow "
            "backend for now: set KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: keras.backend.backend()={keras.backend.backend()!r}"
        )


class ClassifierOutput(NamedTuple):
    """What a classifier returns.

    Attributes:
        kind: `"softmax"`: a softmax whose logits can be had; `"probabilities"`: rows that
            are not negative and sum to 1 (seen on a probe batch), with no softmax in
            sight; `"logits"`: anything else.
        num_classes: size of the last axis.
        input_dtype: what the model takes its images as.
    """

    kind: str
    num_classes: int
    input_dtype: str


def classifier_output(model, images=None):
    """What a classifier returns, found by tracing it once.

    Args:
        model: a Keras classifier, `(n, ...)` → `(n, classes)`.
        images: a few inputs; needed only for a subclassed model that was never called.

    Returns:
        A `ClassifierOutput`.

    Raises:
        ValueError: if the output is not one tensor `(n, classes)` with classes ≥ 2; on
            another backend than TensorFlow.
    """
    check_backend()
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if _OUTPUTS.get(model, (None, None))[0] != structure(model):
        if images is not None and not model.built:
            model(images[:1], training=False)
        _OUTPUTS[model] = (structure(model), _find_output(model))
    return _OUTPUTS[model][1]


def structure(model):
    """Changes with the layers and their activations: code compiled before is then stale."""
    parts = []
    for layer in model.layers:
        nested = structure(layer) if isinstance(layer, keras.Model) else ()
        parts.append((id(layer), id(getattr(layer, "activation", None)), nested))
    return tuple(parts)


def _find_output(model):
    import tensorflow as tf

    seen = []

    def look(inputs):
        outputs = model(inputs, training=False)
        seen.append((outputs, information.known_logits(outputs)))
        return outputs

    shape, dtype = _input_spec(model)
    traced = tf.function(look)
    traced.get_concrete_function(tf.TensorSpec((None, *shape), dtype))
    outputs, logits = seen[-1]
    output_shape = getattr(outputs, "shape", None)
    if output_shape is None or len(output_shape) != 2 or not (output_shape[-1] or 0) >= 2:
        raise ValueError(
            "A classifier must return one tensor of shape (n, classes) with at least 2 classes. "
            f"Received: model {model.name!r} returning {output_shape or type(outputs).__name__}"
        )
    classes = int(output_shape[-1])
    if logits is not None:
        return ClassifierOutput("softmax", classes, dtype)
    probe = np.random.default_rng(0).random((8, *(size or 32 for size in shape)))
    outputs = np.asarray(ops.cast(traced(tf.cast(probe, dtype)), "float32"))
    sums_to_one = np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-2)
    kind = "probabilities" if sums_to_one and (outputs >= 0).all() else "logits"
    return ClassifierOutput(kind, classes, dtype)


def _input_spec(model):
    """Shape without the batch axis, and dtype, of the one input of `model`."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) != 1:
            raise ValueError(
                f"A classifier must take one input. Received: model {model.name!r} "
                f"with {len(inputs)} inputs"
            )
        return tuple(inputs[0].shape[1:]), inputs[0].dtype
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            f"The input shape of model {model.name!r} is not known: call it once on a batch "
            "of images first."
        )
    return tuple(shape[1:]), model.input_dtype


def logits_of(model, images):
    """The model's logits, float32 or better, inside a TensorFlow graph.

    Looks behind a final softmax; where a model returns probabilities that no softmax
    made, these are their logarithms, floored at the smallest normal float32.
    `classifier_output(model)` must have been asked before, outside the graph.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` symbolic tensor.

    Returns:
        `(n, classes)`.
    """
    kind = _OUTPUTS[model][1].kind
    outputs = model(images, training=False)
    if kind == "softmax":
        outputs = information.known_logits(outputs)
    if keras.backend.standardize_dtype(outputs.dtype) != "float64":
        outputs = ops.cast(outputs, "float32")
    if kind == "probabilities":
        outputs = ops.log(ops.maximum(outputs, float(np.finfo("float32").tiny)))
    return outputs


@keras.saving.register_keras_serializable(package="hr_keras")
class LogitsModel(keras.Model):
    """See `logits_model`, which makes it."""

    def __init__(self, model, name=None, **kwargs):
        super().__init__(name=name or f"{model.name}_logits", **kwargs)
        self.model = model
        classifier_output(model)

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        import tensorflow as tf

        if training:
            raise ValueError("A logits model is for inference: train the model it was made of.")
        classifier_output(self.model)
        if not tf.executing_eagerly():
            return logits_of(self.model, inputs)
        # The graph knows the logits behind any softmax, eager TensorFlow only Keras' own.
        # Kept outside the model: as an attribute it would be exported with it.
        layers_now = structure(self.model)
        if _TRACED.get(self, (None, None))[0] != layers_now:
            model = weakref.ref(self.model)
            _TRACED[self] = layers_now, tf.function(lambda images: logits_of(model(), images))
        return _TRACED[self][1](inputs)

    def get_config(self):
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model}

    @classmethod
    def from_config(cls, config):
        config = {**config, "model": keras.saving.deserialize_keras_object(config["model"])}
        return cls(**config)


def logits_model(model):
    """Any Keras classifier as a model that ends in logits and shares its weights.

    Strips the final softmax of Sequential, Functional, nested and subclassed models: the
    activation of a last layer, an `Activation` or `Softmax` layer, `keras.ops.softmax` or
    `tf.nn.softmax`, also behind a flatten, reshape or cast. A model that returns logits is
    returned as it is. A model that returns probabilities made in any other way becomes one
    that returns their logarithms, for which softmax gives the same probabilities; a
    gradient through them vanishes where the probabilities round to 0 or 1, and
    `classifier_output(model).kind` is then `"probabilities"`.

    Args:
        model: a Keras classifier, `(n, ...)` → `(n, classes)`. A subclassed model must
            have been called once.

    Returns:
        A `keras.Model` for inference, `(n, ...)` → `(n, classes)`, float32 or better.
        Training `model` trains it too.

    Raises:
        ValueError: if the output is not one tensor `(n, classes)` with classes ≥ 2; on
            another backend than TensorFlow.

    Example:
        >>> logits = logits_model(model)(images)
    """
    return model if classifier_output(model).kind == "logits" else LogitsModel(model)
