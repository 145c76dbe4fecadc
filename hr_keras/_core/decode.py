"""Typed values from JSON: what a frozen dataclass declares is what its file must hold."""

import contextlib
import dataclasses
import math
import types
import typing
from typing import Any


def decode(kind: Any, value: Any, where: str = "the file") -> Any:
    """Returns a value that `json.loads` gave, as an instance of `kind`.

    Args:
        kind: A dataclass, `int`, `float`, `str`, `bool`, `None`, or one of `X | Y`,
            `Literal[...]`, `tuple[X, ...]`, `tuple[X, Y]`, `list[X]`, `dict[str, X]` of these.
        value: The value.
        where: What the value is, for the message.

    Returns:
        The instance. Numbers that must be floats are floats; lists that must be tuples are tuples.

    Raises:
        ValueError: If the value is of another type, or a key is missing or unknown.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        _check(isinstance(value, dict), "an object", value, where)
        return _decode_fields(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        *others, last = (one for one in arguments if one is not type(None))
        for inner in others:
            with contextlib.suppress(ValueError):
                return decode(inner, value, where)
        return decode(last, value, where)
    if origin is typing.Literal:
        return _check(value in arguments, f"one of {arguments}", value, where)
    if origin is dict:
        _check(isinstance(value, dict), "an object", value, where)
        return {key: decode(arguments[1], one, f"{where}[{key!r}]") for key, one in value.items()}
    if origin in (tuple, list):
        return origin(_decode_items(origin, arguments, value, where))
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_check(number and math.isfinite(value), "a number", value, where))
    return _check(type(value) is kind, f"of type {kind.__name__}", value, where)


def _decode_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    for problem, keys in (
        ("lacks", [name for name in names if name not in value]),
        ("has unknown", [key for key in value if key not in names]),
    ):
        if keys:
            raise ValueError(f"{where} {problem} {', '.join(map(repr, keys))}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: decode(hints[name], value[name], f"`{name}`") for name in names})


def _decode_items(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> list[Any]:
    _check(isinstance(value, (list, tuple)), "a list", value, where)
    if origin is list or arguments[-1] is Ellipsis:
        return [decode(arguments[0], one, where) for one in value]
    _check(len(value) == len(arguments), f"a list of {len(arguments)}", value, where)
    return [decode(kind, one, where) for kind, one in zip(arguments, value, strict=True)]


def _check(passed: bool, expected: str, value: Any, where: str) -> Any:
    if not passed:
        received = repr(value)
        received = received if len(received) <= 60 else f"{received[:57]}..."
        raise ValueError(f"{where} must be {expected}. Received: {received}")
    return value
