"""The pages: their numbers, their code, their commands, their links, and the site made of them."""

import html
import importlib
import json
import pathlib
import re
import runpy
import shlex

import pytest
import typer
from saved_results import make_accuracies, make_folder, make_result
from test_docstrings import documented_arguments

import hr_keras
from hr_keras import cli, datasets, diagnostics
from hr_keras.experiments import METHODS
from hr_keras.experiments.result import Accuracy

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
TEXTS = [*PAGES, *(ROOT / name for name in NAMES)]
SITE = ROOT / "site"
LOAD = datasets.load


def name_page(path):
    return str(path.relative_to(ROOT))


def test_every_number_of_the_pages_comes_from_saved_results(monkeypatch):
    monkeypatch.setattr("sys.argv", ["render.py", "--check"])
    runpy.run_path(str(ROOT / "docs" / "render.py"), run_name="__main__")


def test_the_schema_of_audits_is_that_of_the_code(monkeypatch):
    monkeypatch.setattr("sys.argv", ["schema.py", "--check"])
    runpy.run_path(str(ROOT / "docs" / "schema.py"), run_name="__main__")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 700


def test_the_page_says_whether_hr_helps_inside_adversarial_training(tmp_path):
    """HR − CE of the same training in pairs, under the attack of the size of the training."""
    robustness = runpy.run_path(str(ROOT / "docs" / "render.py"))["robustness"]
    path = tmp_path / "run"
    assert robustness(path) == "Not measured yet."

    def results(method, *robust):
        for k, value in enumerate(robust):
            yield make_result(method, k, [
                Accuracy("test", "none", "none", 0.0, 200, 0.9),
                Accuracy("test", "standard", "logits", 0.1, 200, 0.0),
                Accuracy("test", "standard", "logits", 0.3, 200, value),
            ])  # fmt: skip

    make_folder(
        path,
        [*results("pgd_at", 0.5, 0.6), *results("pgd_at_hr", 0.55, 0.66), *results("ce", 0.0, 0.0)],
        train_epsilon=0.3,
    )
    text = robustness(path)
    assert "at ε = 0.3 with PGD of 7 steps" in text
    assert "| PGD-AT, HR | .900 ± .000 | .605 ± .055 |" in text
    # Student's t with one degree of freedom: .055 ± 12.706 · .005
    assert "| PGD-AT | +.000 (both pairs) | +.055 [−.009, +.119] | undecided |" in text
    assert text.count("HR − CE") == 2
    assert "| CE | +.000 " not in text  # it has no partner here


def test_the_page_about_the_loss_says_which_methods_are_above_ce(tmp_path):
    """In pairs: HR is above CE, Rényi below, GCE neither. Nothing is said before `table.md` is."""
    page = runpy.run_path(str(ROOT / "docs" / "render.py"))
    cell = (tmp_path, "fgsm_ce", "logits", 0.1)
    values = {"ce": (0.5, 0.6), "hr": (0.7, 0.81), "renyi": (0.4, 0.49), "gce": (0.4, 0.8)}
    results = [
        make_result(method, k, make_accuracies(value))
        for method, pair in values.items()
        for k, value in enumerate(pair)
    ]
    folder = make_folder(tmp_path, results)
    assert page["sort_methods"](*cell) == page["gradient_ratio"](tmp_path) == "not measured yet"
    folder.write("table", md="# Complete")
    assert page["sort_methods"](*cell) == "above: HR; below: Rényi; undecided: GCE"
    found = page["compare_to_ce"](tmp_path, "hr", *cell[1:])
    assert found.startswith("better: +.205 [+")
    assert page["compare_to_ce"](tmp_path, "rce", *cell[1:]) == "not measured yet"
    assert page["include"](tmp_path, "table.md") == "#### Complete"


def make_pairs(path, ce, hr, measure):
    """A run folder of a result for each value, with what `measure` makes of it."""
    results = [
        make_result(method, k, *measure(value))
        for method, values in (("ce", ce), ("hr", hr))
        for k, value in enumerate(values)
    ]
    return make_folder(path, results)


@pytest.mark.parametrize(
    ("ce", "hr", "decided"),
    [
        ((0.5, 0.6), (0.7, 0.81), "yes: +.205 [+.141, +.269]"),
        ((0.7, 0.81), (0.5, 0.6), "no: −.205 [−.269, −.141]"),
        ((0.5, 0.6), (0.6, 0.6), "undecided: +.050 [−.585, +.685]"),
        ((0.47, 0.435), (0.55, 0.515), "undecided: both pairs differ by +.080"),
        ((0.0, 0.0), (0.0, 0.0), "undecided: both pairs differ by +.000"),
    ],
)
def test_pairs_that_differ_by_the_same_decide_nothing(tmp_path, ce, hr, decided):
    """Student's t with one degree of freedom; an interval without a width is not printed."""
    folder = make_pairs(tmp_path, ce, hr, lambda value: (make_accuracies(value),))
    folder.write("table", md="# Complete")
    page = runpy.run_path(str(ROOT / "docs" / "render.py"))
    cell = ("fgsm_ce", "logits", 0.1)
    assert page["verdict"](tmp_path, *cell) == decided
    flat = "both pairs" in decided
    assert page["difference"](tmp_path, *cell).endswith(" (both pairs)") == flat
    word = {"yes": "worse", "no": "better"}.get(decided.partition(":")[0], "undecided")
    assert page["compare"](tmp_path, "ce", "hr", *cell).startswith(f"{word}: ")  # the other way
    place = {"yes": "above: HR", "no": "below: HR"}.get(decided.partition(":")[0], "undecided: HR")
    assert place in page["sort_methods"](tmp_path, *cell)


def make_curve(first):
    """A validation accuracy of .5 before an epoch and of 1 from it on."""
    return {"val_accuracy": [0.5] * (first - 1) + [1.0] * (31 - first)}


@pytest.mark.parametrize(
    ("ce", "hr", "text"),
    [
        ((20, 21), (10, 10), "HR 10.0, CE 20.5 (faster: −10.5 [−16.9, −4.1])"),
        ((10, 10), (20, 21), "HR 20.5, CE 10.0 (slower: +10.5 [+4.1, +16.9])"),
        ((20, 12), (10, 11), "HR 10.5, CE 16.0 (undecided: −5.5 [−62.7, +51.7])"),
        ((20, 21), (10, 11), "HR 10.5, CE 20.5 (undecided: both pairs differ by −10.0)"),
    ],
)
def test_the_page_says_faster_only_where_the_interval_does(tmp_path, ce, hr, text):
    make_pairs(tmp_path, ce, hr, lambda first: (make_accuracies(0.5), make_curve(first)))
    page = runpy.run_path(str(ROOT / "docs" / "render.py"))
    assert page["faster"](tmp_path, 1) == f".990: {text}"
    assert page["faster"](tmp_path).count("; ") == 2


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_number_of_checks_is_that_of_the_table(page):
    names = re.findall(r"^ *\| `\w+` \|", diagnostics.check.__doc__, re.MULTILINE)
    counts = re.findall(r"(\d+) checks", (ROOT / page).read_text())
    assert counts == [str(len(names))]


def find_blocks(path, language):
    """The code of fenced blocks, each at its line of the page."""
    text = path.read_text()
    for block in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield "\n" * text[: block.start(1)].count("\n") + block[1]


def load_a_few(name, **arguments):
    """Enough images for every block to run, too few to learn from."""
    splits = LOAD(name, **arguments)
    return datasets.Dataset(*(datasets.Split(*(part[:100] for part in one)) for one in splits))


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=name_page)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", load_a_few)
    namespace, methods = {"__name__": "page"}, dict(METHODS)
    try:
        for block in find_blocks(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)
    finally:
        METHODS.clear()
        METHODS.update(methods)


def find_commands(path):
    """Lines of blocks, variables of the shell replaced, and inline code; of a|b both."""
    text = path.read_text().replace("\\\n", " ")
    for name, value in re.findall(r'^\$ (\w+)="([^"]*)"', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    found = re.findall(r"^(?:\$ )?(hr-keras [^#\n]+)", text, re.MULTILINE)
    for line in found + re.findall(r"`(hr-keras [^`\n]+)`", text):
        yield re.sub(r"\|[\w|]+", "", line)
        if "|" in line:
            yield re.sub(r"[\w|]+\|", "", line)


@pytest.mark.parametrize("page", [p for p in TEXTS if [*find_commands(p)]], ids=name_page)
def test_every_command_of_a_page_is_one(page):
    commands = typer.main.get_command(cli.app).commands
    for line in find_commands(page):
        name, *arguments = shlex.split(re.sub(r"(--[\w-]+ )?…", "", line))[1:]
        if name.startswith("-") or name == "COMMAND":
            continue
        context = commands[name].make_context(name, arguments)  # an error names what is wrong
        assert context.params


@pytest.mark.parametrize("page", TEXTS, ids=name_page)
def test_every_link_to_a_file_leads_to_one(page):
    targets = re.findall(
        r"(?<=\]\()([^)\s#]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    )
    for target in targets:
        assert ":" in target or (page.parent / target).exists(), target


def test_every_picture_is_drawn_by_the_script():
    drawn = runpy.run_path(str(ROOT / "docs" / "draw.py"))["PICTURES"]
    assert {path.name for path in (ROOT / "docs" / "pictures").iterdir()} == set(drawn)


def test_a_drawing_is_an_svg_of_today(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "draw.py"))
    script["main"](tmp_path)
    for name in script["PICTURES"]:
        # Positions of text may differ with the version of Matplotlib, its words may not.
        words = [re.findall(r">([^<>]*\w[^<>]*)</text>", (folder / name).read_text())
                 for folder in (tmp_path, ROOT / "docs" / "pictures")]  # fmt: skip
        assert words[0] == words[1] != []


def test_the_tour_opens_in_colab_where_the_repository_has_an_address(monkeypatch):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    notebook = json.loads((ROOT / hooks["NOTEBOOK"]).read_text())
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    text, pictures = hooks["write_notebook"](notebook)
    assert "https:" not in text
    assert all(f"]({name})" in text for name in pictures)
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/something")
    text, _ = hooks["write_notebook"](notebook)
    assert text.count("/github/someone/something/blob/main/examples/tour.ipynb)") == 1


def test_the_list_of_commands_has_whole_sentences():
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    text = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["write_command_line"]()
    listed = re.findall(r"^\* `\w[\w-]*`: (.*)", text.partition("## `")[0], re.MULTILINE)
    assert len(listed) == len(typer.main.get_command(cli.app).commands)
    assert all(re.search(r"\w\.?$", line) for line in listed), listed


@pytest.fixture(scope="module")
def reference():
    """The reference of the site as text without tags."""
    if not (SITE / "api").is_dir():
        pytest.skip("there is no site: make it with `mkdocs build`, from the extra docs")
    pages = [path.read_text() for path in sorted(SITE.glob("api/*/index.html"))]
    return "\n".join(pages)


def strip(text):
    return re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]+>", "", text)))


MODULES = [name for name in hr_keras.__all__ if not name.startswith("_") and name != "HRLoss"]


@pytest.mark.slow
@pytest.mark.parametrize("module", [*MODULES, "attacks.objectives"])
def test_the_site_shows_every_public_name_whole(module, reference):
    plain, faults = strip(reference), []
    for name in importlib.import_module(f"hr_keras.{module}").__all__:
        value = getattr(importlib.import_module(f"hr_keras.{module}"), name)
        if f'id="hr_keras.{module}.{name}"' not in reference and name != "objectives":
            faults.append(name)
        docstring = (getattr(value, "__doc__", None) or "") if callable(value) else ""
        _, _, cited = docstring.partition("References:\n")
        for item in re.findall(r'"[^"]+"', cited.partition("Example:")[0]):
            if strip(item) not in plain:
                faults.append(f"{name}: {item}")
        faults += [f"{name}: {one}" for one in documented_arguments(docstring) if one not in plain]
    assert not faults


@pytest.mark.slow
def test_the_site_asks_no_other_server_for_anything(reference):
    for path in SITE.rglob("*.html"):
        text = path.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="?https?:', text), path
        assert not re.findall(r'<link[^>]*rel="?stylesheet"?[^>]*href="?https?:', text), path


@pytest.mark.slow
def test_a_wide_formula_scrolls_and_not_its_page(reference):
    text = (SITE / "loss" / "index.html").read_text()
    assert text.count("<math ") == text.count('overflow-x: auto" tabindex="0"><math ') > 0
