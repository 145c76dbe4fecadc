"""Run folders with results that are written out, not trained."""

from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.result import Accuracy, Result
from hr_keras.experiments.run_folder import RunFolder


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
