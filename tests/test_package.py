import ast
import pathlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HEAVY = ("tensorflow", "keras", "pandas", "scipy", "matplotlib", "tensorflow_datasets")


def python(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_stays_light():
    code = "import sys, hr_keras; print([m for m in sys.argv[1:] if m in sys.modules])"
    assert python(code, *HEAVY, "typer").strip() == "[]"


def test_every_public_name_works_right_after_the_import():
    code = (
        "import sys, hr_keras; hr_keras.losses, hr_keras.evaluation\n"
        "print([m for m in sys.argv[1:] if m in sys.modules])\n"
        "assert dir(hr_keras) == sorted(hr_keras.__all__)\n"
        "print(*(name for name in hr_keras.__all__ if getattr(hr_keras, name) is not None))\n"
        "print(hr_keras.HRLoss(2.0).alpha, hr_keras.models.mnist_cnn, hr_keras.training.fit)\n"
        "try: hr_keras.HRloss\n"
        "except AttributeError as error: print(error)"
    )
    imported, names, used, missing = (
        python(code, "tensorflow_datasets", "typer").strip().split("\n")
    )
    # Keras imports matplotlib and rich where they are installed; we add nothing to it.
    assert imported == "[]"
    packages = {path.parent.name for path in ROOT.glob("hr_keras/[a-z]*/__init__.py")}
    modules = {path.stem for path in ROOT.glob("hr_keras/[a-z]*.py")}
    assert set(names.split()) == (packages - {"cli"}) | modules | {"HRLoss", "__version__"}
    assert used.startswith("2.0 <function mnist_cnn")
    assert "has no attribute 'HRloss'" in missing


@pytest.mark.slow
def test_every_module_may_be_imported_first():
    """Each in a process forked from one that has imported TensorFlow: seconds, not minutes."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "hr_keras").rglob("*.py")
        if path.stem != "__init__"
    ]
    assert len(names) > 20
    code = f"""if True:
        import importlib, os, sys, {", ".join(HEAVY)}
        for name in sys.argv[1:]:
            child = os.fork()
            if not child:
                importlib.import_module(name)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{{name}} cannot be imported first")"""
    python(code, *names)


def test_the_command_line_answers_at_once():
    """Under half a second of processor time: none of the heavy imports."""
    code = (
        "import sys, time; sys.argv = ['hr-keras', '--help']\n"
        "from hr_keras.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules]); print(time.process_time())"
    )
    *_, imported, seconds = python(code).strip().split("\n")
    assert imported == "[]"
    assert float(seconds) < 1.0  # twice what it may take: other work on the machine slows it


# A file may import what stands in a line below its own, or in its own room.
ROOMS = (
    ("cli",),
    ("report",),
    ("experiments.results",),
    ("experiments",),
    ("audit",),
    ("diagnostics", "callbacks"),
    ("evaluation",),
    ("training",),
    ("attacks",),
    ("models", "losses", "metrics"),
    ("datasets", "error_bounds"),
    ("_core",),
)


def room(module):
    """The line of the longest name in `ROOMS` that the module begins with."""
    place = module.removeprefix("hr_keras.")
    names = {name: line for line, row in enumerate(ROOMS) for name in row}
    inside = [name for name in names if f"{place}.".startswith(f"{name}.")]
    return max(inside, key=len), names[max(inside, key=len)]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                file = ROOT / inner.replace(".", "/")
                known = file.with_suffix(".py").exists() or file.is_dir()
                yield inner if known else node.module


FILES = list((ROOT / "hr_keras").rglob("*.py"))


def test_imports_go_one_way():
    graph = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "hr_keras":
            continue
        found = {name for name in imported_modules(path) if name.startswith("hr_keras.")}
        graph[module] = found - {module}
        name, line = room(module)
        upwards = [other for other in found if room(other)[0] != name and room(other)[1] <= line]
        assert not upwards, f"{module} imports {upwards}"
    TopologicalSorter(graph).prepare()  # a circle is an error


def test_no_file_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 320, max(lengths, key=lengths.get)


@pytest.mark.slow
def test_the_readme_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "epochs=15" in block
    assert "('hr', 0.25)" in python(block.replace("epochs=15", "epochs=1, verbose=0"))


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(example, tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / example],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert len((ROOT / "examples" / example).read_text().splitlines()) < 60
