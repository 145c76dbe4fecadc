"""What the model must be that adversarial training wraps."""

from typing import Any

from hr_keras._core.logits import check_keras_model


def check_model(model: Any) -> None:
    """Raises a ValueError unless it is a built Keras classifier, of the strategy in use here."""
    import tensorflow as tf

    check_keras_model(model)
    if not model.built:
        raise ValueError(
            "`model` must be a Keras classifier that is built: give it an Input, or call it once "
            f"on a batch of images. Received: {model!r}"
        )
    here = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    if model._distribute_strategy is not here:
        raise ValueError(
            "Make this model in the scope of the strategy that `model` was built in. "
            f"Received: {here} here, {model._distribute_strategy} there"
        )
