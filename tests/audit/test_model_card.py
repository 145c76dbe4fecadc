"""The model card: metadata that YAML reads, numbers of the audit, no text that acts."""

import dataclasses
import json
import pathlib

import jsonschema
import numpy as np
import pytest
import yaml
from conftest import linear_model
from markdown_it import MarkdownIt

from hr_keras import audit
from hr_keras._core.finding import Finding

SCHEMA = pathlib.Path(__file__).parents[2] / "docs" / "audit.schema.json"
HOSTILE = '<img src=x onerror=alert(1)>\n---\n- a: "b" \\ # [c](javascript:d) \u2028\ud83d💥'


@pytest.fixture(scope="module")
def result():
    images = np.random.default_rng(0).normal(size=(12, 2, 2, 3)).astype("float32")
    labels = np.asarray(linear_model(1.0)(images)).argmax(axis=1)
    return audit.audit(linear_model(1.0), images, labels, 1e-5, bounds=(-10, 10), attacks="noise")


def write_card(result, folder):
    audit.write_audit(folder, result)
    text = (folder / "model_card.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_the_metadata_holds_the_numbers_of_the_audit(result, tmp_path):
    doubt = Finding("zero_gradients", 0.5, 0.01, "fault", "they are zero", "Somebody 2020")
    for findings in ((), (doubt,)):
        changed = dataclasses.replace(result, findings=findings)
        metadata, body = write_card(changed, tmp_path)
        (model,) = metadata["model-index"]
        (found,) = model["results"]
        clean, robust = found["metrics"]
        assert clean["value"] == result.clean.accuracy
        worst = result.find_row("worst_case")
        assert (robust["type"], robust["value"]) == ("accuracy", worst.accuracy)
        arguments = robust["args"]
        assert (arguments["epsilon"], arguments["norm"]) == (1e-5, "linf")
        assert arguments["bounds"] == [-10.0, 10.0]
        assert arguments["attacks"] == ["noise"]
        assert arguments["interval_95_percent"] == [worst.low, worst.high]
        assert arguments["fault"] == [one.name for one in findings]
        assert ("not robustness" in robust["name"]) == bool(findings)
        assert "no pixel changes by more than ε, ε = 1e-05 for pixels from -10 to 10" in body
        for heading in ("Threat model", "Findings", "Protocol"):
            assert f"\n## {heading}\n" in body


def test_the_threat_model_is_that_of_the_attacks(result, tmp_path):
    """Gradients where an attack uses them; other models in the findings, not in the worst case."""
    body = write_card(result, tmp_path)[1]
    assert "sees what the model returns, not its gradients" in body
    assert "other models" not in body
    protocol = dataclasses.replace(result.protocol, attacks=("noise", "pgd"), others=("other",))
    rows = [dataclasses.replace(row, attack="pgd") for row in result.rows if row.attack == "noise"]
    rows = (*result.rows[:1], *rows, *result.rows[1:])
    changed = dataclasses.replace(result, protocol=protocol, rows=rows)
    body = write_card(changed, tmp_path)[1]
    assert "knows the model and its gradients" in body
    assert "other models are tried in the findings only; the worst case is without them" in body


def test_accuracy_without_known_logits_is_not_called_robust(result, tmp_path):
    hidden = dataclasses.replace(result.model, output="probabilities")
    metadata, _ = write_card(dataclasses.replace(result, findings=(), model=hidden), tmp_path)
    name = metadata["model-index"][0]["results"][0]["metrics"][1]["name"]
    assert name == "accuracy under attack, not robustness, worst case"


def test_text_from_a_model_is_text_in_metadata_and_body(result, tmp_path):
    changed = dataclasses.replace(
        result,
        model=dataclasses.replace(result.model, name=HOSTILE, file=HOSTILE),
        protocol=dataclasses.replace(result.protocol, data=HOSTILE, split="test"),
        versions={"hr_keras": HOSTILE},
    )
    metadata, body = write_card(changed, tmp_path)
    printable = "".join(c if c.isprintable() else " " for c in HOSTILE)
    (model,) = metadata["model-index"]
    assert model["name"] == printable
    assert model["results"][0]["dataset"]["name"] == printable
    shown = MarkdownIt("commonmark").enable("table").render(body)
    assert "<img" not in shown.replace('<img src="curve.png"', "")
    assert "javascript:" not in [part.split('"')[0] for part in shown.split('href="')[1:]]
    assert printable.split("💥")[0].split()[0].replace("<", "&lt;") in shown


def test_an_audit_fits_the_published_schema(result):
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    content = json.loads(result.to_json())
    assert validator.is_valid(content)
    for damaged in (
        content | {"seconds": "long"},
        content | {"surplus": 1},
        content | {"rows": [content["rows"][0] | {"correct": [0.5]}]},
        content | {"protocol": content["protocol"] | {"bounds": [0.0]}},
        {name: value for name, value in content.items() if name != "findings"},
    ):
        assert not validator.is_valid(damaged)
