import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import pytest

from hr_keras import datasets
from hr_keras.experiments.methods import METHODS, check_methods, get_method
from hr_keras.experiments.protocol import PRESETS, Protocol, change_protocol, from_preset
from hr_keras.experiments.results.paper_numbers import describe_changes
from hr_keras.experiments.results.tables import describe_protocol
from hr_keras.losses import HRLoss

ROOT = pathlib.Path(__file__).parents[2]


def test_the_presets_are_what_the_paper_says():
    paper = PRESETS["paper-mnist"]
    assert (paper.dataset, paper.model, paper.optimizer) == ("mnist", "mnist_cnn", "sgd")
    assert (paper.learning_rate, paper.epochs, paper.batch_size) == (0.001, 1000, 100)
    for name, dataset in (("paper-cifar10", "cifar10"), ("paper-svhn", "svhn_cropped")):
        preset = PRESETS[name]
        assert (preset.dataset, preset.model) == (dataset, "resnet8")
        assert (preset.epochs, preset.batch_size) == (200, 128)
        assert preset.mean_image == (dataset == "cifar10")
    for name, preset in PRESETS.items():
        assert preset.preset == name
        assert (preset.alpha, preset.epsilons) == (1.6, (0.0, 0.1, 0.25))
        assert preset.methods == ("ce", "hr")
        assert Protocol.from_json(preset.to_json()) == preset
        if name != "quick":
            assert (preset.attack_every, preset.realizations) == (10, 5)


@pytest.mark.parametrize(
    "damage",
    [
        {"preset": "no such"},
        {"later": 1},
        {"seed": 1.5},
        {"seed": True},
        {"dataset": 5},
        {"epsilons": 0.1},
        {"label_noise": 1},
        {"schedule": [[1]]},
        {"methods": "ce"},
        {"alpha": None},
        {"alpha": "1.6"},
    ],
)
def test_a_damaged_protocol_is_refused(damage):
    values = json.loads(PRESETS["quick"].to_json()) | damage
    with pytest.raises(ValueError, match="not a protocol of this version"):
        Protocol.from_json(json.dumps(values))


def test_what_was_saved_before_there_was_label_noise_stays_as_it_is():
    saved = (ROOT / "results" / "mnist10k" / "quick" / "protocol.json").read_text()
    assert "label_noise" not in saved
    assert Protocol.from_json(saved).to_json() == saved
    noisy = dataclasses.replace(Protocol.from_json(saved), label_noise=0.2)
    assert Protocol.from_json(noisy.to_json()) == noisy
    assert noisy.differences(Protocol.from_json(saved)) == ["label_noise"]


def test_what_is_no_protocol_is_refused():
    for text in ("{}", "[]", "3", '"text"', "", '{"preset": "quick"}'):
        with pytest.raises(ValueError, match=r"not a protocol|Expecting value"):
            Protocol.from_json(text)


def test_run_folders_are_named_by_what_differs():
    assert from_preset("quick").name == "mnist10k_quick"
    assert from_preset("quick", realizations=9, methods=("hr",)).name == "mnist10k_quick"
    assert from_preset("quick", label_noise=0.4).name == "mnist10k_quick_label_noise-0.4"
    assert (
        from_preset("paper-mnist", alpha=2.0, seed=3).name == "mnist_paper-mnist_alpha-2.0_seed-3"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"realizations": 0}, "realizations"),
        ({"seed": -1}, "seed"),
        ({"epsilons": (0.1, 0.1)}, "epsilons"),
        ({"epsilons": (-0.1,)}, "epsilons"),
        ({"train_epsilon": -0.1}, "epsilon"),
        ({"train_steps": 0}, "train_steps"),
        ({"label_noise": 1.0}, r"`label_noise` must be in \[0, 1\). Received: 1.0"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"label_noise": math.nan}, "label_noise"),
        ({"strategy": "miror"}, "Did you mean 'mirrored'"),
        ({"model": "vgg"}, "vgg"),
        ({"optimizer": "lion"}, "lion"),
        ({"schedule": ((5, 0.1), (5, 0.1))}, "rising epochs"),
        ({"schedule": ((0, 0.1),)}, "rising epochs"),
        ({"schedule": ((5, 0.0),)}, "positive factors"),
        ({"schedule": (5, 0.1)}, "pairs"),
        ({"evaluated_on": "train"}, "train"),
        ({"dataset": "cifar"}, "Did you mean 'cifar10'"),
        ({"methods": ("ce", "hrr")}, "Did you mean 'hr'"),
        ({"methods": ()}, "at least one"),
        ({"methods": ("ce", "ce")}, "none twice"),
        ({"methods": ("ce", "ce_step")}, "--learning-rate-of ce_step=RATE` or `--learning-rates-f"),
        ({"learning_rates": 5}, r"pairs \(method, learning rate\). Received: 5"),
        ({"learning_rates": ("hr", 0.1)}, r"pairs .* Received: \('hr', 0.1\)"),
        ({"learning_rates": {"hr": "fast"}}, "`learning_rate` must be > 0. Received: 'fast'"),
        ({"data_label": " "}, "data_label"),
        ({"data_label": "two\nlines"}, "data_label"),
        ({"data_label": "long" * 21}, "at most 80"),
    ],
)
def test_bad_protocols_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_preset("quick", **changes)


@pytest.mark.parametrize(
    ("changes", "paper", "title"),
    [
        ({"dataset": "mnist10k"}, "MNIST", "MNIST (10,000 digits)"),
        ({"dataset": "svhn_cropped"}, "SVHN", "SVHN"),
        ({"dataset": "fashion_mnist"}, None, "Fashion-MNIST"),
        ({"dataset": "cifar10", "data_label": "my photographs"}, None, "my photographs"),
        ({"data_label": "CIFAR-10"}, "CIFAR-10", "CIFAR-10"),
        ({"data_label": "CIFAR-10, JPEG-recompressed"}, "CIFAR-10", "CIFAR-10, JPEG-recompressed"),
        ({"data_label": "CIFAR-100"}, None, "CIFAR-100"),
        ({"data_label": "Fashion-MNIST"}, None, "Fashion-MNIST"),
    ],
)
def test_the_label_of_the_data_says_what_they_are_compared_with(changes, paper, title):
    protocol = from_preset("quick", **changes)
    assert (protocol.paper_dataset, protocol.data_title) == (paper, title)
    assert protocol.data_name == changes.get("data_label", changes.get("dataset"))
    assert Protocol.from_json(protocol.to_json()) == protocol


def test_a_file_that_is_recognized_gets_the_papers_name(tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    path.write_bytes(b"one")
    monkeypatch.setattr(datasets, "recognize", lambda name: "MNIST")
    protocol = from_preset("quick", dataset=path)
    assert protocol.paper_dataset == "MNIST"
    assert from_preset("quick", dataset=path, data_label="mine").data_name == "mine"
    monkeypatch.setattr(datasets, "recognize", lambda name: None)
    labelled = dataclasses.replace(protocol, data_label="MNIST, rotated")
    assert change_protocol(labelled, dataset=path) == labelled
    path.write_bytes(b"another")
    assert change_protocol(labelled, dataset=path).data_label is None
    assert change_protocol(labelled, dataset="mnist").data_name == "mnist"


def test_learning_rates_may_be_a_mapping():
    rates = {"ce_step": 0.1, "hr": 0.5}
    protocol = from_preset("quick", methods=("ce", "ce_step"), learning_rates=rates)
    assert protocol.learning_rates == Protocol("quick", learning_rates=rates).learning_rates
    assert dict(protocol.learning_rates) == rates


def test_what_differs_from_the_paper_is_said():
    rates = {"hr": 0.5, "ce": 0.001, "gce": 3.0}
    protocol = from_preset("paper-mnist", learning_rates=rates)
    assert describe_changes(protocol) == "learning rate of HR 0.5 (paper: 0.001)"
    assert "ε rises over the first 300 steps" not in describe_protocol(protocol)
    for methods, attack in (
        (("ce", "pgd_at"), "PGD of 7 steps"),
        (("fgsm_rs_hr",), "FGSM-RS of one step"),
        (("fgsm_rs", "trades"), "FGSM-RS of one step and PGD of 7 steps"),
    ):
        robust = dataclasses.replace(protocol, methods=methods)
        assert f"with {attack} (ε rises over the first 300 steps)" in describe_protocol(robust)


def test_a_protocol_is_described_without_what_it_does_not_reach():
    protocol = from_preset("paper-cifar10", epochs=81)
    assert "Adam 0.001 (×0.1 from 80), 81 epochs" in describe_protocol(protocol)
    protocol = from_preset("paper-cifar10", epochs=80)
    assert "Adam 0.001, 80 epochs" in describe_protocol(protocol)


def test_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'quick'"):
        from_preset("quik")


def test_methods_make_their_losses():
    protocol = from_preset("quick", alpha=2.5)
    assert isinstance(get_method("hr").make_loss(protocol), HRLoss)
    assert get_method("hr").make_loss(protocol).alpha == 2.5
    assert "CrossEntropy" in type(get_method("ce").make_loss(protocol)).__name__.replace(
        "Crossentropy", "CrossEntropy"
    )
    assert check_methods("hr") == ("hr",)
    assert {method.name for method in METHODS.values()} == set(METHODS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_method("hr").label = "other"


def test_saved_results_are_read_without_keras():
    code = (
        "import sys, hr_keras.experiments.run_folder;"
        "print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
