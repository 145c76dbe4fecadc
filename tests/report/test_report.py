"""The page for browsers: from saved results alone, whole in one file, whatever the results hold."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from html_page import check_page
from long_run import make_long_run
from saved_results import HOSTILE, make_accuracies, make_audit, make_folder, make_result

from hr_keras import audit, cli, report
from hr_keras._core.rendering import ROUTE_LABELS
from hr_keras.experiments.result import Accuracy, Confusion
from hr_keras.experiments.results import accuracy_table
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.report.page import _Renderer

QUICK = pathlib.Path(__file__).parents[2] / "results" / "mnist10k" / "quick"


def make_run(path, published=0.5, **changes):
    """HR and CE with 0.5 under the exact attack."""
    results = [
        make_result(
            method,
            realization,
            [
                dataclasses.replace(one, accuracy=published)
                if one.through == "probabilities"
                else one
                for one in make_accuracies(0.5)
            ],
        )
        for method in ("ce", "hr")
        for realization in (0, 1)
    ]
    return make_folder(path, results, **changes)


def make_search(path):
    for alpha in (1.2, 1.6):
        accuracies = make_accuracies(0.5, split="validation")
        make_folder(
            path / f"alpha-{alpha}", [make_result("hr", 0, accuracies)],
            alpha=alpha, evaluated_on="validation",
        )  # fmt: skip
    return path


def write(*folders, output):
    return check_page(report.write_report(list(folders), output).read_text())


def test_committed_results_as_a_page_without_tensorflow(tmp_path):
    code = (
        "import sys; from hr_keras.cli import main\n"
        "sys.argv[1:] = ['report', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, QUICK, "--output", tmp_path / "page.html"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split("\n")[-2:] == ["[]", ""]
    assert str(tmp_path / "page.html") in result.stdout
    text = (tmp_path / "page.html").read_text()
    assert len(text) < 3_000_000
    page = check_page(text)
    assert "FGSM as published and exact agree at ε = 0.25 : CE .044, HR .099." in page.text
    assert len([one for one in page.find("span") if one.get("role") == "img"]) == 4
    assert "hr_keras 0.1.0 keras 3." in page.text  # the table of versions
    assert "batch size 100" in page.text
    assert set(page.downloads()) == {
        "verdict.csv", "table.csv", "differences.csv", "convergence.csv", "curves.csv",
        "confusion.csv", "confusion_matrices.csv", "confidence.csv", "protocol.json",
        "bounds.csv", "lower_bounds.csv", "versions.csv",
    }  # fmt: skip


def test_a_folder_without_confusions_and_confidence(tmp_path):
    folder = make_run(tmp_path / "run")
    page = write(folder.path, output=tmp_path / "page.html")
    assert page.downloads()["table.csv"] == accuracy_table.rows(folder).to_csv(index=False)
    assert page.downloads()["protocol.json"] == folder.protocol.to_json()


def test_the_picture_that_is_shown_first_has_the_epsilon_of_the_table(tmp_path):
    """0.1, and not the smallest."""
    results = [
        make_result(
            method, 0, make_accuracies(0.5, epsilons=(0.05, 0.1)),
            confusions=[
                Confusion(attack, route, size, ((1.0, 0.0), (0.0, 1.0)))
                for attack, route, size in (
                    ("none", "none", 0.0),
                    *(("fgsm_ce", route, size) for route in ROUTE_LABELS for size in (0.05, 0.1)),
                )
            ],
        )
        for method in ("ce", "hr")
    ]  # fmt: skip
    folder = make_folder(tmp_path / "run", results, epsilons=(0.0, 0.05, 0.1))
    page = write(folder.path, output=tmp_path / "page.html")
    shown = [one for one in page.find("span") if one.get("data-choice")]
    assert [one["data-choice"] for one in shown] == ["0.05", "0.1"]
    assert ["data-chosen" in one for one in shown] == [False, True]


def test_the_first_screen_says_which_numbers_are_false(tmp_path):
    page = write(make_run(tmp_path / "run", published=0.9).path, output=tmp_path / "page.html")
    begin = page.text[: page.text.index("All results")]
    assert "the published accuracy of .900 at ε = 0.25 is not robustness" in begin
    assert "leaves .500" in begin


@pytest.mark.slow
def test_several_folders_share_a_page(tmp_path):
    """A search and two runs of the same data, told apart by their folders; the same bytes again."""
    make_search(tmp_path / "search")
    make_run(tmp_path / "runs" / "one")
    make_run(tmp_path / "runs" / "two")
    audit.write_audit(tmp_path / "audit", make_audit())
    folders = [tmp_path / name for name in ("runs", "search", "audit")]
    page = write(*folders, output=tmp_path / "page.html")
    for title in ("(one)", "(two)", "(search for α)", "Audit of model on mnist10k"):
        assert title in page.text
    assert "α = 1.2 is chosen" in page.text
    again = report.write_report(folders, tmp_path / "again.html").read_bytes()
    assert again == (tmp_path / "page.html").read_bytes()


def test_an_audit_shows_its_findings_with_thresholds_and_sources(tmp_path):
    audit.write_audit(tmp_path, make_audit())
    page = write(tmp_path, output=tmp_path / "report.html")
    for part in ("These numbers do not measure robustness", "FAULT", "0.01", "Somebody 2020"):
        assert part in page.text
    assert json.loads(page.downloads()["audit.json"]) == json.loads(make_audit().to_json())
    alts = [one["aria-label"] for one in page.find("span") if one.get("role") == "img"]
    assert any("0 → 2" in alt for alt in alts)


def test_what_a_table_begins_with_escapes_its_caption_and_nothing_else():
    """markdown-it-py 3 adds strings to what a rule returns."""
    begin = _Renderer()._table_open([], 0, {}, {"caption": "a < b"})
    assert begin.endswith("a &lt; b</caption>\n")
    assert type(begin) is str


def test_hostile_names_stay_text(tmp_path):
    run = make_run(tmp_path / "run", data_label=HOSTILE)
    audit.write_audit(tmp_path / "audit", make_audit(HOSTILE, HOSTILE))
    page = write(run.path, tmp_path / "audit", output=tmp_path / "page.html")
    assert page.find("img") == []
    assert len(page.find("script")) == 1
    assert page.text.count("<img src=x onerror=alert(1)>") > 5
    assert not [link for link in page.find("a") if "javascript" in link["href"]]


def test_a_run_that_is_not_finished_is_named(tmp_path):
    make_run(tmp_path / "runs" / "done")
    make_folder(tmp_path / "runs" / "half", [make_result("ce", 0)], methods=("ce", "hr"))
    page = write(tmp_path / "runs", output=tmp_path / "page.html")
    assert "no trained model there yet: half." in page.text
    assert "(half)" not in page.text


@pytest.mark.slow
def test_a_long_run_is_a_small_page(tmp_path):
    page = report.write_report(make_long_run(tmp_path / "run"))
    assert page.stat().st_size < 3_000_000


def damage(path):
    shutil.copytree(QUICK, path)
    (path / "realization-1-hr.json").write_text('{"method": "hr"}')


def mix_epochs(path):
    shutil.copytree(QUICK, path)
    folder = RunFolder(path)
    result = folder.read_result("hr", 1)
    history = {name: values[:-1] for name, values in result.history.items()}
    folder.write_result(dataclasses.replace(result, history=history))


def mix_seeds(path):
    make_folder(path, [make_result("ce", 0), dataclasses.replace(make_result("hr", 0), seed=7)])


def mix_searches(path):
    make_search(path)
    accuracies = make_accuracies(0.5, split="validation")
    make_folder(
        path / "other", [make_result("hr", 0, accuracies)],
        alpha=2.0, evaluated_on="validation", epochs=3,
    )  # fmt: skip


def take_published(path):
    """What is left is a result, but not one of a run."""
    folder = make_run(path)
    for result in folder.results():
        left = [one for one in result.accuracies if one.through != "probabilities"]
        folder.write_result(dataclasses.replace(result, accuracies=tuple(left)))


def search_for_rates(path):
    accuracies = make_accuracies(0.5, split="validation")
    make_folder(
        path / "learning_rate-0.1", [make_result("hr", 0, accuracies)],
        learning_rate=0.1, evaluated_on="validation",
    )  # fmt: skip


def mix_audit_and_run(path):
    make_run(path)
    audit.write_audit(path, make_audit())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.mkdir(), "holds no results"),
        (damage, "realization-1-hr.json is not a result of this version"),
        (
            lambda path: make_folder(path, [make_result("ce", 0)], methods=("ce", "hr")),
            "each method needs a trained model",
        ),
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("{}"), "is a file: give its folder"),
        (mix_epochs, "two protocols: those of ce 0 and hr 1 differ in epochs"),
        (mix_seeds, "differ in seed"),
        (search_for_rates, "run is a search for learning rates: read learning_rates.md"),
        (mix_searches, "two protocols: .* differ in epochs"),
        (take_published, "the result of ce 0 lacks FGSM as published"),
        (mix_audit_and_run, "holds an audit and a run"),
    ],
)
def test_the_old_page_stays_where_results_are_missing_or_damaged(prepare, message, tmp_path):
    prepare(tmp_path / "run")
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match=message) as error:
        report.write_report([tmp_path / "run", QUICK], tmp_path / "report.html")
    assert "\n" not in str(error.value)
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_page_is_refused_for_its_last_folder_too(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match="does not exist"):
        report.write_report([QUICK, tmp_path / "run"], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_stronger_attack_is_the_honest_column(tmp_path):
    results = [
        make_result(method, 0, [*make_accuracies(0.5), *stronger])
        for method in ("ce", "hr")
        for stronger in [[Accuracy("test", "none", "none", 0.0, 20, 0.6),
                          Accuracy("test", "standard", "logits", 0.25, 20, 0.05)]]
    ]  # fmt: skip
    page = write(make_folder(tmp_path / "run", results).path, output=tmp_path / "page.html")
    assert ".050 ( standard , 20 images)" in page.text
    assert "it leaves CE .050, HR .050" in page.text


def test_a_folder_that_cannot_be_written_is_one_line_and_the_old_page_stays(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_, dir, **__):
        raise PermissionError(13, "Permission denied", str(dir))

    make_run(tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("old")
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("sys.argv", ["hr-keras", "report", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message == f"hr-keras: [Errno 13] Permission denied: '{tmp_path / 'run'}'\n"
    assert (tmp_path / "run" / "report.html").read_text() == "old"
