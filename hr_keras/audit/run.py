"""An audit of any saved classifier: what is left of its accuracy, and whether to believe it.

The result is a dict that JSON can hold, and everything is in it: texts, pictures and pages are
made from `audit.json` alone.
"""

import base64
import dataclasses
import json
import pathlib
import time

import numpy as np
from scipy import stats

from hr_keras import datasets, diagnostics, evaluation
from hr_keras._core.checks import check_bounds, check_count, check_epsilon
from hr_keras._core.files import holds_anything, write_atomically
from hr_keras._core.logits import check_backend, classifier_output
from hr_keras._core.runtime import collect_versions
from hr_keras.attacks import Task, worst_case
from hr_keras.attacks._perturbation import get as ball
from hr_keras.audit.load import check_fit, load_model, sha256

FORMAT = 1
_KEYS = {
    "protocol", "model", "attacks", "clean", "curve", "examples", "pictures", "findings",
    "versions", "seconds",
}  # fmt: skip
ATTACKS = ("noise", "fgsm", "pgd", "fast")
WORST_CASE = "worst_case"
# The security curve's ε, of that asked for.
CURVE = (0.5, 1.0, 1.5, 2.0)
PICTURES = 8


def audit(
    model,
    images,
    labels,
    epsilon,
    norm="linf",
    attacks=ATTACKS,
    seed=0,
    bounds=(0.0, 1.0),
    batch_size=256,
    others=(),
):
    """Clean and robust accuracy, example by example, pictures, and findings.

    Costs for each of the four ε of the curve what the attacks cost, see `evaluation
    .robust_accuracy`, and `diagnostics.check` once.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` floating point, inside `bounds`; at least two.
        labels: class numbers `(n,)` or `(n, 1)`.
        epsilon: size of the perturbation, in the units of the images; greater than 0.
        norm: what ε measures: `"linf"` or `"l2"`.
        attacks: names of `attacks.named.NAMES`, at least one, none twice.
        seed: integer ≥ 0, of the attacks.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.
        others: Keras classifiers of the same images and classes, from which `diagnostics.check`
            carries adversarial examples over.

    Returns:
        A dict:

        - `protocol`: the arguments, `examples`, and `epsilons` of the curve;
        - `model`: `name`, `output` (see `logits.ClassifierOutput`), `classes`, `parameters`;
        - `attacks`: `name, description` of each, and its `settings` at ε, of `to_config`;
        - `clean`: `accuracy, low, high`, the last two its 95 % interval (Wilson's);
        - `curve`: `attack, epsilon, accuracy, low, high`, for each attack and `worst_case`,
          and each ε; at ε = 0 that is the clean accuracy;
        - `examples`: `label`, `predicted` `(n,)`, and `withstood`: a list of `attack,
          epsilon, examples`, the numbers of those that are classified correctly still;
        - `pictures`: of up to 8 examples that are fooled at ε: `example, attack, label,
          predicted, predicted_probability, adversarial, adversarial_probability`, and
          `image` and `adversarial_image` as `shape, dtype, base64` (little endian);
        - `findings`: those of `diagnostics.check`;
        - `versions`, `seconds`, `format`.

    Raises:
        ValueError: if an argument is not as described.

    Example:
        >>> result = audit.audit(model, x_test[:200], y_test[:200], epsilon=0.1)
        >>> [finding["meaning"] for finding in result["findings"]]
    """
    started = time.perf_counter()
    check_backend()
    protocol = _protocol(len(images), epsilon, norm, attacks, seed, bounds, batch_size)
    images, labels = np.asarray(images), np.asarray(labels)
    task = Task.of(model, images, labels, protocol["bounds"], batch_size).predict()
    if task.labels.ndim == 2:
        raise ValueError(f"`labels` must be class numbers (n,). Received: {labels.shape}")
    robust = {
        value: evaluation.robust_accuracy(
            model, task.images, task.labels, _attacks(protocol, value), batch_size
        )
        for value in protocol["epsilons"]
    }
    findings = diagnostics.check(
        model,
        task.images,
        task.labels,
        protocol["epsilon"],
        protocol["norm"],
        protocol["bounds"],
        batch_size,
        seed,
        others,
    )
    found = robust[protocol["epsilon"]]
    return {
        "format": FORMAT,
        "protocol": {
            **protocol,
            "bounds": list(protocol["bounds"]),
            "others": [other.name for other in others],
        },
        "model": _model(model),
        "attacks": [
            {
                "name": attack.name,
                "description": worst_case.describe_attack(attack.name),
                "settings": attack.to_config(),
            }
            for attack in _attacks(protocol, protocol["epsilon"])
        ],
        "clean": _accuracy(found.correct),
        "curve": [row for value, each in robust.items() for row in _rows(each, value)],
        "examples": _examples(task, robust),
        "pictures": _pictures(task, protocol, np.flatnonzero(found.correct & ~found.robust)),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "versions": collect_versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def audit_file(path, data, epsilon, norm="linf", attacks=ATTACKS, examples=200, seed=0,
               data_dir=None, others=(), folder=None):  # fmt: skip
    """`audit` of a saved model on the first test images of a data set, kept as `audit.json`.

    Where the folder holds the result of the same audit, it is read and nothing is computed.

    Args:
        path: of a `.keras` file, loaded in Keras' safe mode.
        data: name or path of a data set, see `datasets.load`.
        epsilon, norm, attacks, seed: as for `audit`.
        examples: how many test images, or all of them where there are fewer.
        data_dir: folder of the data sets, see `datasets.load`.
        others: paths of `.keras` files, of classifiers of the same images and classes.
        folder: of the result; `None`: one under `runs`, named after model, data and ε.

    Returns:
        The folder, and the dict of `audit`; its `protocol` also has `data`, `data_sha256` (of
        a file) and `split`, and as `others` the sha256 of their files; its `model` also `file`
        and `sha256`.

    Raises:
        ValueError: if an argument is not as described, for a model that cannot be loaded
            safely, for one whose images or classes are not those of the data set, and for a
            folder that holds something else.
    """
    check_backend()
    examples = check_count("examples", examples)
    protocol = _protocol(examples, epsilon, norm, attacks, seed, (0.0, 1.0), 256)
    data = datasets.check_name(data)
    model, others = load_model(path), {other: load_model(other) for other in others}
    source = {"file": pathlib.Path(path).name, "sha256": sha256(path)}
    where = {
        "data": pathlib.PurePath(data).name,
        "data_sha256": sha256(data) if data.endswith(".npz") else None,
        "split": "test",
        "others": [sha256(other) for other in others],
    }
    if folder is None:
        stem = f"audit_{pathlib.Path(path).stem}_{pathlib.PurePath(data).stem}_{epsilon:g}"
        folder = pathlib.Path("runs") / stem
    folder = pathlib.Path(folder)
    dataset = datasets.load(data, data_dir=data_dir)
    for each in (model, *others.values()):
        check_fit(each, dataset, data)
    images, labels = (array[:examples] for array in dataset.test)
    wanted = {**protocol, "bounds": [0.0, 1.0], "examples": len(images), **where}
    if (result := _there(folder, wanted, source)) is None:
        result = audit(
            model, images, labels, epsilon, norm, attacks, seed, others=tuple(others.values())
        )
        result["protocol"], result["model"] = wanted, {**result["model"], **source}
        content = json.dumps(result, indent=1, allow_nan=False) + "\n"
        write_atomically(folder / "audit.json", content)
    return folder, result


def _there(folder, protocol, source):
    """The result of the same audit in a folder, or `None` where the folder is empty or missing."""
    result = read_audit(folder)
    if result is None:
        if folder.is_file() or (folder.is_dir() and holds_anything(folder)):
            raise ValueError(
                f"{folder} holds no audit.json and is not empty. Choose another output folder; "
                "nothing there was changed."
            )
        return None
    there, now = ({**one, "sha256": of["sha256"]} for one, of in (
        (result["protocol"], result["model"]), (protocol, source)
    ))  # fmt: skip
    differ = [name for name in now if there.get(name) != now[name]]
    if differ:
        raise ValueError(
            f"{folder} holds an audit that differs in {', '.join(differ)}. Choose another output "
            "folder; nothing there was changed."
        )
    return result


def read_audit(folder):
    """The result in a folder, or `None` where there is none.

    Raises:
        ValueError: for a file of another version, or a damaged one.
    """
    path = pathlib.Path(folder) / "audit.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_bytes())
        if result["format"] != FORMAT:
            raise ValueError(f"format {result['format']!r}")
        if missing := sorted(_KEYS - result.keys()):
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a result of this version ({error}). Delete it to do it again."
        ) from error
    return result


def _protocol(examples, epsilon, norm, attacks, seed, bounds, batch_size):
    epsilon = check_epsilon(epsilon)
    if epsilon == 0:
        raise ValueError("`epsilon` must be greater than 0. Received: 0")
    attacks = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    if not attacks or len(set(attacks)) < len(attacks):
        raise ValueError(f"`attacks` must hold at least one, and none twice. Received: {attacks}")
    return {
        "epsilon": epsilon,
        "norm": ball(norm).name,
        "epsilons": [share * epsilon for share in CURVE],
        "attacks": [worst_case.check_attack_name(name) for name in attacks],
        "examples": examples,
        "seed": check_count("seed", seed, lowest=0),
        "bounds": check_bounds(bounds),
        "batch_size": check_count("batch_size", batch_size),
    }


def _attacks(protocol, epsilon):
    keys = ("norm", "seed", "bounds", "batch_size")
    shared = {key: protocol[key] for key in keys}
    return [
        dataclasses.replace(worst_case.make_attack(name, epsilon, **shared), name=name)
        for name in protocol["attacks"]
    ]


def _model(model):
    output = classifier_output(model)
    return {
        "name": model.name,
        "output": output.kind,
        "classes": output.num_classes,
        "parameters": int(model.count_params()),
    }


def _accuracy(correct):
    """The mean of bool `(n,)` and its 95 % interval (Wilson 1927), which never leaves [0, 1]."""
    found = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return {"accuracy": float(correct.mean()), "low": float(found.low), "high": float(found.high)}


def _withstood(robust):
    return {**robust.withstood, WORST_CASE: robust.robust}


def _rows(robust, epsilon):
    return [
        {"attack": name, "epsilon": epsilon, **_accuracy(still)}
        for name, still in _withstood(robust).items()
    ]


def _examples(task, robust):
    return {
        "label": task.labels.tolist(),
        "predicted": task.logits.argmax(axis=1).tolist(),
        "withstood": [
            {"attack": name, "epsilon": epsilon, "examples": np.flatnonzero(still).tolist()}
            for epsilon, each in robust.items()
            for name, still in _withstood(each).items()
        ],
    }


def _pictures(task, protocol, fooled):
    """The first examples of as many classes as there are, with the image that fools them."""
    _, firsts = np.unique(task.labels[fooled], return_index=True)
    order = [*np.sort(firsts), *np.setdiff1d(np.arange(len(fooled)), firsts)]
    left = np.sort(fooled[np.array(order[:PICTURES], int)])
    pictures = []
    for attack in _attacks(protocol, protocol["epsilon"]) if len(left) else ():
        outcome = attack.attempt(task.select(left))
        done = left[outcome.fooled]
        if len(done):
            pictures += _drawn(task.select(done), outcome.images[outcome.fooled], attack.name)
        left = left[~outcome.fooled]
        if len(left) == 0:
            break
    return sorted(pictures, key=lambda picture: picture["example"])


def _drawn(task, adversarial, attack):
    logits = task.replace(images=adversarial, logits=None).predict().logits
    return [
        {
            "example": int(task.indices[k]),
            "attack": attack,
            "label": int(task.labels[k]),
            **_decision(task.logits[k], "predicted"),
            **_decision(logits[k], "adversarial"),
            "image": _encoded(task.images[k]),
            "adversarial_image": _encoded(adversarial[k]),
        }
        for k in range(len(adversarial))
    ]


def _decision(logits, name):
    exponents = np.exp(logits.astype("float64") - logits.max())
    probability = float(exponents.max() / exponents.sum())
    return {
        name: int(logits.argmax()),
        f"{name}_probability": probability if np.isfinite(probability) else None,
    }


def _encoded(image):
    image = np.ascontiguousarray(image, "<f4")
    return {
        "shape": list(image.shape),
        "dtype": "float32",
        "base64": base64.b64encode(image.tobytes()).decode(),
    }
