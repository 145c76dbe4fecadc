"""An audit as a model card: Markdown under the block of metadata that Hugging Face reads."""

import json
from collections.abc import Mapping
from typing import Any

from hr_keras._core.rendering import plain_text, printable_text
from hr_keras.audit.report import find_name, format_accuracies, format_details, summarize
from hr_keras.audit.result import WORST_CASE, AuditResult, AuditRow

# Names on the Hub of the data sets that we know; others are named as they are.
_DATASETS = {
    "mnist": "ylecun/mnist",
    "mnist10k": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "svhn_cropped": "ufldl-stanford/svhn",
}
_WITHOUT_GRADIENTS = ("noise", "square")
_MEANINGS = {
    "linf": "no pixel changes by more than ε",
    "l2": "the changes of all pixels together have a Euclidean length of at most ε",
}


def format_model_card(result: AuditResult) -> str:
    """Returns `model_card.md` of an audit: metadata, robust accuracy, threat model, findings.

    Text of the model and the data is escaped: in the metadata as JSON strings, which YAML reads,
    below as Markdown.

    Args:
        result: The audit.
    """
    return "\n\n".join(
        [
            f"---\n{_format_yaml(_make_metadata(result))}\n---",
            f"# {plain_text(find_name(result))}",
            summarize(result),
            "## Threat model",
            _describe_threat(result),
            *format_accuracies(result),
            *format_details(result),
            f"Written by hr_keras {plain_text(result.versions.get('hr_keras', ''))} from "
            "`audit.json`, which holds every number of this card.",
        ]
    ) + "\n"  # fmt: skip


def _describe_threat(result: AuditResult) -> str:
    protocol = result.protocol
    pixels = "pixels from {:g} to {:g}".format(*protocol.bounds)
    knowledge = "The attacker sees what the model returns, not its gradients"
    if set(protocol.attacks) - set(_WITHOUT_GRADIENTS):
        knowledge = "The attacker knows the model and its gradients"
    others = (
        "- Adversarial examples of other models are tried in the findings only; the worst case is "
        "without them."
    )
    return "\n".join(
        [
            f"- {knowledge}. The model is not defended by hiding it.",
            "- The attacker wants any wrong class, and changes the image only: "
            f"{_MEANINGS[protocol.norm]}, ε = {protocol.epsilon:g} for {pixels}.",
            f"- Attacks: {', '.join(f'`{name}`' for name in protocol.attacks)}. An example is "
            "robust if it withstands each of them.",
            *([others] if protocol.others else []),
            "- Not measured: other norms and sizes, changes of light or position, other data.",
        ]
    )


def _make_metadata(result: AuditResult) -> dict[str, Any]:
    """The block that the Hub reads: what it is, and its accuracies as evaluation results."""
    protocol = result.protocol
    name = protocol.data or "arrays"
    dataset = {"name": name, "type": _DATASETS.get(name, name)}
    if protocol.split is not None:
        dataset["split"] = protocol.split
    known = {"datasets": [_DATASETS[name]]} if name in _DATASETS else {}
    attack = {
        "attacks": list(protocol.attacks), "epsilon": protocol.epsilon, "norm": protocol.norm,
        "bounds": list(protocol.bounds), "examples": protocol.examples, "seed": protocol.seed,
    }  # fmt: skip
    doubts = {
        verdict: [one.name for one in result.findings if one.verdict == verdict]
        for verdict in ("fault", "warning")
    }
    is_doubtful = doubts["fault"] or result.model.output == "probabilities"
    robust = "accuracy under attack, not robustness" if is_doubtful else "robust accuracy"
    metrics = [
        _make_metric("accuracy", result.clean, {"examples": protocol.examples}),
        _make_metric(f"{robust}, worst case", result.find_row(WORST_CASE), attack | doubts),
    ]
    task = {"type": "image-classification"}
    return {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "hr-keras"],
        **known,
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": result.model.file or result.model.name,
                "results": [{"task": task, "dataset": dataset, "metrics": metrics}],
            }
        ],
    }


def _make_metric(name: str, row: AuditRow, arguments: Mapping[str, Any]) -> dict[str, Any]:
    interval = {"interval_95_percent": [row.low, row.high]}
    return {
        "type": "accuracy",
        "name": name,
        "value": row.accuracy,
        "args": {**arguments, **interval},
    }


def _format_yaml(value: Any, indent: str = "") -> str:
    """Objects and lists of objects as lines of YAML, everything else as JSON, which is YAML."""
    if isinstance(value, dict):
        return "\n".join(
            f"{indent}{key}:{_format_nested(one, indent)}" for key, one in value.items()
        )
    blocks = (_format_yaml(one, f"{indent}  ") for one in value)
    return "\n".join(f"{indent}- {block[len(indent) + 2 :]}" for block in blocks)


def _format_nested(value: Any, indent: str) -> str:
    if isinstance(value, dict) or (
        isinstance(value, list) and value and isinstance(value[0], dict)
    ):
        return f"\n{_format_yaml(value, f'{indent}  ')}"
    return f" {_format_json(value)}"


def _format_json(value: Any) -> str:
    if isinstance(value, str):  # YAML allows printable characters only
        value = printable_text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_format_json, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    # 1e-05 is text in YAML 1.1, 1.0e-05 a number.
    return text if not isinstance(value, float) or "." in text else text.replace("e", ".0e")
