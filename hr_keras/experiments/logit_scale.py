"""Multiplies the logits of a classifier: its decisions stay, only its confidence changes."""

from typing import Any

import keras


def scale_logits(model: keras.Model, factor: float) -> keras.Model:
    """Multiplies the logits of a classifier by a factor, in the weights of its last dense layer.

    The model keeps its layers, so a file of it loads as before. A power of 2 is exact.

    Args:
        model: A Keras classifier whose logits come from a `Dense` layer. It is changed.
        factor: Greater than 0.

    Returns:
        The same model.

    Raises:
        ValueError: If the logits come from another layer.

    Example:

    ```python
    from hr_keras.experiments.logit_scale import scale_logits

    before = model(images)
    more_certain = scale_logits(model, 16.0)(images)
    ```
    """
    layer = find_logits_layer(model)
    layer.set_weights([weights * factor for weights in layer.get_weights()])
    return model


def find_logits_layer(model: keras.Model) -> Any:
    """Returns the `Dense` layer whose output, before a softmax, are the logits of a classifier.

    Args:
        model: A Keras classifier.

    Raises:
        ValueError: If the logits come from another layer.
    """
    layers = [
        layer
        for layer in model.layers
        if not isinstance(layer, (keras.layers.Activation, keras.layers.Softmax))
    ]
    last = layers[-1]
    if isinstance(last, keras.Model):
        return find_logits_layer(last)
    if not isinstance(last, keras.layers.Dense) or last.activation not in _KEEP_LOGITS:
        raise ValueError(
            "The logits must come from a Dense layer, to be multiplied in its weights. Received: "
            f"model {model.name!r} ending in {type(last).__name__} {last.name!r}"
        )
    return last


_KEEP_LOGITS = (keras.activations.softmax, keras.activations.linear)
