"""Run folders and audits with results that are written out, not measured."""

import itertools

import numpy as np

from hr_keras._core.finding import Finding
from hr_keras.audit.result import (
    AuditedAttack,
    AuditedModel,
    AuditProtocol,
    AuditResult,
    AuditRow,
    EncodedImage,
    Picture,
)
from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.result import Accuracy, Result
from hr_keras.experiments.run_folder import RunFolder

HOSTILE = "<img src=x onerror=alert(1)> [a](javascript:alert(2)) ![](//x/z) </script>"


def make_result(method, realization, accuracies=(), history=None, confusions=(), terms=()):
    return Result(
        method=method,
        realization=realization,
        seed=realization,
        history=history or {"val_accuracy": [0.5]},
        accuracies=tuple(accuracies),
        confusions=tuple(confusions),
        error_terms=tuple(terms),
        seconds=1.0,
        versions={"keras": "3.15.0"},
    )


def make_folder(path, results, **changes):
    """A run folder of these results; realizations and methods are theirs."""
    methods = tuple(dict.fromkeys(result.method for result in results))
    count = 1 + max(result.realization for result in results)
    changes = {"preset": "paper-mnist", "realizations": count, "methods": methods} | changes
    folder = RunFolder.create(path, from_preset(changes.pop("preset"), **changes))
    for result in results:
        folder.write_result(result)
    return folder


def make_accuracies(value, split="test", epsilons=(0.1, 0.25), examples=100, zero=0.25):
    """Without attack `value + 0.1`, under every FGSM attack `value`."""
    yield Accuracy(split, "none", "none", 0.0, examples, value + 0.1)
    for through in ("logits", "probabilities"):
        for attack in ("fgsm_ce", "fgsm_hr"):
            for epsilon in epsilons:
                yield Accuracy(split, attack, through, epsilon, examples, value, zero)


def make_audit(name="model", data="mnist10k"):
    protocol = AuditProtocol(0.1, "linf", ("fgsm",), 10, data=data, split="test")
    attacked = itertools.product(("fgsm", "worst_case"), protocol.epsilons)
    image = EncodedImage.encode(np.linspace(0, 1, 16).reshape(4, 4, 1))
    return AuditResult(
        protocol,
        AuditedModel(name, "softmax", 3, 42),
        (AuditedAttack("fgsm", name, {}),),
        tuple(
            AuditRow(attack, e, 0.5, 0.25, 0.75, (0, 1, 2, 3, 4))
            for attack, e in [("none", 0.0), *attacked]
        ),
        (0,) * 10,
        (0,) * 10,
        (Picture(0, "fgsm", 0, 0, 0.9, 2, None, image, image),),
        (Finding("zero_gradients", 0.5, 0.01, "fault", name, "Somebody 2020"),),
        {"keras": name},
        1.0,
    )
