"""Writes docs/audit.schema.json, the JSON Schema of audit.json, from the types that read the file.

`python docs/schema.py` writes it, `--check` only compares it.
"""

import dataclasses
import inspect
import json
import pathlib
import re
import sys
import types
import typing

from hr_keras.audit import AuditResult

PATH = pathlib.Path(__file__).parent / "audit.schema.json"
_NAMES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def make_schema(kind, definitions):
    """The schema of a type that `hr_keras._core.decode` reads; dataclasses go to `definitions`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return {}
    if dataclasses.is_dataclass(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = _make_object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [make_schema(one, definitions) for one in arguments]}
    if kind is type(None):
        return {"type": "null"}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        return {"type": "object", "additionalProperties": make_schema(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": make_schema(arguments[0], definitions)}
    if origin is tuple:
        items = [make_schema(one, definitions) for one in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    return {"type": _NAMES[kind]}


def _make_object(kind, definitions):
    hints, texts = typing.get_type_hints(kind), _find_descriptions(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    return {
        "description": inspect.getdoc(kind).split("\n\n")[0],
        "type": "object",
        "properties": {
            name: make_schema(hints[name], definitions) | {"description": texts[name]}
            for name in fields
        },
        "required": fields,
        "additionalProperties": False,
    }


def _find_descriptions(kind):
    """What the docstring says of each field."""
    text = inspect.getdoc(kind).partition("Args:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(lines.split()) for name, lines in found}


def render():
    """The text of the file."""
    definitions = {}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "audit.json of hr_keras",
        **make_schema(AuditResult, definitions),
        "$defs": definitions,
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main():
    if "--check" not in sys.argv:
        PATH.write_text(render())
    elif PATH.read_text() != render():
        sys.exit("docs/audit.schema.json differs from hr_keras.audit: run docs/schema.py")


if __name__ == "__main__":
    main()
