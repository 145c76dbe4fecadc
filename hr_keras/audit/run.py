"""An audit of any saved classifier: what is left of its accuracy, and whether to believe it."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from hr_keras import datasets, training
from hr_keras._core.attack_view import gather_inputs
from hr_keras._core.checks import Bounds, Norm, StrategyName, check_epsilon
from hr_keras._core.examples import KEYS, Examples, Keys, Preprocess
from hr_keras._core.files import Path, holds_anything, write_atomically
from hr_keras._core.logits import check_backend
from hr_keras.audit.load import find_sha256, give_shape, load_model
from hr_keras.audit.measure import measure
from hr_keras.audit.result import AuditProtocol, AuditResult, read_audit

__all__ = ["ATTACKS", "audit", "audit_file"]

ATTACKS = ("noise", "fgsm", "pgd", "fast")
"""Attacks of an audit, unless others are chosen."""
# Finished examples of an audit that was interrupted, in the folder of its result.
FINISHED = ".unfinished-audit.npz"


def audit(
    model: keras.Model,
    images: Any,
    labels: Any = None,
    epsilon: float | None = None,
    norm: Norm = "linf",
    attacks: str | Sequence[str] = ATTACKS,
    seed: int = 0,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    others: Iterable[keras.Model] = (),
    *,
    preprocess: Preprocess = None,
    keys: Keys = KEYS,
    progress: bool = False,
    resume: Path | None = None,
) -> AuditResult:
    """Audits a classifier: clean and robust accuracy, example by example, and findings.

    The cost is that of `diagnostics.check`, which runs first, and for each of the four ε of the
    security curve (ε/2, ε, 1.5 ε, 2 ε) that of the attacks, see `evaluation.robust_accuracy`, also
    for models of a `tf.distribute` strategy. With several workers accuracies and findings are the
    same in each; pictures are of the examples of this worker. After resuming, `seconds` counts the
    last run.

    Args:
        model: A Keras classifier.
        images: Images inside `bounds`, floating point, shape `(n, ...)`, n ≥ 2; or a batched
            `tf.data.Dataset` or `keras.utils.PyDataset` of (images, labels), of which a few
            batches are in memory. `diagnostics.check` sees the first 4·`batch_size` examples of
            a dataset: shuffle it if it is sorted by class.
        labels: Class numbers `(n,)` or `(n, 1)`; those of a dataset may be one-hot. `None` for a
            dataset.
        epsilon: Size of the perturbation, in the units of the images; greater than 0. Must be
            given.
        norm: Norm of the perturbation, `"linf"` (default) or `"l2"`.
        attacks: Names from `attacks.ATTACK_NAMES`, at least one, none twice. Default: noise,
            fgsm, pgd and fast.
        seed: Seed of the attacks, an integer ≥ 0. Default 0.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.
        others: Keras classifiers of the same images and classes, whose adversarial examples
            `diagnostics.check` tries on `model`. Default: none.
        preprocess: Function from a batch of images to a batch of images inside `bounds`.
            Default `None`.
        keys: Names of images and labels if the elements of a dataset are dicts. Default
            `("image", "label")`.
        progress: Whether to show a progress bar with the time left. Default `False`.
        resume: File of finished examples, see `evaluation.robust_accuracy`. Default `None`.

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
    others, attacks = tuple(others), _as_tuple(attacks)
    names = tuple(str(getattr(other, "name", other)) for other in others)
    protocol = AuditProtocol(
        check_epsilon(epsilon), norm, attacks, 1, seed, bounds, batch_size, names
    )
    examples = Examples.of(gather_inputs(model, images), labels, preprocess, keys)
    return measure(model, examples, protocol, others, progress, resume)


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
    progress: bool = False,
    resume: bool = True,
    strategy: StrategyName = "none",
) -> tuple[pathlib.Path, AuditResult]:
    """Audits a saved model on the first test images of a data set, and saves `audit.json`.

    If the folder holds the result of the same audit, it is read and nothing is computed. If it
    holds finished examples of an audit that was interrupted (`.unfinished-audit.npz`), the others
    are computed; the result is bit-identical but for `seconds`, which counts the last run.

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
        progress: Whether to show a progress bar with the time left. Default `False`.
        resume: Whether to use finished examples, or start again. Default `True`.
        strategy: Name of a `tf.distribute` strategy over whose devices the examples are spread,
            see `training.get_strategy`. Accuracies and findings are the same. With several
            workers every process must make this call, and the chief writes; pictures are of the
            chief's examples. Default `"none"`.

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
    devices = training.get_strategy(strategy)  # before any other use of TensorFlow
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
    exists = training.from_chief(result is not None, devices)
    if training.any_worker((result is not None) != exists, devices):
        raise ValueError(f"{folder} must be a folder that all workers share.")
    if result is None:
        finished, chief = folder / FINISHED, training.is_chief(devices)
        if not resume and chief:
            finished.unlink(missing_ok=True)
        training.from_chief(0, devices)  # it is gone
        data_set = Examples(images, labels)
        result = measure(
            model, data_set, protocol, tuple(other_models), progress, finished, devices
        )
        facts = dataclasses.replace(result.model, file=path.name, sha256=sha256)
        result = dataclasses.replace(result, model=facts)
        if chief:
            write_atomically(folder / "audit.json", result.to_json())
            finished.unlink(missing_ok=True)
        training.from_chief(0, devices)  # it is written
    return folder, result


def _as_tuple(attacks: str | Sequence[str]) -> tuple[str, ...]:
    return (attacks,) if isinstance(attacks, str) else tuple(attacks)


def _read_same(folder: pathlib.Path, protocol: AuditProtocol, sha256: str) -> AuditResult | None:
    """The result of the same audit in a folder, or `None` if the folder is empty or missing."""
    result = read_audit(folder)
    if result is None:
        if folder.is_file() or (folder.is_dir() and holds_anything(folder, FINISHED)):
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
