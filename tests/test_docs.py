import pathlib
import runpy

from saved_results import make_accuracies, make_folder, make_result

from hr_keras.experiments.result import Accuracy

ROOT = pathlib.Path(__file__).parent.parent


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
    assert "| PGD-AT | +.000 [+.000, +.000] | +.055 [−.009, +.119] | undecided |" in text
    assert text.count("HR − CE") == 2
    assert "| CE | +.000 [" not in text  # it has no partner here


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
