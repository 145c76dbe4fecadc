"""Keys for compiled code: they change with the layers of a model and never match by accident."""

import weakref
from collections.abc import Hashable
from typing import Any

import keras


def structure(model: keras.Model) -> Hashable:
    """Returns a key that changes with the layers of a model and with their activations.

    Compiled code holds for one structure only. Changed weights do not change it.
    """
    parts = []
    for layer in model.layers:
        activation = getattr(layer, "activation", None)
        # A method is a new object each time that it is looked up.
        owner = getattr(activation, "__self__", None)
        function = getattr(activation, "__func__", activation)
        nested = structure(layer) if isinstance(layer, keras.Model) else ()
        parts.append((Same(layer), Same(owner), Same(function), nested))
    return tuple(parts)


class Same:
    """A key that equals only keys of the same object.

    It does not keep the object alive, if Python can refer to it weakly. Unlike `id`, it
    cannot be mistaken for a later object at the same address.
    """

    def __init__(self, value: Any) -> None:
        self._hash = id(value)
        try:
            self._get: Any = weakref.ref(value)
        except TypeError:
            self._get = lambda: value
            self._is_strong = True
        else:
            self._is_strong = False

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Same):
            return NotImplemented
        value = self._get()
        return value is other._get() and (value is not None or self._is_strong)
