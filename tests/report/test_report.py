"""The page for browsers: from saved results alone, whole in one file, whatever the results hold."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from html_page import check_page
from saved_results import make_accuracies, make_folder, make_result

from hr_keras import audit, report
from hr_keras._core.finding import Finding
from hr_keras.audit.result import (
    AuditedAttack,
    AuditedModel,
    AuditProtocol,
    AuditResult,
    AuditRow,
    EncodedImage,
    Picture,
)
from hr_keras.experiments.result import Accuracy
from hr_keras.experiments.results import accuracy_table

QUICK = pathlib.Path(__file__).parents[2] / "results" / "mnist10k" / "quick"
HOSTILE = "<img src=x onerror=alert(1)> [a](javascript:alert(2)) ![](//x/z) </script>"


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


def make_audit(name="model", data="mnist10k"):
    protocol = AuditProtocol(0.1, "linf", ("fgsm",), 10, data=data, split="test")
    attacked = itertools.product(("fgsm", "worst_case"), protocol.epsilons)
    image = EncodedImage.encode(np.linspace(0, 1, 16).reshape(4, 4, 1))
    return AuditResult(
        protocol,
        AuditedModel(name, "softmax", 3, 42),
        (AuditedAttack("fgsm", name, {}),),
        tuple(
            AuditRow(attack, e, 0.5, 0.25, 0.75, (0, 1, 2, 3, 4))
            for attack, e in [("none", 0.0), *attacked]
        ),
        (0,) * 10,
        (0,) * 10,
        (Picture(0, "fgsm", 0, 0, 0.9, 2, None, image, image),),
        (Finding("zero_gradients", 0.5, 0.01, "fault", name, "Somebody 2020"),),
        {"keras": name},
        1.0,
    )


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
    assert len([one for one in page.find("span") if one.get("role") == "img"]) == 2
    assert set(page.downloads()) == {
        "verdict.csv", "table.csv", "differences.csv", "convergence.csv", "curves.csv",
        "confusion.csv", "confusion_matrices.csv", "confidence.csv", "protocol.json",
    }  # fmt: skip


def test_a_folder_without_confusions_and_confidence(tmp_path):
    folder = make_run(tmp_path / "run")
    page = write(folder.path, output=tmp_path / "page.html")
    assert page.downloads()["table.csv"] == accuracy_table.rows(folder).to_csv(index=False)
    assert page.downloads()["protocol.json"] == folder.protocol.to_json()


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


def test_hostile_names_stay_text(tmp_path):
    run = make_run(tmp_path / "run", data_label=HOSTILE)
    audit.write_audit(tmp_path / "audit", make_audit(HOSTILE, HOSTILE))
    page = write(run.path, tmp_path / "audit", output=tmp_path / "page.html")
    assert page.find("img") == []
    assert len(page.find("script")) == 1
    assert page.text.count("<img src=x onerror=alert(1)>") > 5
    assert not [link for link in page.find("a") if "javascript" in link["href"]]


def damage(path):
    shutil.copytree(QUICK, path)
    (path / "realization-1-hr.json").write_text('{"method": "hr"}')


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.mkdir(), "holds no results"),
        (damage, "realization-1-hr.json is not a result of this version"),
        (
            lambda path: make_folder(path, [make_result("ce", 0)], methods=("ce", "hr")),
            "each method needs a trained model",
        ),
    ],
)
def test_the_old_page_stays_where_results_are_missing_or_damaged(prepare, message, tmp_path):
    prepare(tmp_path / "run")
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match=message):
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


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium (Debian: chromium)")
def test_a_browser_shows_it_without_an_error(tmp_path):
    """What the page may not load or run would be an error in the browser's console."""
    audit.write_audit(tmp_path / "audit", make_audit(HOSTILE, HOSTILE))
    path = report.write_report([QUICK, tmp_path / "audit"], tmp_path / "page.html")
    found = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "What to believe" in found.stdout
    assert "CONSOLE" not in found.stderr, found.stderr
