"""Every example of every docstring runs, and every public name is documented."""

import ast
import enum
import importlib
import inspect
import pathlib
import re
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from hr_keras.diagnostics import AttackChecks

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "hr_keras").rglob("*.py"))
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_examples():
    """`module:qualified name` → the lines of its fenced blocks, each at its place in the file."""
    examples = {}

    def visit(node, name, path, lines):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child, f"{name}.{child.name}".replace(":.", ":"), path, lines)
        if not isinstance(node, ast.Module) and not name.rpartition(":")[2]:
            return
        if ast.get_docstring(node) and "```python" in ast.get_docstring(node):
            first = node.body[0].lineno - 1
            examples[name] = path, first, lines[first : node.body[0].end_lineno]

    for path in FILES:
        text = path.read_text()
        visit(ast.parse(text), f"{module_name(path)}:", path, text.splitlines())
    return examples


EXAMPLES = find_examples()


@pytest.fixture(scope="module")
def small_model():
    """The layers of `mnist_cnn`, with few filters; one model, so that attacks compile once."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def compile_model(model):
    keras.utils.set_random_seed(0)
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )


@pytest.fixture(scope="module")
def trained_weights(digits, small_model):
    compile_model(small_model)
    images, labels = (array[:1000] for array in digits.train)
    small_model.fit(images, labels, epochs=3, verbose=0)
    return small_model.get_weights()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, digits, small_model, trained_weights, tmp_path, monkeypatch):
    path, first, lines = EXAMPLES[name]
    monkeypatch.chdir(tmp_path)
    compile_model(small_model)
    small_model.set_weights(trained_weights)
    namespace = {"np": np, "keras": keras, "tf": tf, "model": small_model, "tmp_path": tmp_path}
    for k, split in enumerate(("train", "val", "test")):
        namespace[f"x_{split}"] = digits[k].images[:40]
        namespace[f"y_{split}"] = digits[k].labels[:40]
    if ".audit." in name:  # the checks that attack take seconds, and have tests of their own
        monkeypatch.setattr(AttackChecks, "find", lambda self: [])
    namespace |= {"images": digits.test.images[:20], "labels": digits.test.labels[:20]}
    source = "\n".join(lines)
    blocks = list(BLOCK.finditer(source))
    assert len(blocks) == source.count("```python")
    for block in blocks:
        line = first + source[: block.start(1)].count("\n")
        exec(compile("\n" * line + textwrap.dedent(block[1]), str(path), "exec"), namespace)


# The command line documents itself by --help.
PUBLIC_MODULES = [
    module_name(path)
    for path in FILES
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts[:-1])
    and (path.stem == "__init__" or not path.stem.startswith("_"))
    and module_name(path) != "hr_keras"
    and module_name(path).split(".")[1] != "cli"
]


def public_objects(module):
    """Name, class or function, and whether users are meant to use it.

    A module or a room declares that in `__all__`; a room's other modules hold its helpers.
    """
    declared = getattr(module, "__all__", None)
    names = vars(module) if declared is None else declared
    is_helper = declared is None and module.__name__.count(".") > 1
    for name in names:
        value = getattr(module, name)
        here = declared is not None or getattr(value, "__module__", "") == module.__name__
        if (
            not name.startswith("_")
            and here
            and (inspect.isclass(value) or inspect.isfunction(value))
        ):
            yield name, value, not is_helper


def documented_arguments(docstring):
    match = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", f"{docstring}\n", re.MULTILINE)
    return re.findall(r"^    \*{0,2}(\w+):", match[1], re.MULTILINE) if match else []


def is_value(kind):
    """A record, an enumeration or an error: users read it, and hardly ever make one."""
    if issubclass(kind, (enum.Enum, BaseException)):
        return True
    record = hasattr(kind, "__dataclass_fields__") or issubclass(kind, tuple)
    return record and "__call__" not in dir(kind)


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_has_a_summary_its_arguments_and_an_example(module):
    faults = []
    for name, value, is_public in public_objects(importlib.import_module(module)):
        docstring = inspect.getdoc(value) or ""
        summary = docstring.split("\n\n")[0]
        if not summary.endswith((".", ":")) or docstring.startswith(f"{name}("):
            faults.append(f"{name}: no summary sentence")
        is_enum = inspect.isclass(value) and issubclass(value, (enum.Enum, BaseException))
        if not is_enum and (is_public or "\nArgs:" in docstring):
            parameters = [p for p in inspect.signature(value).parameters if not p.startswith("_")]
            if documented_arguments(docstring) != parameters:
                found = documented_arguments(docstring)
                faults.append(f"{name}: `Args:` has {found}, the signature {parameters}")
        needs_example = is_public and not (inspect.isclass(value) and is_value(value))
        if needs_example and "```python" not in docstring:
            faults.append(f"{name}: no example")
    assert not faults, "\n".join(faults)
