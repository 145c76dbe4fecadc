"""Methods at equal clean accuracy, the gradients of HR beside those of CE, and label noise."""

import dataclasses
import pathlib

import pytest
from saved_results import make_accuracies, make_folder, make_result

from hr_keras.experiments.results import comparison, label_noise
from hr_keras.experiments.run_folder import RunFolder

QUICK = pathlib.Path(__file__).parents[2] / "results" / "mnist10k" / "quick"


def make_history(clean, exact, published=None, norms=None):
    history = {
        "val_accuracy": clean,
        "val_fgsm_ce_0.1_accuracy": exact,
        "val_published_fgsm_ce_0.1_accuracy": published or exact,
    }
    if norms:
        history |= dict(zip(("gradient_norm_ce", "gradient_norm_hr"), norms, strict=True))
    return history


def test_a_model_is_taken_at_its_first_attacked_epoch_that_is_accurate_enough(tmp_path):
    """HR is accurate enough one epoch before it is attacked."""
    none = None
    histories = {
        ("ce", 0): make_history([0.5, 0.8, 0.9, 0.9], [0.1, none, 0.3, 0.4]),
        ("ce", 1): make_history([0.8, 0.8, 0.8, 0.8], [0.2, none, 0.9, 0.9]),
        ("hr", 0): make_history([0.5, 0.9, 0.7, 0.9], [0.1, none, 0.6, 0.7]),
        ("hr", 1): make_history([0.5, 0.9, 0.9, 0.9], [0.1, none, 0.5, 0.8]),
    }
    histories["ce_scaled", 0] = histories["hr", 0]  # before its logits were multiplied
    results = [make_result(*key, history=history) for key, history in histories.items()]
    folder = make_folder(tmp_path, results)
    found = comparison.rows(folder, (0.8, 0.85))
    found = found[found["through"] == "logits"].set_index(["accuracy", "method"])
    assert found["epoch"].to_dict() == {
        (0.8, "ce"): 2.0, (0.8, "hr"): 3.5, (0.85, "ce"): 3.0, (0.85, "hr"): 3.5
    }  # fmt: skip
    assert found["mean"].to_dict() == pytest.approx(
        {(0.8, "ce"): 0.25, (0.8, "hr"): 0.6, (0.85, "ce"): 0.3, (0.85, "hr"): 0.6}
    )
    assert found["realizations"].to_list() == [2, 2, 1, 2]
    assert found.loc[(0.8, "hr"), "difference"] == pytest.approx((0.4 + 0.3) / 2)
    assert found.loc[(0.85, "hr"), ["difference", "pairs"]].to_list() == pytest.approx([0.4, 1])
    with pytest.raises(ValueError, match="`baseline` must be one of"):
        comparison.rows(folder, baseline="gce")
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        comparison.rows(folder, (90,))
    with pytest.raises(ValueError, match="`baseline` must be a method whose model is compared"):
        comparison.rows(folder, baseline="ce_scaled")
    text = comparison.write([folder], (0.8, 0.95))
    assert "No model reaches this accuracy on an attacked epoch: .950." in text
    assert "≥ .800" in text
    assert "attacked epoch: .960, .950." in comparison.write([folder], (0.96, 0.95))


def test_ratios_of_gradients_are_geometric_means(tmp_path):
    norms = ([1.0, 2.0, None], [1.0, 8.0, None]), ([1.0, 0.0, 1.0], [4.0, 1.0, 4.0])
    results = [
        make_result("ce", k, history=make_history([0.5] * 3, [0.1] * 3, norms=one))
        for k, one in enumerate(norms)
    ]
    folder = make_folder(tmp_path, [*results, make_result("hr", 0, history=results[0].history)])
    found = comparison.gradient_rows(folder).set_index(["method", "epochs"])["ratio"]
    assert found["ce"].to_dict() == pytest.approx(
        {"first": 2.0, "all": (2 * 4) ** 0.5, "last": 4.0}  # of (1, 4) and (2, 4); a zero is none
    )
    assert found["hr", "all"] == pytest.approx(2.0)
    text = comparison.write([folder])
    assert "| CE" in text
    assert "2.83 [" in text


def test_results_without_gradients_are_compared_without():
    folder = RunFolder(QUICK)
    assert comparison.gradient_rows(folder).empty
    assert "gradient of HR" not in comparison.markdown(folder, comparison.rows(folder))


def make_series(path, values):
    """Folders of {share: {method: [accuracy under attack of each realization]}}."""
    plan = label_noise.plan_series(path, "quick", shares=tuple(values), methods=("ce", "hr"))
    folders = []
    for run, found in zip(plan.runs, values.values(), strict=True):
        folder = RunFolder.create(run.path, dataclasses.replace(run.protocol, realizations=2))
        for method, accuracies in found.items():
            for k, accuracy in enumerate(accuracies):
                folder.write_result(make_result(method, k, make_accuracies(accuracy)))
        folders.append(folder)
    return folders


def test_a_series_of_label_noise_is_one_table(tmp_path):
    values = {0.0: {"ce": [0.8, 0.8], "hr": [0.82, 0.84]},
              0.2: {"ce": [0.7, 0.6], "hr": [0.5, 0.4]}}  # fmt: skip
    folders = make_series(tmp_path, values)
    found = label_noise.rows(folders)
    clean = found[found["attack"] == "none"].set_index(["label_noise", "method"])
    assert clean["mean"].to_list() == pytest.approx([0.9, 0.93, 0.75, 0.55])
    assert clean.loc[(0.2, "hr"), "difference"] == pytest.approx(-0.2)
    assert clean["difference"].isna().to_list() == [True, False, True, False]
    text = label_noise.write(folders, tmp_path)
    assert "| trained with   | 0 %" in text
    assert "## Accuracy under FGSM with CE at ε = 0.1, as published\n" in text
    assert "## Accuracy without attack\n" in text
    assert "−.200 [−.200, −.200]" in text
    assert {"label_noise.md", "label_noise.csv", "label_noise.tex", "label_noise.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    (_, one), again = (label_noise.plan_series(tmp_path, shares=shares).runs for shares in ((), ()))
    assert one.protocol.label_noise == 0.2
    assert again[1].protocol == dataclasses.replace(folders[1].protocol, realizations=2)
    with pytest.raises(ValueError, match="`label_noise` take one data set"):
        label_noise.plan_series(tmp_path, datasets=("mnist", "cifar10"))
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        label_noise.plan_series(tmp_path, shares=(1.0,))
