import dataclasses

import numpy as np
import pytest

from hr_keras import datasets, outputs, plots, report
from hr_keras.experiments import alpha, runs, train_all
from hr_keras.experiments.protocol import from_preset


def result(clean, exact, published=0.5, size=100):
    rows = {("logits", 0.0): clean, ("logits", 0.1): exact, ("probabilities", 0.1): published}
    return {
        "validation_size": size,
        "validation": [
            {"through": through, "attack": "ce", "epsilon": epsilon, "accuracy": accuracy,
             "zero_gradient_share": 0.2}
            for (through, epsilon), accuracy in rows.items()
        ],
    }  # fmt: skip


def search(grid):
    """`candidates` of {α: [(clean, exact) of each realization]}."""
    plan = alpha.plan("runs/search", "quick", alphas=tuple(grid), epochs=2)
    return alpha.candidates(plan, [[result(*pair) for pair in pairs] for pairs in grid.values()])


def chosen(found):
    (one,) = (candidate for candidate in found if candidate.chosen)
    return one.alpha


def test_the_rule():
    """Best clean accuracy .95 ± .01: 1.4 is too far off, of 1.2 and 1.6 the more robust wins."""
    found = search(
        {
            1.2: [(0.94, 0.5), (0.96, 0.5)],
            1.4: [(0.93, 0.9), (0.94, 0.9)],
            1.6: [(0.94, 0.6), (0.945, 0.6)],
        }
    )
    assert [one.eligible for one in found] == [True, False, True]
    assert chosen(found) == 1.6
    assert found[0].clean_error == pytest.approx(0.01)
    assert found[2].exact == pytest.approx(0.6)
    assert found[2].zero_gradient_share == pytest.approx(0.2)
    tie = search({1.2: [(0.9, 0.5)] * 2, 1.6: [(0.9, 0.5)] * 2})
    assert chosen(tie) == 1.2


def test_one_realization_goes_by_the_number_of_images():
    """√(.9·.1/100) = .03 on either side of nothing else."""
    found = search({1.2: [(0.9, 0.5)], 1.4: [(0.88, 0.6)], 1.6: [(0.86, 0.7)]})
    assert [one.eligible for one in found] == [True, True, False]
    assert chosen(found) == 1.4
    assert {one.clean_error for one in found} == {None}
    text = report.alpha_markdown(from_preset("quick"), alpha.RULE, found)
    assert "±" not in text.split("\n\n")[2]
    assert "One realization: no standard error" in text
    assert "**chosen**" in text


def test_pictures_have_the_same_bytes_again():
    found = search({1.2: [(0.9, 0.5)] * 2, 1.6: [(0.91, 0.52)] * 2})
    assert plots.alpha_search(found, "$a$") == plots.alpha_search(found, "$a$")


@pytest.mark.parametrize("alphas", [(1.0,), (1.6, 0.5), (float("nan"),)])
def test_a_grid_that_is_not_above_1_is_refused(alphas, tmp_path):
    with pytest.raises(ValueError, match="`alpha` must be a finite number greater than 1"):
        alpha.plan(tmp_path, "quick", alphas=alphas)


def test_searches_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must differ"):
        alpha.plan(tmp_path, "quick", alphas=(1.2, 1.2))
    with pytest.raises(ValueError, match="One data set"):
        alpha.plan(tmp_path, "quick", ("mnist", "cifar10"))
    plan = alpha.plan(tmp_path, "quick", alphas=(1.2,))
    with pytest.raises(ValueError, match="ε must be one of"):
        alpha.candidates(plan, [[result(0.9, 0.5)]], epsilon=0.2)


def test_searches_and_tables_do_not_mix(tmp_path):
    train_all.open_folder(tmp_path / "table", from_preset("quick"))
    with pytest.raises(ValueError, match="evaluated on the test split"):
        alpha.plan(tmp_path / "table")
    with pytest.raises(ValueError, match="evaluated on the test split"):
        alpha.plan(tmp_path)
    for run in alpha.plan(tmp_path / "search", alphas=(1.2, 1.6)).runs:
        train_all.open_folder(run.folder, run.protocol)
    with pytest.raises(ValueError, match="see `hr-keras alpha`"):
        runs.plan(tmp_path / "search")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no search"):
        alpha.plan(tmp_path / "other")


def test_a_search_grows_from_its_folder(tmp_path):
    first = alpha.plan(tmp_path, "quick", alphas=(1.6, 1.2), epochs=4, seed=3)
    assert [run.folder.name for run in first.runs] == ["alpha-1.2", "alpha-1.6"]
    for run in first.runs:
        train_all.open_folder(run.folder, run.protocol)
    assert alpha.plan(tmp_path) == first
    *same, more = alpha.plan(tmp_path, alphas=(1.6, 3.0)).runs
    assert same == first.runs
    assert more.protocol == dataclasses.replace(first.runs[0].protocol, alpha=3.0)
    assert len(alpha.plan(None).runs) == len(alpha.GRID)


@pytest.mark.slow
def test_a_poisoned_test_split_changes_nothing(tmp_path, monkeypatch):
    """The same search with noise and wrong labels to test on, out of reach besides."""
    data = datasets.load("mnist10k", validation=0)
    train, test = (
        datasets.Split(split.images[:300], split.labels[:300]) for split in (data.train, data.test)
    )
    noise = np.random.default_rng(0).random(test.images.shape, dtype="float32")
    texts = {}
    for name, (images, labels) in {
        "clean": test,
        "poisoned": (noise, (test.labels + 1) % 10),
    }.items():
        path = tmp_path / name / "digits.npz"
        path.parent.mkdir()
        np.savez(path, x_train=train.images, y_train=train.labels, x_test=images, y_test=labels)
        texts[name] = run_search(tmp_path / name / "search", str(path))
        load = datasets.load
        monkeypatch.setattr(
            datasets, "load", lambda *a, load=load, **k: load(*a, **k)._replace(test=None)
        )
    texts = {text.partition("\n")[2] for text in texts.values()}  # the first line has the path
    assert len(texts) == 1


def run_search(folder, path):
    plan = alpha.plan(folder, "quick", (path,), (1.2, 3.0), epochs=2, realizations=1)
    for run in plan.runs:
        train_all.open_folder(run.folder, run.protocol)
    results = [train_all.run(*run, losses=alpha.LOSSES) for run in plan.runs]
    assert all("test" not in saved for of_run in results for saved in of_run)
    return outputs.alpha(plan, results)
