"""An audit as text, from its `audit.json`."""

import re

import pandas as pd

from hr_keras._core.rendering import format_markdown, format_share, plain_text

_MARKS = {"fault": "FAULT", "warning": "warning", "ok": "ok", "not applicable": "–"}
_NORMS = {"linf": "L∞", "l2": "L2"}


def audit_markdown(audit):
    """Accuracy, findings, protocol and versions as Markdown.

    Args:
        audit: the dict of `audit.audit`.
    """
    protocol = audit["protocol"]
    size = f"ε = {protocol['epsilon']:g} in {_NORMS[protocol['norm']]}"
    lines = [f"# Audit of {audit_name(audit, plain_text)}", "", _summary(audit, size), ""]
    lines += [f"## Accuracy at {size}", "", *_attacks(audit), ""]
    lines += [
        f"{protocol['examples']} examples; in brackets the 95 % interval (Wilson). The worst case "
        "counts an example as robust that withstands every attack.",
    ]
    if "standard" not in protocol["attacks"]:
        lines.append(
            "A stronger attack may leave less: `--attack standard` runs those of AutoAttack."
        )
    lines += ["", "## Security curve", "", *_curve(audit), "", "![](curve.png)", ""]
    if audit["pictures"]:
        lines += ["## Adversarial examples", "", _PICTURES, "", "![](pictures.png)", ""]
    lines += ["## Findings", "", *_findings(audit["findings"]), ""]
    lines += ["Sources:", "", *_sources(audit["findings"]), ""]
    lines += ["## Protocol", "", *_protocol(audit)]
    return "\n".join(lines) + "\n"


_PICTURES = (
    "Over each image the decision and its probability; under each perturbation the attack. Grey "
    "is no change."
)


def audit_name(audit, escape=str):
    """The model's file, or its name, and the data."""
    model = audit["model"].get("file", audit["model"]["name"])
    data = audit["protocol"].get("data")
    return escape(model) + ("" if data is None else f" on {escape(data)}")


def _summary(audit, size):
    (worst,) = _at(audit, "worst_case")
    faults, warnings = (_named(audit, verdict) for verdict in ("fault", "warning"))
    text = (
        f"Accuracy {format_share(audit['clean']['accuracy'])} without an attack, "
        f"**{format_share(worst['accuracy'])}** under the worst of the attacks on each example "
        f"at {size}."
    )
    if faults:
        text += f" **Not to be believed as it stands**: {', '.join(faults)}."
    if warnings:
        text += f" To be read with care: {', '.join(warnings)}."
    if not faults and not warnings:
        text += " No check found a masked gradient or a weak attack."
    return text


def _named(audit, verdict):
    return [_code(one["name"]) for one in audit["findings"] if one["verdict"] == verdict]


def _code(name):
    """A name as Markdown code, whatever the file calls it."""
    plain = re.sub(r"[^\w.-]", " ", name)
    return f"`{plain}`"


def _at(audit, attack):
    return [
        row
        for row in audit["curve"]
        if row["attack"] == attack and row["epsilon"] == audit["protocol"]["epsilon"]
    ]


def _attacks(audit):
    rows = [["none", "", _interval(audit["clean"])]]
    for attack in audit["attacks"]:
        (row,) = _at(audit, attack["name"])
        rows.append([plain_text(attack["name"]), plain_text(attack["description"]), _interval(row)])
    (worst,) = _at(audit, "worst_case")
    rows.append(["**worst case**", "the worst of them for each example", _interval(worst)])
    return rows_markdown(["attack", "what it does", "accuracy"], rows)


def _interval(row):
    accuracy, low, high = (format_share(row[key]) for key in ("accuracy", "low", "high"))
    return f"{accuracy} ({low} to {high})"


def _curve(audit):
    names = list(dict.fromkeys(row["attack"] for row in audit["curve"]))
    found = {
        (row["attack"], row["epsilon"]): format_share(row["accuracy"]) for row in audit["curve"]
    }
    rows = [["0", *[format_share(audit["clean"]["accuracy"])] * len(names)]]
    rows += [
        [f"{epsilon:g}", *(found[name, epsilon] for name in names)]
        for epsilon in audit["protocol"]["epsilons"]
    ]
    return rows_markdown(["ε", *(plain_text(name.replace("_", " ")) for name in names)], rows)


def _findings(findings):
    order = list(_MARKS)
    rows = [
        [
            _MARKS[one["verdict"]],
            _code(one["name"]),
            plain_text(one["meaning"]),
            _number(one["measured"]),
            _number(one["threshold"]),
        ]
        for one in sorted(findings, key=lambda one: order.index(one["verdict"]))
    ]
    return rows_markdown(["verdict", "check", "meaning", "measured", "threshold"], rows)


def _sources(findings):
    by_source = {}
    for one in findings:
        by_source.setdefault(one["source"], []).append(_code(one["name"]))
    return [f"- {plain_text(source)}: {', '.join(names)}" for source, names in by_source.items()]


def _number(value):
    return "–" if value is None else f"{value:.3g}"


def _protocol(audit):
    model, protocol = audit["model"], audit["protocol"]
    told = {
        "model": f"{plain_text(model['name'])}, {model['parameters']:,} parameters, "
        f"{model['classes']} classes, returns {model['output']}",
        "SHA-256 of the file": model.get("sha256"),
        "data": None
        if "data" not in protocol
        else f"{plain_text(protocol['data'])}, the first {protocol['examples']} of the "
        f"{protocol['split']} split",
        "SHA-256 of the data": protocol.get("data_sha256"),
        "examples carried over from": ", ".join(map(plain_text, protocol.get("others", [])))
        or None,
        "pixels": f"from {protocol['bounds'][0]:g} to {protocol['bounds'][1]:g}",
        "seed": protocol["seed"],
        "batch size": protocol["batch_size"],
        "versions": ", ".join(f"{k} {v}" for k, v in audit["versions"].items()),
        "seconds": f"{audit['seconds']:g}",
    }
    return [f"- {name}: {value}" for name, value in told.items() if value is not None]


def rows_markdown(header, rows):
    """The lines of a Markdown table."""
    return format_markdown(pd.DataFrame(rows, columns=header)).split("\n")
