"""An audit of any saved classifier: what is left of its accuracy, and whether to believe it."""

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np
import numpy.typing as npt
from scipy import stats

from hr_keras import datasets, diagnostics, evaluation
from hr_keras._core.checks import Bounds, Norm
from hr_keras._core.files import Path, holds_anything, write_atomically
from hr_keras._core.logits import check_backend, classifier_output
from hr_keras._core.runtime import collect_versions
from hr_keras.attacks import Attack, Task, worst_case
from hr_keras.audit.load import find_sha256, give_shape, load_model
from hr_keras.audit.result import (
    WORST_CASE,
    AuditedAttack,
    AuditedModel,
    AuditProtocol,
    AuditResult,
    AuditRow,
    EncodedImage,
    Picture,
    read_audit,
)

__all__ = ["ATTACKS", "audit", "audit_file"]

ATTACKS = ("noise", "fgsm", "pgd", "fast")
PICTURES = 8


def audit(
    model: keras.Model,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    epsilon: float,
    norm: Norm = "linf",
    attacks: str | Sequence[str] = ATTACKS,
    seed: int = 0,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    others: Iterable[keras.Model] = (),
) -> AuditResult:
    """Audits a classifier: clean and robust accuracy, example by example, and findings.

    The cost is that of `diagnostics.check`, which runs first, and for each of the four ε of the
    security curve (ε/2, ε, 1.5 ε, 2 ε) that of the attacks, see `evaluation.robust_accuracy`.

    Args:
        model: A Keras classifier.
        images: Images inside `bounds`, floating point, shape `(n, ...)`, n ≥ 2.
        labels: Class numbers `(n,)` or `(n, 1)`.
        epsilon: Size of the perturbation, in the units of the images; greater than 0.
        norm: Norm of the perturbation, `"linf"` (default) or `"l2"`.
        attacks: Names from `attacks.ATTACK_NAMES`, at least one, none twice. Default: noise,
            fgsm, pgd and fast.
        seed: Seed of the attacks, an integer ≥ 0. Default 0.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.
        others: Keras classifiers of the same images and classes, whose adversarial examples
            `diagnostics.check` tries on `model`. Default: none.

    Returns:
        An `AuditResult`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        ```python
        from hr_keras import audit

        result = audit.audit(model, x_test, y_test, epsilon=0.1, attacks="fgsm")
        print(result.find_row("worst_case").accuracy)
        print([finding.meaning for finding in result.findings if finding.verdict == "fault"])
        ```
    """
    check_backend()
    images, others, attacks = np.asarray(images), tuple(others), _as_tuple(attacks)
    names = tuple(str(getattr(other, "name", other)) for other in others)
    protocol = AuditProtocol(epsilon, norm, attacks, len(images), seed, bounds, batch_size, names)
    return _audit(model, images, labels, protocol, others)


def audit_file(
    path: Path,
    data: Path,
    epsilon: float,
    norm: Norm = "linf",
    attacks: str | Sequence[str] = ATTACKS,
    examples: int = 200,
    seed: int = 0,
    bounds: Bounds = (0.0, 1.0),
    data_dir: Path | None = None,
    others: Iterable[Path] = (),
    folder: Path | None = None,
) -> tuple[pathlib.Path, AuditResult]:
    """Audits a saved model on the first test images of a data set, and saves `audit.json`.

    If the folder holds the result of the same audit, it is read and nothing is computed.

    Args:
        path: A `.keras` or `.h5` file, loaded in Keras' safe mode. Images are reshaped where it
            takes the same pixels without a channel axis, or flat.
        data: Name or path of a data set, see `datasets.load`.
        epsilon: As for `audit`.
        norm: As for `audit`.
        attacks: As for `audit`.
        examples: Number of test images, or all of them if there are fewer. Default 200.
        seed: As for `audit`.
        bounds: Lowest and highest pixel value, or those of each channel, that the model was
            made for, such as `(0, 255)`:
            images are scaled to it, and ε has this unit. Default `(0.0, 1.0)`.
        data_dir: Folder of the data sets, see `datasets.load`.
        others: Files of classifiers of the same images and classes, see `audit`.
        folder: Folder of the result. Default: one under `runs`, named after model, data and ε.

    Returns:
        The folder and the `AuditResult`.

    Raises:
        ValueError: If an argument is not as described, the model cannot be loaded safely or does
            not fit the data set, or the folder holds something else.

    Example:
        ```python
        from hr_keras import audit

        model.save("model.keras")
        folder, result = audit.audit_file(
            "model.keras", "mnist10k", epsilon=0.1, attacks="noise", examples=10
        )
        ```
    """
    check_backend()
    protocol = AuditProtocol(
        epsilon, norm, _as_tuple(attacks), examples, seed, bounds, split="test"
    )
    path, name, others = pathlib.Path(path), datasets.check_name(data), tuple(others)
    model, *other_models = map(load_model, (path, *others))
    data_stem = pathlib.PurePath(name).stem
    folder = pathlib.Path(folder or f"runs/audit_{path.stem}_{data_stem}_{epsilon:g}")
    dataset = datasets.load(name, data_dir=data_dir)
    stored = dataset.test.images.shape[1:]
    for each in (model, *other_models):
        shaped = give_shape(each, dataset, name)
        if each is model:
            dataset = shaped
        elif shaped is not dataset:
            raise ValueError(f"`others` must take images of the same shape. Received: {each.name}")
    images, labels = (array[:examples] for array in dataset.test)
    low, high = (np.asarray(bound, images.dtype) for bound in protocol.bounds)
    images = (low + images * (high - low)).clip(low, high)
    protocol = dataclasses.replace(
        protocol,
        examples=len(images),
        stored_shape=None if images.shape[1:] == stored else stored,
        others=tuple(map(find_sha256, others)),
        data=pathlib.PurePath(name).name,
        data_sha256=find_sha256(name) if name.endswith(".npz") else None,
    )
    sha256 = find_sha256(path)
    result = _read_same(folder, protocol, sha256)
    if result is None:
        result = _audit(model, images, labels, protocol, tuple(other_models))
        facts = dataclasses.replace(result.model, file=path.name, sha256=sha256)
        result = dataclasses.replace(result, model=facts)
        write_atomically(folder / "audit.json", result.to_json())
    return folder, result


def _as_tuple(attacks: str | Sequence[str]) -> tuple[str, ...]:
    return (attacks,) if isinstance(attacks, str) else tuple(attacks)


def _read_same(folder: pathlib.Path, protocol: AuditProtocol, sha256: str) -> AuditResult | None:
    """The result of the same audit in a folder, or `None` if the folder is empty or missing."""
    result = read_audit(folder)
    if result is None:
        if folder.is_file() or (folder.is_dir() and holds_anything(folder)):
            raise ValueError(
                f"{folder} holds no audit.json and is not empty. Choose another output folder; "
                "nothing in it was changed."
            )
        return None
    before, now = (
        dataclasses.asdict(one) | {"the model's sha256": digest}
        for one, digest in ((result.protocol, result.model.sha256), (protocol, sha256))
    )
    if differ := [name for name in now if before[name] != now[name]]:
        raise ValueError(
            f"{folder} holds an audit that differs in {', '.join(differ)}. Choose another output "
            "folder; nothing in it was changed."
        )
    return result


def _audit(
    model: keras.Model,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    protocol: AuditProtocol,
    others: tuple[keras.Model, ...],
) -> AuditResult:
    started = time.perf_counter()
    batch_size = protocol.batch_size
    task = Task.of(model, images, labels, protocol.bounds, batch_size).predict()
    if task.labels.ndim == 2:
        raise ValueError(f"`labels` must be class numbers (n,). Received: {np.shape(labels)}")
    findings = diagnostics.check(
        model,
        task.images,
        task.labels,
        protocol.epsilon,
        protocol.norm,
        protocol.bounds,
        batch_size,
        protocol.seed,
        others,
    )
    robust = {
        epsilon: evaluation.robust_accuracy(
            model, task.images, task.labels, _make_attacks(protocol, epsilon), batch_size
        )
        for epsilon in protocol.epsilons
    }
    at_epsilon, logits = robust[protocol.epsilon], np.asarray(task.logits)
    output = classifier_output(model)
    return AuditResult(
        protocol=protocol,
        model=AuditedModel(model.name, output.kind, output.num_classes, int(model.count_params())),
        attacks=tuple(
            AuditedAttack(one.name, worst_case.describe_attack(one.name), one.to_config())
            for one in _make_attacks(protocol, protocol.epsilon)
        ),
        rows=(
            _make_row("none", 0.0, at_epsilon.correct),
            *(
                _make_row(name, epsilon, correct)
                for epsilon, one in robust.items()
                for name, correct in {**one.withstood, WORST_CASE: one.robust}.items()
            ),
        ),
        labels=tuple(task.labels.tolist()),
        predicted=tuple(logits.argmax(axis=1).tolist()),
        pictures=_make_pictures(task, protocol, at_epsilon.correct & ~at_epsilon.robust),
        findings=tuple(findings),
        versions=collect_versions(),
        seconds=round(time.perf_counter() - started, 1),
    )


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


def _make_pictures(task: Task, protocol: AuditProtocol, fooled: np.ndarray) -> tuple[Picture, ...]:
    """The first fooled examples, of as many classes as possible, with what fools them."""
    rows = np.flatnonzero(fooled)
    _, firsts = np.unique(task.labels[rows], return_index=True)
    order = [*np.sort(firsts), *np.setdiff1d(np.arange(len(rows)), firsts)]
    left = np.sort(rows[np.array(order[:PICTURES], int)])
    pictures: list[Picture] = []
    for attack in _make_attacks(protocol, protocol.epsilon):
        if len(left) == 0:
            break
        outcome = attack.attempt(task.select(left))
        done = np.asarray(outcome.fooled)
        if done.any():
            pictures += _draw(task.select(left[done]), outcome.images[done], attack.name)
        left = left[~done]
    return tuple(sorted(pictures, key=lambda picture: picture.example))


def _draw(task: Task, adversarial: np.ndarray, attack: str) -> Iterator[Picture]:
    attacked = task.replace(images=adversarial, logits=None).predict()
    for k, example in enumerate(task.indices):
        yield Picture(
            int(example),
            attack,
            int(task.labels[k]),
            *_decide(np.asarray(task.logits)[k]),
            *_decide(np.asarray(attacked.logits)[k]),
            EncodedImage.encode(task.images[k]),
            EncodedImage.encode(adversarial[k]),
        )


def _decide(logits: np.ndarray) -> tuple[int, float | None]:
    """The decision and its probability, `None` if that is not finite."""
    exponents = np.exp(logits.astype("float64") - logits.max())
    probability = float(exponents.max() / exponents.sum())
    return int(logits.argmax()), probability if np.isfinite(probability) else None
