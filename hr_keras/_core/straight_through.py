"""Layers with the gradient of the identity: BPDA, backward pass differentiable approximation."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

# Names that an error lists.
_MOST_NAMES = 20
# Threads of several devices may trace calls of the same layers.
_PATCHING = threading.RLock()


def find_layer(model: keras.Model, layer: Any) -> keras.layers.Layer:
    """Returns a layer of a model, given itself or its name, or raises a ValueError."""
    layers = list(model._flatten_layers(include_self=False))
    found = [one for one in layers if layer in (one.name, one) or layer is one]
    if found and len([one for one in layers if one.name == found[0].name]) == 1:
        return found[0]
    names = [one.name for one in layers]
    shown = f"{names[:_MOST_NAMES]}{' …' * (len(names) > _MOST_NAMES)}"
    raise ValueError(
        "`straight_through` must be a layer in the model, or its name, that no other layer has. "
        f"The layers are {shown}. Received: {getattr(layer, 'name', layer)!r}"
    )


@contextlib.contextmanager
def passed_straight_through(layers: list[keras.layers.Layer]) -> Iterator[None]:
    """Gives layers the gradient of the identity while the model is called, by one thread."""
    with _PATCHING:
        yield from _patched(layers)


def _patched(layers: list[keras.layers.Layer]) -> Iterator[None]:
    before = [(vars(layer), vars(layer).get("call")) for layer in layers]
    for layer in layers:
        vars(layer)["call"] = _straight(layer, layer.call)
    try:
        yield
    finally:
        for attributes, call in before:
            if call is None:
                del attributes["call"]
            else:
                attributes["call"] = call


def _straight(layer: keras.layers.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
    def straight(inputs: Any, *arguments: Any, **options: Any) -> Any:
        outputs = call(inputs, *arguments, **options)
        shapes: list[Any] = [getattr(tensor, "shape", None) for tensor in (inputs, outputs)]
        is_float = getattr(getattr(outputs, "dtype", None), "is_floating", False)
        if shapes[0] is None or not is_float or not shapes[1].is_compatible_with(shapes[0]):
            raise ValueError(
                "A layer in `straight_through` must take a tensor and return one of floating point "
                f"and the same shape. Received: layer {layer.name!r} making {shapes[1]} of "
                f"{shapes[0]}"
            )
        # The difference is exactly 0; its gradient is that of the identity.
        difference = inputs - ops.stop_gradient(inputs)
        return ops.stop_gradient(outputs) + ops.cast(difference, outputs.dtype)

    return straight
