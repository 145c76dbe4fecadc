import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def python(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_stays_light():
    code = "import sys, hr_keras; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["tensorflow_datasets", "matplotlib", "typer", "rich", "tensorflow", "keras"]
    assert python(code, *heavy).strip() == "[]"
    # Keras brings matplotlib and rich where they are installed; we add nothing to it
    code = code.replace("sys, hr_keras", "sys, hr_keras.losses, hr_keras.evaluation")
    assert python(code, "tensorflow_datasets", "typer").strip() == "[]"


def test_every_public_name_is_there_right_after_the_import():
    code = (
        "import hr_keras; print(dir(hr_keras) == sorted(hr_keras.__all__));"
        "print(*(getattr(hr_keras, name) for name in sorted(sys.argv[1:])), sep='|')"
    )
    names = ["HRLoss", "attacks", "audit", "callbacks", "error_bounds", "evaluation", "training"]
    equal, found = python(f"import sys; {code}", *names).strip().split("\n")
    assert equal == "True"
    assert len(found.split("|")) == len(names)
    code = "import hr_keras; hr_keras.HRloss"
    with pytest.raises(AssertionError, match="has no attribute 'HRloss'"):
        python(code)


@pytest.mark.slow
def test_every_module_may_be_imported_first():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "hr_keras").rglob("*.py")
        if path.stem != "__init__"
    ]
    assert len(names) > 20
    for name in names:
        python(f"import {name}")


def test_the_public_names_of_the_readme():
    code = (
        "from hr_keras import HRLoss\n"
        "from hr_keras.models import mnist_cnn, resnet8, logits_model\n"
        "from hr_keras.attacks import FGSM\n"
        "from hr_keras.callbacks import FGSMCallback\n"
        "from hr_keras import datasets, error_bounds, evaluation, metrics\n"
        "print(HRLoss, FGSMCallback)"
    )
    assert "hr_keras.losses.HRLoss" in python(code)


def test_the_command_line_answers_without_tensorflow():
    code = (
        "import sys; sys.argv = ['hr-keras', '--help']\n"
        "from hr_keras.cli import main\n"
        "try: main()\n"
        "except SystemExit: print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    assert python(code).strip().endswith("False False")


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
