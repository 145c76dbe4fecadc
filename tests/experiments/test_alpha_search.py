import dataclasses

import numpy as np
import pytest
from saved_results import make_result

from hr_keras import datasets
from hr_keras.experiments.plan import plan_runs
from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.result import Accuracy
from hr_keras.experiments.results import alpha_search
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.train import train_folder


def make_search(path, grid, size=100):
    """Folders of {α: [(clean, exact) of each realization]}."""
    plan = alpha_search.plan_search(path, "quick", alphas=tuple(grid), epochs=2)
    folders = []
    for run, pairs in zip(plan.runs, grid.values(), strict=True):
        protocol = dataclasses.replace(run.protocol, realizations=len(pairs))
        folder = RunFolder.create(run.path, protocol)
        for k, (clean, exact) in enumerate(pairs):
            rows = [
                Accuracy("validation", "none", "none", 0.0, size, clean),
                Accuracy("validation", "fgsm_ce", "logits", 0.1, size, exact, 0.0),
                Accuracy("validation", "fgsm_ce", "probabilities", 0.1, size, 0.5, 0.2),
            ]
            folder.write_result(make_result("hr", k, rows))
        folders.append(folder)
    return folders


def choose(path, grid):
    found = alpha_search.rows(make_search(path, grid))
    return found, found[found["chosen"]]["alpha"].item()


def test_the_rule(tmp_path):
    """Best clean accuracy .95 ± .01: 1.4 is too far off, of 1.2 and 1.6 the more robust wins."""
    found, chosen = choose(
        tmp_path / "a",
        {
            1.2: [(0.94, 0.5), (0.96, 0.5)],
            1.4: [(0.93, 0.9), (0.94, 0.9)],
            1.6: [(0.94, 0.6), (0.945, 0.6)],
        },
    )
    assert list(found["eligible"]) == [True, False, True]
    assert chosen == 1.6
    assert found["clean_error"][0] == pytest.approx(0.01)
    assert found["exact"][2] == pytest.approx(0.6)
    assert found["zero_gradient_share"][2] == pytest.approx(0.2)
    _, tie = choose(tmp_path / "b", {1.2: [(0.9, 0.5)] * 2, 1.6: [(0.9, 0.5)] * 2})
    assert tie == 1.2


def test_one_realization_uses_the_number_of_images(tmp_path):
    """√(.9·.1/100) = .03."""
    folders = make_search(tmp_path, {1.2: [(0.9, 0.5)], 1.4: [(0.88, 0.6)], 1.6: [(0.86, 0.7)]})
    found = alpha_search.rows(folders)
    assert list(found["eligible"]) == [True, True, False]
    assert found[found["chosen"]]["alpha"].item() == 1.4
    text = alpha_search.write(folders, tmp_path)
    assert "±" not in text.split("\n\n")[2]
    assert "One realization: no standard error" in text
    assert "**chosen**" in text
    assert {"alpha.md", "alpha.csv", "alpha.tex", "alpha.png", "alpha.svg"} <= {
        path.name for path in tmp_path.iterdir()
    }


@pytest.mark.parametrize("alphas", [(1.0,), (1.6, 0.5), (float("nan"),)])
def test_a_grid_that_is_not_above_1_is_refused(alphas, tmp_path):
    with pytest.raises(ValueError, match="`alpha` must be a finite number greater than 1"):
        alpha_search.plan_search(tmp_path, "quick", alphas=alphas)


def test_searches_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must differ"):
        alpha_search.plan_search(tmp_path, "quick", alphas=(1.2, 1.2))
    with pytest.raises(ValueError, match="take one data set"):
        alpha_search.plan_search(tmp_path, "quick", ("mnist", "cifar10"))
    with pytest.raises(ValueError, match="`epsilon` must be one of"):
        alpha_search.rows(make_search(tmp_path, {1.2: [(0.9, 0.5)]}), epsilon=0.2)


def test_searches_and_tables_do_not_mix(tmp_path):
    RunFolder.create(tmp_path / "table", from_preset("quick"))
    with pytest.raises(ValueError, match="table is a run folder: choose the folder that holds"):
        alpha_search.plan_search(tmp_path / "table")
    with pytest.raises(ValueError, match="evaluated on the test split"):
        alpha_search.plan_search(tmp_path)
    for run in alpha_search.plan_search(tmp_path / "search", alphas=(1.2, 1.6)).runs:
        RunFolder.create(run.path, run.protocol)
    with pytest.raises(ValueError, match="see `hr-keras alpha`"):
        plan_runs(tmp_path / "search")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no runs of one `alpha` each"):
        alpha_search.plan_search(tmp_path / "other")


def test_a_search_grows_from_its_folder(tmp_path):
    first = alpha_search.plan_search(tmp_path, "quick", alphas=(1.6, 1.2), epochs=4, seed=3)
    assert [run.path.name for run in first.runs] == ["alpha-1.2", "alpha-1.6"]
    for run in first.runs:
        RunFolder.create(run.path, run.protocol)
    assert alpha_search.plan_search(tmp_path) == first
    *same, more = alpha_search.plan_search(tmp_path, alphas=(1.6, 3.0)).runs
    assert tuple(same) == first.runs
    assert more.protocol == dataclasses.replace(first.runs[0].protocol, alpha=3.0)
    assert len(alpha_search.plan_search(None).runs) == len(alpha_search.GRID)


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
    plan = alpha_search.plan_search(folder, "quick", (path,), (1.2, 3.0), epochs=2, realizations=1)
    folders = plan.create()
    for one in folders:
        train_folder(one)
        assert set(one.accuracies()["split"]) == {"validation"}
    return alpha_search.write(folders, folder)
