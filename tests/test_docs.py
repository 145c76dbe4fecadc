import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_every_number_of_the_pages_comes_from_saved_results():
    command = [sys.executable, ROOT / "docs" / "render.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 700
