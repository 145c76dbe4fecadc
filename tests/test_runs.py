import json

import pytest

from hr_keras.experiments import estimate as estimates
from hr_keras.experiments import paper, runs, table, train_all
from hr_keras.experiments.protocol import from_preset


def write(folder, *arguments, **changes):
    protocol = from_preset(*arguments, **changes)
    train_all.open_folder(folder, protocol)
    return protocol


def test_a_run_folder_is_enough(tmp_path):
    protocol = write(tmp_path, "quick", alpha=2.0, epochs=4)
    assert runs.plan(tmp_path) == (tmp_path, [(protocol, tmp_path)])
    grown = runs.plan(tmp_path, realizations=7).runs[0].protocol
    assert (grown.realizations, grown.alpha) == (7, 2.0)
    other = runs.plan(tmp_path, epochs=5).runs[0]
    with pytest.raises(ValueError, match="epochs=4 there, 5 now"):
        train_all.open_folder(other.folder, other.protocol)
    asked = runs.plan(tmp_path, "paper-mnist").runs[0].protocol
    assert asked == from_preset("paper-mnist")


def test_several_data_sets_get_a_folder_each_in_the_order_of_the_paper(tmp_path):
    plan = runs.plan(tmp_path, "quick", ("fashion_mnist", "svhn_cropped", "mnist"), epochs=2)
    names = ["mnist", "svhn_cropped", "fashion_mnist"]
    assert [run.protocol.dataset for run in plan.runs] == names
    assert [run.folder for run in plan.runs] == [tmp_path / name for name in names]
    for run in plan.runs:
        train_all.open_folder(run.folder, run.protocol)
    assert runs.plan(tmp_path) == plan
    assert runs.plan(None, None, ("mnist", "cifar10")).folder.name == "mnist_cifar10_quick"


def test_several_runs_of_one_data_set_are_no_table(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, "quick", dataset="mnist")
    with pytest.raises(ValueError, match=r"names that differ.*mnist, mnist\. Give one of .*a, .*b"):
        runs.plan(tmp_path)


def test_folders_that_hold_something_else_are_refused(tmp_path):
    write(tmp_path / "run", "quick")
    with pytest.raises(ValueError, match="run folder of one data set"):
        runs.plan(tmp_path / "run", None, ("mnist", "mnist10k"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no run folders"):
        runs.plan(tmp_path / "other", None, ("mnist", "mnist10k"))
    with pytest.raises(ValueError, match="names that differ"):
        runs.plan(None, None, ("mnist", "mnist"))


def test_a_file_is_looked_into_again_where_it_is_still_there(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"one")
    before = write(tmp_path / "run", "quick", dataset=str(path))
    path.write_bytes(b"another")
    run = runs.plan(tmp_path / "run").runs[0]
    with pytest.raises(ValueError, match="dataset_sha256"):
        train_all.open_folder(run.folder, run.protocol)
    path.unlink()
    assert runs.plan(tmp_path / "run").runs[0].protocol == before


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_quantiles_are_those_of_the_tables(degrees, quantile):
    assert estimates.student_t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


def test_an_estimate_is_a_mean_with_its_interval():
    found = estimates.estimate([0.03, 0.05, 0.04])
    assert (found.mean, found.realizations) == (pytest.approx(0.04), 3)
    assert found.standard_error == pytest.approx(0.01 / 3**0.5)
    half = 4.3027 * 0.01 / 3**0.5
    assert found.interval == pytest.approx((0.04 - half, 0.04 + half), abs=1e-6)
    assert estimates.estimate([0.5]) == estimates.Estimate(0.5, None, None, 1)


def results(pairs):
    """Accuracies of (CE, HR) for each realization, the same whatever the attack."""
    return [
        {
            "loss": loss,
            "index": index,
            "test": [
                {"through": through, "attack": attack, "epsilon": epsilon, "accuracy": accuracy,
                 "zero_gradient_share": 0.0}
                for through in ("logits", "probabilities")
                for attack in ("ce", "hr")
                for epsilon in (0.0, 0.1)
            ],
        }
        for index, pair in enumerate(pairs)
        for loss, accuracy in zip(("ce", "hr"), pair, strict=True)
    ]  # fmt: skip


def test_claims_are_paired():
    """A common effect of the seed, ten times the effect of the loss, does not blur it."""
    claim = table.claims(results([(0.5, 0.52), (0.7, 0.73), (0.9, 0.92)]), "mnist")[-1]
    assert claim.difference == pytest.approx(0.07 / 3)
    assert claim.direction_holds
    assert claim.beyond_chance
    assert 0.005 < claim.low < claim.high < 0.05
    assert (claim.attack, claim.epsilon, claim.paper) == ("hr", 0.1, 0.0)
    undecided = table.claims(results([(0.5, 0.7), (0.7, 0.6)]), "mnist")[0]
    assert undecided.direction_holds
    assert not undecided.beyond_chance
    one = table.claims(results([(0.5, 0.4)]), "fashion_mnist")[0]
    assert (one.low, one.high, one.beyond_chance, one.paper) == (None, None, None, None)
    assert not one.direction_holds


def test_the_papers_numbers_bear_out_what_it_says_of_them():
    """ "0.1 to 3.6 without attack, 3.4 to 4.1 for light, 0.2 to 3.8 for medium attacks"."""
    gains = {
        epsilon: [
            paper.accuracy(name, epsilon, hr) - paper.accuracy(name, epsilon, ce)
            for name in ("mnist10k", "cifar10", "svhn_cropped")
            for ce, hr in (("CE", "HR_CE"), ("CE_HR", "HR"))
        ]
        for epsilon in (0.0, 0.1, 0.25)
    }
    assert (min(gains[0.0]), max(gains[0.0])) == pytest.approx((0.001, 0.036))
    assert (min(gains[0.25]), max(gains[0.25])) == pytest.approx((0.002, 0.038))
    assert max(gains[0.1]) == pytest.approx(0.041)
    assert sorted(gains[0.1])[1] == pytest.approx(0.034)  # one cell, MNIST under HR, is left out
    assert paper.accuracy("fashion_mnist", 0.1, "CE") is None
    assert paper.accuracy("mnist", 0.3, "CE") is None
    assert json.dumps(paper.confusion_norm("mnist", "hr", 0.1)) == "0.23"
    assert paper.confusion_norm("cifar10", "hr", 0.1) is None
