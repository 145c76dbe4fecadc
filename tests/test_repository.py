"""What only other programs read: citation, workflows, hooks and forms name what there is."""

import configparser
import itertools
import pathlib
import re

import keras
import pytest
import yaml

from hr_keras import datasets

ROOT = pathlib.Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
HAS_NO_EXTRA = {"bash", "cd", "grep", "pip", "python"}
INSTALLED_HERE = {"build", "twine"}


@pytest.fixture(scope="module")
def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def list_requirements(text):
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def find_packages(setup, extras):
    """Names of what extras install, those that they include too."""
    names = set()
    for extra in extras:
        for line in list_requirements(setup["options.extras_require"][extra]):
            name, inner = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", line).groups()
            names |= find_packages(setup, inner.split(",")) if name == "hr_keras" else {name}
    return names


def find_lowest(setup, package):
    (version,) = re.findall(rf"^{package}>=([\d.]+)$", setup["options"]["install_requires"], re.M)
    return version


def find_pythons(setup):
    return re.findall(r"Python :: (\d\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)


def test_the_citation_has_the_fields_of_its_format(setup):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert (citation["version"], citation["license"]) == (
        setup["metadata"]["version"], setup["metadata"]["license"],
    )  # fmt: skip
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text()
    for work in (citation, paper):
        assert {"title", "type", "authors"} <= set(work)
        assert all("name" in one or "family-names" in one for one in work["authors"])
    known = {"cff-version", "title", "message", "type", "authors", "version", "license", "keywords",
             "references", "notes"}  # fmt: skip
    assert set(citation) | set(paper) <= known


def read_jobs(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["name"] == path.stem
    assert workflow[True]  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    return workflow["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_what_there_is(path, setup):
    jobs = read_jobs(path)
    for job in jobs.values():
        assert job.get("needs", next(iter(jobs))) in jobs
        run = [step["run"] for step in job["steps"] if "run" in step]
        actions = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", one) for one in actions)
        extras = [x for text in run for part in re.findall(r"\.\[([\w,]+)\]", text)
                  for x in part.split(",")]  # fmt: skip
        installed = find_packages(setup, extras) | HAS_NO_EXTRA
        if any("dist/*.whl" in text for text in run):
            installed |= {"hr-keras"}
        for command in itertools.chain(*(re.split(r" && |\n", text) for text in run)):
            program, *arguments = command.split()
            assert program in installed | INSTALLED_HERE, command
            if program == "twine" or arguments[:2] == ["-m", "build"]:
                assert "pip install build twine" in " ".join(run)
            for file in re.findall(r"(?:docs|\.ci)/[\w.]+|setup\.cfg", command):
                assert (ROOT / file).is_file()


def list_combinations(matrix):
    """All jobs of a matrix, `include` applied as GitHub describes it."""
    axes = {name: values for name, values in matrix.items() if name != "include"}
    jobs = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for more in matrix["include"]:
        for job in jobs:
            if all(job[name] == more[name] for name in axes if name in more):
                job.update(more)
    return jobs


def test_the_matrix_has_every_python_with_the_lowest_and_the_newest_versions(setup):
    matrix = read_jobs(ROOT / ".github/workflows/tests.yml")["tests"]["strategy"]["matrix"]
    combinations = list_combinations(matrix)
    jobs = {(job["python"], job["versions"]): job["pins"] for job in combinations}
    pythons = find_pythons(setup)
    assert set(jobs) == set(itertools.product(pythons, ("lowest", "newest")))
    assert setup["options"]["python_requires"] == f">={pythons[0]}"
    keras, tensorflow = (find_lowest(setup, name) for name in ("keras", "tensorflow"))
    for python in pythons:
        assert jobs[python, "newest"] == "keras tensorflow"
        # TensorFlow 2.20 is the first with wheels for Python 3.13.
        lowest = "2.20" if python == "3.13" else tensorflow
        assert jobs[python, "lowest"] == f"keras=={keras} tensorflow=={lowest}.*"
    # What has no compiled part has a wheel for each Python.
    others = {job.get("others") for job in combinations if job["versions"] == "lowest"}
    (pins,) = ([pin.split("==") for pin in one.split()] for one in others)
    assert {"filelock", "markdown-it-py"} <= {name for name, _ in pins}
    assert all(version == find_lowest(setup, name) for name, version in pins)
    assert not [job for job in combinations if job["versions"] == "newest" and "others" in job]


def test_only_a_tag_publishes_and_without_a_password():
    path = ROOT / ".github" / "workflows" / "publish.yml"
    assert yaml.safe_load(path.read_text())[True] == {"push": {"tags": ["v*"]}}
    jobs = read_jobs(path)
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in path.read_text()


def test_the_documentation_is_published_where_the_build_puts_it():
    upload = read_jobs(ROOT / ".github" / "workflows" / "docs.yml")["build"]["steps"][-1]
    assert "/site/" in (ROOT / ".gitignore").read_text().split()
    assert upload["with"]["path"] == "site"  # the default of MkDocs
    assert "site_dir" not in (ROOT / "mkdocs.yml").read_text()


def test_hooks_run_tools_of_the_extra_dev(setup):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    assert {hook["entry"].split()[0] for hook in hooks} <= find_packages(setup, ["dev"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_something_and_each_thing_once(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    assert len({part["id"] for part in form["body"]}) == len(form["body"]) > 0
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "checkboxes")
        assert part["attributes"]["label"]


def test_continuous_integration_builds_the_documentation_before_its_tests():
    script = (ROOT / ".ci" / "run").read_text()
    assert 0 < script.index("mkdocs build --strict") < script.index("pytest -m slow")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_every_result_of_the_papers_protocol_has_its_trained_model(name):
    test = datasets.load("mnist10k").test
    paths = sorted((ROOT / "results" / "models" / name).glob("*.keras"))
    results = (ROOT / "results" / name / "paper").glob("realization-*.json")
    assert {path.stem for path in paths} == {path.stem for path in results}
    for path in paths:
        model = keras.models.load_model(path)
        assert model.output_shape == (None, 10)
        if name == "mnist":  # photographs do not ship with the package
            decisions = model.predict(test.images, verbose=0).argmax(axis=-1)
            assert (decisions == test.labels).mean() > 0.97
