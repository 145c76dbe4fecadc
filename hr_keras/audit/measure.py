"""What an audit measures: findings, accuracies example by example, and pictures."""

import dataclasses
import functools
import time
from typing import Any

import keras
import numpy as np
from scipy import stats

from hr_keras import diagnostics, evaluation
from hr_keras._core.decode import decode
from hr_keras._core.examples import Chunk, Examples
from hr_keras._core.files import Path
from hr_keras._core.finding import Finding
from hr_keras._core.finished import find_model_digest
from hr_keras._core.logits import classifier_output
from hr_keras._core.passes import single_pass
from hr_keras._core.runtime import collect_versions
from hr_keras.attacks import Attack, Task, worst_case
from hr_keras.audit.pictures import Candidates, make_pictures
from hr_keras.audit.result import (
    WORST_CASE,
    AuditedAttack,
    AuditedModel,
    AuditProtocol,
    AuditResult,
    AuditRow,
)
from hr_keras.evaluation._chunks import evaluate, open_finished
from hr_keras.evaluation._spread import RandomState, find_strategy, run_beside_workers


def measure(
    model: keras.Model,
    examples: Examples,
    protocol: AuditProtocol,
    others: tuple[keras.Model, ...],
    progress: bool,
    resume: Path | None,
    strategy: Any = None,
) -> AuditResult:
    """Checks and attacks a classifier, and puts together what was found.

    Args:
        model: A Keras classifier.
        examples: Images and labels.
        protocol: What to do; its number of examples is replaced by that found.
        others: Classifiers to transfer adversarial examples from.
        progress: Whether to show a progress bar.
        resume: File of finished examples, or `None`.
        strategy: Strategy over whose devices examples are spread. Default: that of the model.

    Returns:
        The result.

    Raises:
        ValueError: If examples or file are not as described.
    """
    started = time.perf_counter()
    batch_size, bounds = protocol.batch_size, protocol.bounds
    first = examples.read_first(batch_size)
    task = Task.of(model, *first, bounds, batch_size)
    _find_classes(task.labels, examples)
    settings = dataclasses.asdict(protocol) | {"others": [find_model_digest(one) for one in others]}
    del settings["examples"]  # of each chunk the file knows what is in it
    finished = open_finished(resume, model, settings, strategy)

    def find() -> list[dict[str, Any]]:
        seed, epsilon, norm = protocol.seed, protocol.epsilon, protocol.norm
        random_state = RandomState(model)
        found = diagnostics.check(model, *first, epsilon, norm, bounds, batch_size, seed, others)
        random_state.restore()  # as where findings are read from the file
        return list(map(dataclasses.asdict, found))

    def attack(chunk: Chunk) -> dict[str, np.ndarray]:
        index = chunk.first_index
        task = Task.of(model, chunk.images, chunk.labels, bounds, batch_size, index).predict()
        labels = _find_classes(task.labels, examples)
        found = [
            evaluation.robust_accuracy(
                model, task.inputs, labels, _make_attacks(protocol, epsilon), batch_size, index
            )
            for epsilon in protocol.epsilons
        ]
        columns = [np.stack([one.correct, *one.withstood.values()], axis=1) for one in found]
        predicted = np.asarray(task.logits).argmax(axis=1)
        return {"labels": labels, "predicted": predicted, "correct": np.stack(columns, axis=1)}

    candidates, at_epsilon = Candidates(), protocol.epsilons.index(protocol.epsilon)

    def visit(chunk: Chunk, results: dict[str, np.ndarray]) -> None:
        correct = results["correct"][:, at_epsilon]
        candidates.add(chunk, results["labels"], correct[:, 0] & ~correct.all(axis=1))

    check = functools.partial(run_beside_workers, find, find_strategy(model, strategy))
    findings = check() if finished is None else finished.note("findings", check)
    results = evaluate(attack, model, examples, batch_size, progress, finished, visit, strategy)
    by_epsilon = np.moveaxis(results["correct"], 0, -1)  # (ε, 1 + attacks, n)
    output = classifier_output(single_pass(model)[0])
    known = output.kind != "probabilities"
    robust = {
        epsilon: evaluation.RobustAccuracy(
            correct[0], dict(zip(protocol.attacks, correct[1:], strict=True)), known
        )
        for epsilon, correct in zip(protocol.epsilons, by_epsilon, strict=True)
    }
    attacks = _make_attacks(protocol, protocol.epsilon)
    return AuditResult(
        protocol=dataclasses.replace(protocol, examples=len(results["labels"])),
        model=AuditedModel(model.name, output.kind, output.num_classes, int(model.count_params())),
        attacks=tuple(
            AuditedAttack(one.name, worst_case.describe_attack(one.name), one.to_config())
            for one in attacks
        ),
        rows=(
            _make_row("none", 0.0, robust[protocol.epsilon].correct),
            *(
                _make_row(name, epsilon, correct)
                for epsilon, one in robust.items()
                for name, correct in {**one.withstood, WORST_CASE: one.robust}.items()
            ),
        ),
        labels=tuple(results["labels"].tolist()),
        predicted=tuple(results["predicted"].tolist()),
        pictures=make_pictures(candidates.make_task(model, batch_size), attacks),
        findings=decode(tuple[Finding, ...], findings, "findings"),
        versions=collect_versions(),
        seconds=round(time.perf_counter() - started, 1),
    )


def _find_classes(labels: np.ndarray, examples: Examples) -> np.ndarray:
    """Returns class numbers `(n,)`; those of a dataset may be one-hot."""
    if labels.ndim == 1:
        return labels
    if not (examples.is_dataset and (labels.max(axis=1) == 1).all()):
        raise ValueError(f"`labels` must be class numbers (n,). Received: {labels.shape}")
    return labels.argmax(axis=1).astype("int32")


def _make_attacks(protocol: AuditProtocol, epsilon: float) -> list[Attack]:
    shared = {name: getattr(protocol, name) for name in ("norm", "seed", "bounds", "batch_size")}
    return [
        dataclasses.replace(worst_case.make_attack(name, epsilon, **shared), name=name)
        for name in protocol.attacks
    ]


def _make_row(attack: str, epsilon: float, correct: np.ndarray) -> AuditRow:
    """The accuracy of bool `(n,)` with its 95 % interval (Wilson 1927), which stays in [0, 1]."""
    found = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    numbers = tuple(np.flatnonzero(correct).tolist())
    low, high = float(found.low), float(found.high)
    return AuditRow(attack, epsilon, float(correct.mean()), low, high, numbers)
