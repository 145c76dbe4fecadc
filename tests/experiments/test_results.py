"""Tables and figures, from results that are written out here."""

import dataclasses
import math
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest
from saved_results import make_accuracies, make_folder, make_result

from hr_keras._core.rendering import format_latex, plain_text, render_figure
from hr_keras.experiments.methods import METHODS
from hr_keras.experiments.plan import plan_runs
from hr_keras.experiments.result import Accuracy, Confusion, ErrorTerms
from hr_keras.experiments.results import accuracy_table, confusion, convergence, error_bound
from hr_keras.experiments.results.paper_numbers import find_paper_accuracy
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import compute_wilson_interval

ROOT = pathlib.Path(__file__).parents[2]


def make_pairs(path, pairs, **changes):
    """Accuracies of (CE, HR) for each realization, the same under every attack."""
    return make_folder(
        path,
        [
            make_result(method, k, make_accuracies(value))
            for k, pair in enumerate(pairs)
            for method, value in zip(("ce", "hr"), pair, strict=True)
        ],
        **changes,
    )


def test_rows_are_mean_and_standard_error(tmp_path):
    found = accuracy_table.rows(make_pairs(tmp_path, [(0.5, 0.8), (0.7, 0.9)]))
    assert len(found) == 2 * (1 + 2 * 2 * 2)
    keys = ["method", "attack", "through", "epsilon"]
    cell = found.set_index(keys).loc["hr", "fgsm_ce", "logits", 0.1]
    assert (cell["mean"], cell["realizations"]) == (pytest.approx(0.85), 2)
    assert cell["standard_error"] == pytest.approx(0.05)  # stdev .0707 over √2
    assert cell["zero_gradient_share"] == 0.25
    assert cell["paper"] == 0.945
    clean = found.set_index(keys).loc["ce", "none", "none", 0.0]
    assert (clean["mean"], clean["paper"]) == (pytest.approx(0.7), 0.985)


def test_differences_have_verdicts(tmp_path):
    found = accuracy_table.differences(make_pairs(tmp_path / "a", [(0.5, 0.7), (0.7, 0.6)]))
    assert set(found["better"]) == {"undecided"}
    one_pair = accuracy_table.differences(make_pairs(tmp_path / "one", [(0.5, 0.4)]))
    assert set(one_pair["better"]) == {"undecided"}
    assert one_pair["low"].isna().all()
    found = accuracy_table.differences(make_pairs(tmp_path / "b", [(0.5, 0.4), (0.6, 0.49)]))
    assert set(found["better"]) == {"no"}
    paper = found.set_index(["attack", "through", "epsilon"])["paper"]
    assert paper["fgsm_hr", "logits", 0.1] == 0.0
    assert paper["none", "none", 0.0] == pytest.approx(0.001)
    other_way = make_pairs(tmp_path / "c", [(0.5, 0.4), (0.6, 0.49)])
    changed = accuracy_table.differences(other_way, "hr")
    assert set(changed["method"]) == {"ce"}
    assert set(changed["better"]) == {"yes"}
    with pytest.raises(ValueError, match="`baseline` must be one of"):
        accuracy_table.differences(
            make_folder(tmp_path / "d", [make_result("ce", 0, make_accuracies(0.5))]), "hr"
        )


def test_the_table_says_what_its_rows_say(tmp_path):
    folder = make_pairs(tmp_path, [(0.5, 0.8), (0.7, 0.9)])
    text = accuracy_table.write([folder], tmp_path)
    assert text == (tmp_path / "table.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| ε"))
    assert [cell.strip() for cell in header.split("|")[2:6]] == [
        "CE-trained, CE attack", "HR-trained, CE attack",
        "HR-trained, HR attack", "CE-trained, HR attack",
    ]  # fmt: skip
    assert text.count(".850 ± .050 (25%)") == 4  # as published, HR-trained, 2 ε and 2 objectives
    assert "beside the paper's column MNIST" in text
    assert "Mean over 2 pairs" in text
    assert (tmp_path / "table.csv").read_text().count("\n") == 1 + 18
    assert "\\toprule" in (tmp_path / "table.tex").read_text()
    assert r"$\pm$" in (tmp_path / "table.tex").read_text()
    single = accuracy_table.write([make_pairs(tmp_path / "one", [(0.5, 0.8)])], tmp_path / "one")
    assert "±" not in single
    assert "no standard error" in single
    assert "no interval" in single


def test_a_table_of_several_data_sets_says_how_well_each_is_known(tmp_path):
    folders = [
        make_pairs(tmp_path / "a", [(0.5, 0.8), (0.7, 0.9)]),
        make_pairs(tmp_path / "b", [(0.5, 0.8)], preset="paper-cifar10"),
    ]
    text = accuracy_table.write(folders, tmp_path)
    assert "- MNIST: Mean ± standard error over 2 realizations." in text
    assert "- CIFAR-10: One realization: no standard error." in text
    assert "Each cell: MNIST · CIFAR-10." in text
    assert ".600 ± .100 (25%) · .500 (25%)" in text


def test_a_stronger_attack_that_every_model_was_put_under_is_shown(tmp_path):
    folder = make_pairs(tmp_path, [(0.5, 0.8), (0.7, 0.9)])
    for result in folder.results():
        more = (
            Accuracy("test", "none", "none", 0.0, 50, 0.9),
            Accuracy("test", "pgd", "logits", 0.1, 50, result.accuracies[1].accuracy / 2),
        )
        if (result.method, result.realization) != ("hr", 1):
            folder.write_result(dataclasses.replace(result, accuracies=(*result.accuracies, *more)))
            last = more
    text = accuracy_table.write([folder], tmp_path)
    assert "`pgd` at ε = 0.1 on 50 examples, done for 3 of 4 models" in text
    assert "`--attack pgd --examples 50 --attack-epsilon 0.1` does the others" in text
    assert "attacked with `pgd`" not in text
    assert "pgd" not in (tmp_path / "table.csv").read_text()
    result = folder.read_result("hr", 1)
    folder.write_result(dataclasses.replace(result, accuracies=(*result.accuracies, *last)))
    text = accuracy_table.write([folder], tmp_path)
    assert "attacked with `pgd`" in text
    assert "Accuracy on 50 test images" in text
    low, high = compute_wilson_interval(0.3, 50)  # CE withstands .25 and .35
    assert f"[{low:.3f}, {high:.3f}]".replace("0.", ".") in text
    assert "Not shown" not in text
    for examples, says in ((20, False), (60, True)):  # of one model: fewer and more than all have
        result = folder.read_result("hr", 1)
        one = Accuracy("test", "pgd", "logits", 0.1, examples, 0.4)
        folder.write_result(dataclasses.replace(result, accuracies=(*result.accuracies, one)))
        text = accuracy_table.write([folder], tmp_path)
        assert (f"on {examples} examples, done for 1 of 4 models" in text) == says


def test_results_work_for_any_list_of_methods(tmp_path, monkeypatch):
    third = dataclasses.replace(METHODS["hr"], name="third", label="Third", colour="#009E73")
    monkeypatch.setitem(METHODS, "third", third)
    matrix = ((0.8, 0.2), (0.2, 0.8))
    confusions = [Confusion("fgsm_ce", route, 0.1, matrix) for route in ("logits", "probabilities")]
    history = {"val_accuracy": [0.5, 0.9], "val_error_bound": [1.0, 0.9]}
    folder = make_folder(
        tmp_path,
        [
            make_result(method, k, make_accuracies(value + k / 10), history, confusions,
                        make_terms())
            for method, value in (("hr", 0.5), ("ce", 0.6), ("third", 0.7))
            for k in (0, 1)
        ],
    )  # fmt: skip
    text = accuracy_table.write([folder], tmp_path)
    assert "Third-trained, HR attack" in text
    assert "accuracy of each method − accuracy of HR" in text
    found = accuracy_table.differences(folder).set_index(["method", "attack", "through", "epsilon"])
    assert found["mean"]["third", "fgsm_ce", "logits", 0.1] == pytest.approx(0.2)
    assert "Third − HR, epochs" in convergence.write([folder])
    assert "| Third " in confusion.write([folder])
    assert "| Third " in error_bound.write([folder])
    for name in ("figure", "confusion", "bounds"):
        assert "Third" in (tmp_path / f"{name}.svg").read_text() or (
            (tmp_path / f"{name}.png").stat().st_size > 1000
        )


def test_the_papers_numbers_bear_out_what_it_says_of_them():
    """ "0.1 to 3.6 without attack, 3.4 to 4.1 for light, 0.2 to 3.8 for medium attacks"."""
    gains = {
        epsilon: [
            find_paper_accuracy(name, "hr", attack, epsilon)
            - find_paper_accuracy(name, "ce", attack, epsilon)
            for name in ("MNIST", "CIFAR-10", "SVHN")
            for attack in ("fgsm_ce", "fgsm_hr")
        ]
        for epsilon in (0.0, 0.1, 0.25)
    }
    assert (min(gains[0.0]), max(gains[0.0])) == pytest.approx((0.001, 0.036))
    assert (min(gains[0.25]), max(gains[0.25])) == pytest.approx((0.002, 0.038))
    assert max(gains[0.1]) == pytest.approx(0.041)
    assert sorted(gains[0.1])[1] == pytest.approx(0.034)  # one cell, MNIST under HR, is left out
    assert find_paper_accuracy(None, "ce", "fgsm_ce", 0.1) is None
    assert find_paper_accuracy("MNIST", "ce", "fgsm_ce", 0.3) is None
    assert find_paper_accuracy("MNIST", "third", "fgsm_ce", 0.1) is None


def make_curves(path, ce, hr):
    """Results with these validation accuracies, a list of epochs for each realization."""
    return make_folder(
        path,
        [
            make_result(method, k, history={"val_accuracy": values})
            for method, series in (("ce", ce), ("hr", hr))
            for k, values in enumerate(series)
        ],
    )


def test_epochs_to_reach_an_accuracy(tmp_path):
    folder = make_curves(
        tmp_path, [[0.2, 0.5, 0.9], [0.6, 0.7, 0.8]], [[0.5, 0.9, 0.7], [0.5, 0.6, 0.9]]
    )
    found = convergence.rows(folder, (0.5, 0.9, 0.95)).set_index(["accuracy", "method"])
    assert (found["epochs"][0.5, "ce"], found["epochs"][0.5, "hr"]) == (1.5, 1.0)
    half = found.loc[0.5, "hr"]
    assert half["difference"] == -0.5
    assert half["low"] == pytest.approx(-0.5 - 12.7062 * 0.5, abs=1e-3)
    assert (found["epochs"][0.9, "ce"], found["reached"][0.9, "ce"]) == (3.0, 1)
    high = found.loc[0.9, "hr"]
    assert (high["epochs"], high["difference"], high["pairs"]) == (2.5, -1.0, 1)
    assert math.isnan(high["low"])
    assert math.isnan(found["epochs"][0.95, "ce"])
    text = convergence.write([folder], (0.5, 0.9, 0.95))
    assert "3.0 (1 of 2)" in text
    assert [cell.strip() for cell in text.splitlines()[8].split("|")[1:5]] == [".950", *3 * ["–"]]
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        convergence.rows(folder, (90,))


def test_usual_accuracies_are_reached_by_every_run(tmp_path):
    folder = make_curves(tmp_path, [[0.2, 0.8]], [[0.5, 0.9]])
    found = convergence.rows(folder)
    assert list(found["accuracy"].unique()) == [0.72, 0.76, 0.792]
    assert set(found["reached"]) == {1}
    assert "no interval" in convergence.markdown(folder, found)


def make_confused(method, realization, wrong):
    """A classifier of two classes that gives `wrong` to the other one."""
    matrix = ((1 - wrong, wrong), (wrong, 1 - wrong))
    confusions = [Confusion("fgsm_ce", route, 0.1, matrix) for route in ("logits", "probabilities")]
    return make_result(method, realization, confusions=confusions)


def test_norms_of_confusion_matrices(tmp_path):
    """‖I − C‖_F of a 2×2 matrix with w off the diagonal is 2w."""
    wrong = {("ce", 0): 0.2, ("ce", 1): 0.3, ("hr", 0): 0.1, ("hr", 1): 0.1}
    folder = make_folder(tmp_path, [make_confused(*key, value) for key, value in wrong.items()])
    found = confusion.rows(folder).set_index(["method", "through"])
    assert found["mean"]["ce", "logits"] == pytest.approx(0.5)
    assert found["mean"]["hr", "probabilities"] == pytest.approx(0.2)
    assert found["standard_error"]["ce", "logits"] == pytest.approx(0.1)
    assert (found["paper"]["ce", "logits"], found["paper"]["hr", "logits"]) == (0.40, 0.23)
    assert ".500 ± .100" in confusion.write([folder])
    with pytest.raises(ValueError, match="`epsilon` must be one of"):
        confusion.rows(folder, epsilon=0.2)


def test_a_class_without_images_does_not_count(tmp_path):
    matrix = ((0.7, None), (0.3, None))
    confusions = [Confusion("fgsm_ce", route, 0.1, matrix) for route in ("logits", "probabilities")]
    folder = make_folder(tmp_path, [make_result("ce", 0, confusions=confusions)])
    assert confusion.rows(folder)["mean"].iloc[0] == pytest.approx(math.hypot(0.3, 0.3))
    assert render_figure(confusion.figure(folder))["png"]


def make_terms(entropy=0.1, divergence=0.2, error=0.05, splits=("train", "validation", "test")):
    return [
        ErrorTerms(split, 100, 10, error, 0.1, entropy, ((1.6, divergence), (3.0, 2 * divergence)),
                   0.1, 0.2, ((3.0, 1.0),))
        for split in splits
    ]  # fmt: skip


def test_bounds_of_saved_terms(tmp_path):
    history = {"val_accuracy": [0.5, 0.9], "val_error_bound": [1.0, 0.8]}
    results = [
        make_result(method, k, history=history, terms=make_terms())
        for method in ("ce", "hr")
        for k in (0, 1)
    ]
    impossible = make_terms(error=0.99, splits=("test",))  # no distribution has these
    results[3] = dataclasses.replace(
        results[3], error_terms=(*results[3].error_terms[:2], *impossible)
    )
    folder = make_folder(tmp_path, results)
    upper = error_bound.rows(folder)
    first = upper.iloc[0]
    expected = ((1 - math.exp(-0.1)) * math.exp(0.2)) ** 0.375
    assert (first["alpha"], first["bound"]) == (1.6, pytest.approx(expected, rel=1e-6))
    assert first["surrogate"] == pytest.approx(math.exp(0.375 * (0.3 - 1)), rel=1e-6)
    assert list(upper["tightest"][:2]) == [False, True]
    wrong = (upper["method"] == "hr") & (upper["split"] == "test")
    assert (upper["holds"] == ~wrong).all()
    lower = error_bound.lower_rows(folder)
    assert lower["holds"].all()
    assert lower["bound"].between(0, 0.2, inclusive="neither").all()
    text = error_bound.write([folder])
    assert "trivial" in text
    assert text.count("| NO ") == 1


def test_curves_are_those_of_the_realizations_and_their_mean():
    folder = RunFolder(ROOT / "results" / "mnist10k" / "quick")
    curves = convergence.figure(folder).axes
    assert [len(axes.lines) for axes in curves[:2]] == [6, 6]
    mean = folder.histories().query("method == 'hr' and metric == 'val_fgsm_ce_0.25_accuracy'")
    mean = mean.groupby("epoch")["value"].mean()
    np.testing.assert_allclose(curves[1].lines[5].get_ydata(), mean)


def test_a_legend_names_every_method_and_epsilon():
    for name in ("quick", "methods"):  # the lines of 30 curves would not fit
        folder = RunFolder(ROOT / "results" / "mnist10k" / name)
        drawn = convergence.figure(folder)
        texts = [text.get_text() for text in drawn.legends[0].get_texts()]
        assert len(texts) <= 20
        for part in (
            *(METHODS[one].label for one in folder.protocol.methods),
            "ε = 0",
            "ε = 0.1",
            "ε = 0.25",
        ):
            assert any(part in text for text in texts)


def test_everything_drawn_says_what_the_data_are_called(tmp_path):
    """From a folder trained by name on recompressed images; the images are not needed."""
    shutil.copytree(ROOT / "results" / "mnist10k" / "quick", tmp_path / "run")
    path = tmp_path / "run" / "protocol.json"
    path.write_text(path.read_text().replace('"mnist10k"', '"cifar10"'))
    label = "CIFAR-10, JPEG-recompressed"
    (folder,) = plan_runs(tmp_path / "run", data_label=label).create()
    text = accuracy_table.write([folder], folder.path)
    assert f"## {label} beside the paper's column CIFAR-10" in text
    for write in (convergence.write, confusion.write, error_bound.write):
        write([folder])
    drawn = [
        path for path in folder.path.iterdir() if path.suffix in (".md", ".csv", ".tex", ".svg")
    ]
    assert len(drawn) == 21
    for path in drawn:
        assert label in path.read_text(), path.name
        parts = path.read_text().split("\\caption")[1:]
        assert all(label in part for part in parts), path.name


def test_the_papers_norms_are_shown_beside_mnist_only(tmp_path):
    results = [make_confused("ce", 0, 0.2)]
    labels = {"MNIST": 0.4, "MNIST, rotated": 0.4, "CIFAR-10": None, "Fashion-MNIST": None}
    for label, paper in labels.items():
        folder = make_folder(tmp_path / label, results, data_label=label)
        found = confusion.rows(folder)["paper"]
        assert found.isna().all() if paper is None else (found == paper).all()


def test_text_from_outside_cannot_format_a_report():
    shown = plain_text("a|b`c<script>\n# d\x1b[31m")
    assert "\n" not in shown
    assert "\x1b" not in shown
    for character in "|`<":
        assert f"\\{character}" in shown
    caption = format_latex(pd.DataFrame({"a": ["1"]}), r"50% \input{x}_1 & ~^#$")
    assert r"\caption{50\% \textbackslash{}input\{x\}\_1 \& " in caption
