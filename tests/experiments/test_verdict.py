"""What the first screen of a page says about the published numbers."""

import dataclasses

import pandas as pd
import pytest
from saved_results import make_accuracies, make_folder, make_result

from hr_keras.experiments.result import Accuracy
from hr_keras.experiments.results import verdict


def make(path, published, stronger=()):
    accuracies = [
        dataclasses.replace(one, accuracy=published) if one.through == "probabilities" else one
        for one in make_accuracies(0.5)
    ]
    results = [make_result(method, 0, [*accuracies, *stronger]) for method in ("hr", "ce")]
    return verdict.rows(make_folder(path, results))


def test_a_row_for_each_size_and_method_in_the_protocols_order(tmp_path):
    found = make(tmp_path, published=0.9)
    assert list(zip(found["epsilon"], found["method"], strict=True)) == [
        (0.1, "hr"), (0.1, "ce"), (0.25, "hr"), (0.25, "ce"),
    ]  # fmt: skip
    assert set(found["published"]) == {0.9}
    assert set(found["exact"]) == {0.5}
    assert found["strongest"].isna().all()


def test_the_lowest_of_the_stronger_attacks_counts(tmp_path):
    stronger = [
        Accuracy("test", "none", "none", 0.0, 10, 0.6),
        Accuracy("test", "pgd", "logits", 0.25, 10, 0.3),
        Accuracy("test", "standard", "logits", 0.25, 10, 0.2),
    ]
    found = make(tmp_path, 0.5, stronger).set_index(["epsilon", "method"])
    assert found.loc[(0.25, "hr"), ["strongest", "strongest_attack"]].tolist() == [0.2, "standard"]
    assert pd.isna(found.loc[(0.1, "hr"), "strongest"])


@pytest.mark.parametrize(
    ("published", "present", "absent"),
    [
        (0.9, "the published accuracy of .900 at ε = 0.25 is not robustness", "agree"),
        (0.51, "FGSM as published and exact agree at ε = 0.25**: HR .500, CE .500", "not robust"),
    ],
)
def test_the_published_number_is_called_false_where_it_is(published, present, absent, tmp_path):
    text = verdict.describe(make(tmp_path, published))
    assert present in text
    assert absent not in text
