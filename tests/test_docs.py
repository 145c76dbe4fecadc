import pathlib
import runpy

ROOT = pathlib.Path(__file__).parent.parent


def test_every_number_of_the_pages_comes_from_saved_results(monkeypatch):
    monkeypatch.setattr("sys.argv", ["render.py", "--check"])
    runpy.run_path(str(ROOT / "docs" / "render.py"), run_name="__main__")


def test_the_schema_of_audits_is_that_of_the_code(monkeypatch):
    monkeypatch.setattr("sys.argv", ["schema.py", "--check"])
    runpy.run_path(str(ROOT / "docs" / "schema.py"), run_name="__main__")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 700
