"""A learning rate for each method: what chooses it, what keeps it, and what trains with it."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import reference
from conftest import linear_model
from saved_results import make_folder, make_result

from hr_keras.cli import options
from hr_keras.datasets import Split
from hr_keras.experiments import fit
from hr_keras.experiments.gradient_norms import GradientNorms
from hr_keras.experiments.plan import plan_runs
from hr_keras.experiments.protocol import Protocol, from_preset
from hr_keras.experiments.result import Accuracy
from hr_keras.experiments.results import alpha_search, learning_rates
from hr_keras.experiments.run_folder import RunFolder


def make_search(path, grid, ratio=None):
    """Folders of {rate: {method: [validation accuracy of each realization]}}."""
    methods = tuple(next(iter(grid.values())))
    plan = learning_rates.plan_search(path, "quick", rates=tuple(grid), methods=methods, epochs=2)
    history = {"val_accuracy": [0.5, 0.6]}
    if ratio is not None:  # geometric mean of ratio/2 and 2·ratio
        history |= {"gradient_norm_ce": [2.0, 1.0], "gradient_norm_hr": [ratio, 2 * ratio]}
    folders = []
    for run, found in zip(plan.runs, grid.values(), strict=True):
        count = max(map(len, found.values()))
        folder = RunFolder.create(run.path, dataclasses.replace(run.protocol, realizations=count))
        for method, accuracies in found.items():
            for k, accuracy in enumerate(accuracies):
                one = Accuracy("validation", "none", "none", 0.0, 100, accuracy)
                folder.write_result(make_result(method, k, [one], history))
        folders.append(folder)
    return folders


def test_the_rule(tmp_path):
    """The best mean, not the best single run; of equal ones the smallest."""
    grid = {
        0.01: {"ce": [0.90, 0.91], "hr": [0.93, 0.93]},
        0.1: {"ce": [0.99, 0.80], "hr": [0.93, 0.93]},
        0.001: {"ce": [0.5, 0.5], "hr": [0.5, 0.5]},
    }
    grid = dict(sorted(grid.items()))
    found = learning_rates.rows(make_search(tmp_path, grid))
    chosen = found[found["chosen"]].set_index("method")["learning_rate"]
    assert chosen.to_dict() == {"ce": 0.01, "hr": 0.01}
    assert learning_rates.read_rates(tmp_path) == (("ce", 0.01), ("hr", 0.01), ("ce_scaled", 0.01))
    text = learning_rates.write([RunFolder(p) for p in RunFolder.find_in(tmp_path)], tmp_path)
    assert "**.905 ± .005**" in text
    assert learning_rates.RULE in text
    assert "At an end of the grid" not in text


def test_cross_entropy_gets_the_larger_step_of_hr(tmp_path):
    grid = {0.01: {"ce": [0.9], "hr": [0.9]}, 0.03: {"ce": [0.95], "hr": [0.5]}}
    folders = make_search(tmp_path, grid, 2.5)
    rates = dict(learning_rates.choose_rates(learning_rates.rows(folders)))
    assert rates == {"ce": 0.03, "ce_scaled": 0.03, "hr": 0.01, "ce_step": pytest.approx(0.075)}
    assert "a rate beyond it may be better: CE, HR." in learning_rates.write(folders, tmp_path)


def test_methods_that_train_alike_are_searched_once(tmp_path):
    plan = learning_rates.plan_search(tmp_path, methods=("ce_scaled", "ce", "hr", "ce_step"))
    assert {run.protocol.methods for run in plan.runs} == {("ce", "hr")}
    rates = [run.protocol.learning_rate for run in plan.runs]
    assert rates == pytest.approx([factor * 0.01 for factor in learning_rates.FACTORS])
    assert {run.protocol.evaluated_on for run in plan.runs} == {"validation"}


def test_what_is_no_finished_search_is_refused(tmp_path):
    folders = make_search(tmp_path / "search", {0.01: {"ce": [0.9], "hr": [0.9]}})
    folders[0].result_path("hr", 0).unlink()
    with pytest.raises(ValueError, match="has 1 of 2 results"):
        learning_rates.read_rates(tmp_path / "search")
    RunFolder.create(tmp_path / "runs" / "a", from_preset("quick"))
    for path in (tmp_path / "runs", tmp_path / "none"):
        with pytest.raises(ValueError, match="holds no search"):
            learning_rates.read_rates(path)
    with pytest.raises(ValueError, match="evaluated on the test split"):
        learning_rates.plan_search(tmp_path / "runs")
    with pytest.raises(ValueError, match="other runs than those of one `alpha` each"):
        alpha_search.plan_search(tmp_path / "search")
    with pytest.raises(ValueError, match=r"must be of a search for α.*Received: \('ce', 'hr'\)"):
        alpha_search.rows(folders)
    with pytest.raises(ValueError, match=r"learning_rate-0\.01 is a run folder: choose the folder"):
        learning_rates.plan_search(folders[0].path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_size": 50}, "batch_size 100 for 50"), ({"alpha": 3.0}, "alpha 1.6 for 3"),
     ({"schedule": ((1, 0.1),)}, "schedule"), ({"dataset": "mnist"}, "dataset mnist10k for mnist"),
     ({"model": "resnet8", "optimizer": "adam"}, "model mnist_cnn for resnet8, optimizer"),
     ({"epochs": 9, "realizations": 7, "attack_every": 3, "label_noise": 0.2}, "")],
)  # fmt: skip
def test_rates_of_another_training_are_refused(tmp_path, change, message):
    make_search(tmp_path, {0.02: {"ce": [0.9], "hr": [0.9]}})
    protocol = from_preset("quick", **change)
    if not message:
        learning_rates.check_search(tmp_path, protocol)
        return
    with pytest.raises(ValueError, match=f"another training: {message}"):
        learning_rates.check_search(tmp_path, protocol)


def test_the_command_line_gives_each_method_its_rate(tmp_path):
    make_search(tmp_path / "search", {0.02: {"ce": [0.9], "hr": [0.9]}})
    chosen = options.Options(
        learning_rates_from=tmp_path / "search", learning_rate_of=["hr=0.5", "gce=3e-3"]
    )
    protocol = chosen.plan_table().runs[0].protocol
    rates = {"ce": 0.02, "ce_scaled": 0.02, "hr": 0.5, "gce": 0.003}
    assert dict(protocol.learning_rates) == rates
    assert protocol.find_learning_rate("renyi") == protocol.learning_rate == 0.01
    assert Protocol.from_json(protocol.to_json()) == protocol
    with pytest.raises(ValueError, match="another training: alpha"):
        dataclasses.replace(chosen, alpha=3.0).plan_table()


@pytest.mark.parametrize(
    ("text", "message"),
    [("hr", "METHOD=RATE"), ("hr=fast", "METHOD=RATE"), ("hrr=1", "Did you mean 'hr'"),
     ("hr=0", "`learning_rate` must be > 0"), ("hr=nan", "`learning_rate` must be > 0")],
)  # fmt: skip
def test_rates_that_make_no_sense_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        options.Options(learning_rate_of=[text]).plan_table()


def test_the_rate_of_a_trained_method_does_not_change(tmp_path):
    make_folder(tmp_path, [make_result("ce", 0), make_result("hr", 0)], preset="quick")
    plan = plan_runs(tmp_path, methods=("ce", "gce"), learning_rates=(("gce", 0.5),))
    plan.create()
    assert RunFolder(tmp_path).protocol.learning_rates == (("gce", 0.5),)
    before = (tmp_path / "protocol.json").read_bytes()
    for change in (("hr", 0.2), ("ce", 0.2)):  # HR is not among the methods now, its model is there
        with pytest.raises(ValueError, match=r"trained with learning rate 0\.01, 0\.2 now"):
            plan_runs(tmp_path, learning_rates=(change,)).create()
    plan_runs(tmp_path, learning_rates=(("rce", 0.1),)).create()
    assert dict(RunFolder(tmp_path).protocol.learning_rates) == {"gce": 0.5, "rce": 0.1}
    assert (tmp_path / "protocol.json").read_bytes() != before


def test_a_model_trains_with_the_rate_of_its_method(digits):
    data = digits._replace(train=Split(*(array[:200] for array in digits.train)))
    changes = {"learning_rates": (("hr", 0.5),), "schedule": ((3, 0.1),)}
    for protocol, later in (
        (from_preset("quick", learning_rates=changes["learning_rates"]), 1.0),
        (from_preset("quick", **changes), 0.1),
    ):
        for method, rate in (("ce", 0.01), ("hr", 0.5)):
            optimizer = fit.build_model(protocol, method, 0, data)[1].optimizer
            assert float(optimizer.learning_rate) == pytest.approx(rate)
            optimizer.iterations.assign(6)  # of two in an epoch
            assert float(optimizer.learning_rate) == pytest.approx(later * rate)


def test_gradient_norms_are_those_of_a_reference_and_training_does_not_change():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (10, 2, 2, 3), "uint8")
    labels = generator.integers(0, 3, 10)
    protocol = from_preset("quick", alpha=2.5, batch_size=4, attack_every=2, epochs=3)
    trained = []
    for with_norms in (True, False):
        model = linear_model(1.0)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        norms = GradientNorms(model, protocol, Split(images, labels))
        callbacks = [norms] if with_norms else []
        history = model.fit(images / 255, labels, epochs=3, shuffle=False, verbose=0,
                            callbacks=callbacks).history  # fmt: skip
        trained.append((model.get_weights(), history, norms))
    for a, b in zip(trained[0][0], trained[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    (kernel, bias), history, norms = trained[0]
    due = [not math.isnan(value) for value in history["gradient_norm_ce"]]
    assert due == [False, True, True]  # every second and the last
    x = np.reshape(images[:4] / 255, (4, 12))  # batch 2 of two whole ones is the first again
    p = reference.one_hot(labels[:4], 3)

    def compute_loss(weights, kind):
        log_q = reference.log_softmax(x @ weights[:12] + weights[12])
        if kind == "ce":
            return reference.cross_entropy(p, log_q).mean()
        return reference.hr(p, log_q, 2.5)

    for kind in ("ce", "hr"):
        gradient = reference.gradient(
            lambda w, k=kind: compute_loss(w, k), np.vstack([kernel, bias])
        )
        value = history[f"gradient_norm_{kind}"][2]
        assert value == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        assert value == norms.measure(2)[f"gradient_norm_{kind}"]
