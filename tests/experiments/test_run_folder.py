import dataclasses
import json
import math

import pytest
from saved_results import make_accuracies, make_folder, make_result

from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.result import Accuracy, Confusion, ErrorTerms, Result
from hr_keras.experiments.run_folder import RunFolder

TERMS = ErrorTerms("test", 100, 2, 0.1, 0.2, 0.3, ((1.6, 0.4),), 0.1, 0.15, ((3.0, 0.5),))


def test_a_result_survives_its_file(tmp_path):
    matrix = ((0.9, None), (0.1, None))
    result = make_result(
        "hr", 0, make_accuracies(0.7), {"loss": [0.5, None]},
        [Confusion("fgsm_ce", "logits", 0.1, matrix)], [TERMS],
    )  # fmt: skip
    folder = make_folder(tmp_path, [result])
    assert folder.read_result("hr", 0) == result == Result.from_json(result.to_json())
    assert folder.results() == [result]


def test_a_folder_of_another_protocol_is_refused_and_kept(tmp_path):
    folder = RunFolder.create(tmp_path, from_preset("quick"))
    before = (tmp_path / "protocol.json").read_bytes()
    with pytest.raises(ValueError, match=r"alpha=1\.6 in it, 2\.0 now"):
        RunFolder.create(tmp_path, dataclasses.replace(folder.protocol, alpha=2.0))
    assert (tmp_path / "protocol.json").read_bytes() == before
    for change in ({"realizations": 9}, {"methods": ("hr",)}):  # these may change
        RunFolder.create(tmp_path, dataclasses.replace(folder.protocol, **change))
        assert RunFolder(tmp_path).protocol == dataclasses.replace(folder.protocol, **change)
    RunFolder.create(tmp_path, folder.protocol)
    assert (tmp_path / "protocol.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match="not a run folder"):
            RunFolder.create(path, from_preset("quick"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="not a run folder"):
        RunFolder(tmp_path)


def deeply_nested(_):
    return "[" * 100_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: "",
        lambda values: "[1",
        lambda values: "3",
        deeply_nested,
        lambda values: json.dumps({"method": "ce"}),
        lambda values: json.dumps(values | {"accuracies": None}),
        lambda values: json.dumps(values | {"accuracies": [{"split": "test"}]}),
        lambda values: json.dumps(values | {"history": {"loss": [1, 2], "accuracy": [1]}}),
        lambda values: json.dumps(values | {"history": []}),
        lambda values: json.dumps(values | {"confusions": [5]}),
        lambda values: json.dumps(values | {"seed": "0"}),
        lambda values: json.dumps(values | {"method": "ce"}),
        lambda values: json.dumps(values | {"realization": 1}),
    ],
)
def test_a_damaged_result_is_named(tmp_path, damage):
    result = make_result("hr", 0, make_accuracies(0.7))
    folder = make_folder(tmp_path, [result])
    folder.result_path("hr", 0).write_text(damage(json.loads(result.to_json())))
    with pytest.raises(ValueError, match=r"realization-0-hr\.json is not .*Delete it"):
        folder.accuracies()


def test_a_damaged_protocol_is_named(tmp_path):
    (tmp_path / "protocol.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"protocol\.json is damaged"):
        RunFolder(tmp_path)


def test_tables_are_tidy(tmp_path):
    history = {"val_accuracy": [0.5, 0.6], "val_fgsm_ce_0.1_accuracy": [None, 0.2]}
    confusion = Confusion("none", "none", 0.0, ((0.9, None), (0.1, None)))
    folder = make_folder(
        tmp_path,
        [
            make_result(method, k, make_accuracies(0.1 * k), history, [confusion], [TERMS])
            for method in ("ce", "hr")
            for k in (0, 1)
        ],
    )
    accuracies = folder.accuracies()
    fields = [field.name for field in dataclasses.fields(Accuracy)]
    assert list(accuracies) == ["dataset", "method", "realization", *fields]
    assert len(accuracies) == 4 * 9
    means = accuracies.groupby(["method", "attack"])["accuracy"].mean()
    assert means["hr", "none"] == pytest.approx(0.15)
    histories = folder.histories()
    assert len(histories) == 4 * 2 * 2
    assert math.isnan(histories["value"].iloc[2])
    assert sorted(histories["epoch"].unique()) == [1, 2]
    confusions = folder.confusions()
    assert len(confusions) == 4 * 4
    assert confusions["probability"].isna().sum() == 4 * 2
    terms = folder.error_terms()
    assert len(terms) == 4 * (4 + 1 + 1)
    assert terms[terms["quantity"] == "divergence"]["alpha"].unique() == [1.6]


def test_methods_and_realizations_that_are_not_asked_for_are_left_out(tmp_path):
    results = [make_result(method, k) for method in ("ce", "hr") for k in (0, 1)]
    folder = make_folder(tmp_path, results)
    smaller = dataclasses.replace(folder.protocol, realizations=1, methods=("hr",))
    assert RunFolder.create(tmp_path, smaller).results() == [results[2]]
