"""The page in a real browser: nothing is loaded or fails, everyone can read it, values are true."""

import csv
import io
import json
import pathlib

import axe_core_python
import pytest
from browser import evaluate, needs_chromium, run_chromium
from html_page import Page
from long_run import make_long_run
from saved_results import HOSTILE, make_audit

from hr_keras import audit, report

pytestmark = needs_chromium
QUICK = pathlib.Path(__file__).parents[2] / "results" / "mnist10k" / "quick"
AXE = pathlib.Path(axe_core_python.__file__).with_name("axe.min.js")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    audit.write_audit(folder / "audit", make_audit(HOSTILE, HOSTILE))
    return report.write_report([QUICK, folder / "audit"], folder / "page.html")


def test_nothing_fails_and_nothing_is_loaded(page, tmp_path):
    """What the policy of the page forbids would be an error in the console."""
    found = run_chromium(page, tmp_path / "profile")
    assert "What to believe" in found.stdout
    assert "CONSOLE" not in found.stderr, found.stderr


def find_faults(page, tmp_path, **options):
    script = AXE.read_text().replace("</script", "<\\/script") + (
        "; const found = await axe.run();"
        "return [found.passes.length, found.violations.map((one) => one.id)];"
    )
    return evaluate(page, tmp_path, script, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("dark", "width"), [(False, 1400), (True, 500)])
def test_axe_finds_no_fault(page, tmp_path, dark, width):
    passed, faults = find_faults(page, tmp_path, dark=dark, width=width)
    assert passed > 15
    assert faults == []


@pytest.mark.slow
def test_axe_finds_planted_faults(tmp_path):
    audit.write_audit(tmp_path / "audit", make_audit())
    text = report.write_report(tmp_path / "audit").read_text().replace('<html lang="en">', "<html>")
    text = text.replace("</main>", '<p style="color: #eee">Too faint to be read.</p></main>')
    (tmp_path / "page.html").write_text(text)
    _, faults = find_faults(tmp_path / "page.html", tmp_path)
    assert {"html-has-lang", "color-contrast"} <= set(faults)


POINT = """
  const [svg] = document.querySelectorAll('[data-values] svg');
  const {charts: [chart]} = JSON.parse(svg.parentElement.dataset.values);
  const panel = chart.panels[1], index = 9;
  const where = new DOMPoint(panel.box[0] + panel.at[index] * panel.box[2], panel.box[1] + 9)
    .matrixTransform(svg.getScreenCTM());
  svg.dispatchEvent(new PointerEvent('pointermove', {clientX: where.x, clientY: where.y}));
  const tip = document.querySelector('.tip').textContent.split('\\n');
  const table = document.querySelector('.chosen table');
  const read = (row) => [...row.cells].map((one) => one.textContent);
  const rows = [...table.tBodies[0].rows].map(read);
  const titles = read(table.tHead.rows[0]);
  const choices = [...document.querySelectorAll('[data-choice]')];
  const shown = () =>
    choices.filter((one) => one.checkVisibility()).map((one) => one.dataset.choice);
  const before = shown();
  const slider = choices[0].closest('p').previousElementSibling.querySelector('input');
  slider.value = 1;
  slider.dispatchEvent(new Event('input'));
  return {tip, rows, titles, before, after: shown(), images: document.images.length,
    overflow: document.documentElement.scrollWidth - innerWidth};
"""


def test_values_under_the_pointer_are_those_of_the_file(page, tmp_path):
    """Epoch 10 of Figure 1; then the slider over ε, hostile names and the width."""
    found = evaluate(page, tmp_path, POINT, width=500)
    curves = Page(page.read_text()).downloads()["curves.csv"]
    labels = {"ce": "CE", "hr": "HR"}
    expected, last = {}, {}
    for row in csv.DictReader(io.StringIO(curves)):
        if int(row["epoch"]) <= 10 and row["through"] in ("none", "logits"):
            last[labels[row["method"]], float(row["epsilon"])] = float(row["mean"])
    for (label, epsilon), mean in last.items():
        expected[f"{label}, ε = {epsilon:g}"] = f"{mean:.3f}".removeprefix("0")
    assert found["tip"] == ["epoch 10", *(f"{name}: {text}" for name, text in expected.items())]
    assert found["titles"] == ["curve", "FGSM, as published", "FGSM, exact"]
    assert {row[0]: row[2] for row in found["rows"]} == expected
    assert (found["before"], found["after"]) == (["0.1"], ["0.25"])
    assert found["images"] == 0
    assert found["overflow"] <= 0, json.dumps(found)


PRINTED = """
  for (const rule of document.styleSheets[0].cssRules) {
    if (rule.media?.mediaText === 'print') rule.media.mediaText = 'all';
  }
  const width = 718;
  document.body.style.width = `${width}px`;
  return [...document.querySelectorAll('main table')]
    .filter((one) => one.checkVisibility() && one.offsetWidth > width)
    .map((one) => one.caption.textContent);
"""


def test_no_table_is_cut_on_paper(page, tmp_path):
    """A4 is 210 mm wide, with Chromium's margins 718 CSS pixels."""
    assert evaluate(page, tmp_path, PRINTED) == []


USE = """
  const ready = performance.now(); // since the navigation began; the script of the page has run
  const [slider] = document.querySelectorAll('.chosen input');
  const cells = () => [...slider.closest('.chosen').querySelectorAll('td')];
  const read = () => cells().map((one) => one.textContent).join(' ');
  const before = read();
  slider.value = 99;
  slider.dispatchEvent(new Event('input'));
  const height = document.body.getBoundingClientRect().height; // lays the page out
  const answered = performance.now();
  const epoch = document.querySelector('.chosen output').textContent;
  return {ready, answered, epoch, before, after: read(), height};
"""


@pytest.mark.slow
def test_the_page_of_a_long_run_is_soon_ready(tmp_path):
    """The aim is one second; five hold on a machine that does other work."""
    page = report.write_report(make_long_run(tmp_path / "run"))
    found = evaluate(page, tmp_path, USE, real_time=True)
    times = {name: f"{found[name]:.0f} ms" for name in ("ready", "answered")}
    print(times, f"{page.stat().st_size / 1e6:.2f} MB")
    assert found["epoch"] == "100"
    assert found["before"] != found["after"]
    assert found["height"] > 2000
    assert 0 < found["ready"] < found["answered"] < 5000, times
