"""The audit of a saved classifier: its numbers, its files, what it refuses."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
from conftest import linear_model
from keras import layers

from hr_keras import audit, evaluation
from hr_keras._core.finding import Finding
from hr_keras._core.rendering import render_figure
from hr_keras.attacks.worst_case import ATTACK_NAMES
from hr_keras.audit import measure, pictures, report, run

EPSILON = 0.1
BOUNDS = (-10.0, 10.0)


def examples(n=60):
    generator = np.random.default_rng(1)
    images = generator.normal(size=(n, 2, 2, 3)).astype("float32")
    labels = np.asarray(linear_model(1.0)(images)).argmax(axis=1)
    labels[::7] = (labels[::7] + 1) % 3  # some are wrong from the start
    return images, labels


@pytest.fixture(scope="module")
def model():
    return linear_model(1.0)


@pytest.fixture(scope="module")
def result(model):
    return audit.audit(model, *examples(), EPSILON, bounds=BOUNDS)


def margins(images, labels):
    """(z_y − z_k) / ‖w_y − w_k‖₁, the least over k ≠ y: the distance in L∞ to a wrong answer."""
    weights, bias = (np.asarray(w, "float64") for w in linear_model(1.0).get_weights())
    logits = images.reshape(len(images), -1) @ weights + bias
    rows = np.arange(len(labels))
    gaps = logits[rows, labels][:, None] - logits
    norms = np.abs(weights[:, labels].T[:, :, None] - weights[None]).sum(axis=1)
    norms[rows, labels] = 1.0
    gaps[rows, labels] = np.inf
    return (gaps / norms).min(axis=1)


def test_accuracies_of_a_linear_model_are_those_of_its_margins(result):
    distance = margins(*examples())
    assert result.clean.accuracy == pytest.approx((distance > 0).mean())
    for row in result.rows:
        exact = (distance > row.epsilon).mean()
        assert row.accuracy >= exact - 1e-9
        if row.attack in ("pgd", "fast", "worst_case"):
            assert row.accuracy == pytest.approx(exact)
        if row.attack in ("none", "worst_case"):
            assert row.correct == tuple(np.flatnonzero(distance > row.epsilon))


def test_the_worst_case_is_no_better_than_any_attack(result):
    assert len(result.rows) == 1 + 4 * (len(run.ATTACKS) + 1)
    for row in result.rows:
        worst = result.find_row("worst_case", row.epsilon)
        assert worst.accuracy <= row.accuracy <= result.clean.accuracy
        assert set(worst.correct) <= set(row.correct) <= set(result.clean.correct)
        assert row.accuracy == len(row.correct) / 60
        assert 0 <= row.low <= row.accuracy <= row.high <= 1


@pytest.mark.parametrize(("k", "n", "low", "high"), [(0, 10, 0, 0.2775), (5, 10, 0.2366, 0.7634)])
def test_the_interval_is_wilsons(k, n, low, high):
    """Newcombe 1998, table I, and by hand."""
    row = measure._make_row("fgsm", 0.1, np.arange(n) < k)
    assert (row.low, row.high) == pytest.approx((low, high), abs=2e-4)


def test_pictures_hold_images_that_fool_inside_the_ball(result):
    images, labels = examples()
    assert 1 <= len(result.pictures) <= pictures.PICTURES
    for picture in result.pictures:
        clean, adversarial = picture.image.decode(), picture.adversarial_image.decode()
        np.testing.assert_array_equal(clean, images[picture.example])
        assert np.abs(adversarial - clean).max() <= EPSILON * (1 + 1e-5)
        decision = np.asarray(linear_model(1.0)(adversarial[None]))[0]
        assert decision.argmax() == picture.adversarial != picture.label
        assert decision.max() == pytest.approx(picture.adversarial_probability, abs=1e-5)
        assert picture.predicted == picture.label == labels[picture.example]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_json_holds_everything_that_is_drawn(result, tmp_path):
    """The same result and the same bytes from the file."""
    text = audit.write_audit(tmp_path, result)
    first = contents(tmp_path)
    assert set(first) == {
        "audit.json", "audit.md", "model_card.md",
        "curve.png", "curve.svg", "pictures.png", "pictures.svg",
    }  # fmt: skip
    again = audit.read_audit(tmp_path)
    assert again == result
    assert audit.write_audit(tmp_path, again) == text == first["audit.md"].decode()
    assert contents(tmp_path) == first
    for finding in result.findings:
        assert finding.name in text
    for attack in result.attacks:
        for part in attack.settings.get("attacks", [attack.settings]):
            assert part["epsilon"] == EPSILON
            assert {"attack", "objective", "n_restarts", "seed"} <= part.keys()
            assert {"n_iter", "n_draws", "n_queries"} & part.keys()


def test_pictures_of_an_earlier_audit_are_deleted(result, tmp_path):
    for name in ("pictures.png", "pictures.svg", "mine.png"):
        (tmp_path / name).write_text("old")
    text = audit.write_audit(tmp_path, dataclasses.replace(result, pictures=()))
    assert "pictures.png" not in text
    assert set(contents(tmp_path)) == {
        "audit.json", "audit.md", "model_card.md", "curve.png", "curve.svg", "mine.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("rows"), "lacks 'rows'"),
        (lambda content: content.update(more=1), "has unknown 'more'"),
        (lambda content: content["model"].update(classes="3"), "`classes` must be of type int"),
        (lambda content: content["protocol"].update(norm="l1"), "`norm` must be one of"),
        (lambda content: content["protocol"].update(attacks=["a"]), "`attack` must be one of"),
        (lambda content: content["rows"].pop(), "each attack of the protocol at each ε once"),
        (lambda content: content["rows"].append(content["rows"][0]), "at each ε once"),
        (lambda content: content["findings"][0].update(verdict="good"), "`verdict` must be one"),
        (lambda content: content["pictures"][0]["image"].update(shape=[5]), "reshape"),
        (lambda content: content["pictures"][0]["image"].update(base64="é"), "ASCII"),
    ],
)
def test_a_damaged_file(result, tmp_path, change, message):
    content = json.loads(result.to_json())
    change(content)
    (tmp_path / "audit.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        audit.read_audit(tmp_path)
    assert "not a result of this version" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"seconds": NaN}', "\xff"])
def test_a_file_that_is_no_result(tmp_path, text):
    (tmp_path / "audit.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="not a result of this version"):
        audit.read_audit(tmp_path)


def test_text_from_a_model_is_shown_as_it_stands(result):
    named = dataclasses.replace(result.model, file="<img src=x>|`[a](b)\n# x.keras")
    text = report.format_audit(dataclasses.replace(result, model=named))
    assert "<img" not in text.replace("\\<img", "")
    assert text.splitlines()[0].startswith("# Audit of \\<img src=x\\>")
    assert render_figure(report.draw_curve(result, r"$\frac{x \x1b $"))  # no formula


def test_a_terminal_shows_accuracies_and_what_is_not_ok(result):
    verdicts = ("fault", "ok", "warning", "not applicable", "ok")
    findings = tuple(
        Finding(f"check_{k}", 0.0, 1.0, verdict, "", "") for k, verdict in enumerate(verdicts)
    )
    text = report.format_brief(dataclasses.replace(result, findings=findings))
    assert text.count("check_0") == text.count("check_2") == 2  # in the summary and in the table
    assert not [k for k in (1, 3, 4) if f"check_{k}" in text]
    assert "Checks: 1 fault, 1 warning, 2 ok, 1 not applicable." in text
    assert "| worst case" in text.replace("*", "")
    assert "![" not in text


def test_where_nothing_is_fooled_there_is_no_picture(model):
    images, labels = examples()
    far = margins(images, labels) > 0.25
    found = audit.audit(model, images[far], labels[far], EPSILON, attacks="fgsm", bounds=BOUNDS)
    assert found.find_row("worst_case").accuracy == 1
    assert found.pictures == ()


@pytest.mark.slow
def test_a_file_of_other_content_is_another_audit(tmp_path):
    linear_model(1.0).save(tmp_path / "model.keras")
    for seed in (0, 1):
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (20, 2, 2, 3), "uint8")
        labels = np.arange(20) % 3
        np.savez(tmp_path / f"{seed}.npz", x_train=images, y_train=labels, x_test=images,
                 y_test=labels)  # fmt: skip
    path = tmp_path / "digits.npz"
    arguments = (tmp_path / "model.keras", path, 0.1)
    options = {"attacks": "fgsm", "examples": 20}
    path.write_bytes((tmp_path / "0.npz").read_bytes())
    _, first = audit.audit_file(*arguments, **options, folder=tmp_path / "audit")
    _, again = audit.audit_file(*arguments, **options, folder=tmp_path / "audit")
    assert again == first
    carried = options | {"folder": tmp_path / "other"}
    _, other = audit.audit_file(*arguments, **carried, others=[tmp_path / "model.keras"])
    assert other.protocol.others == (other.model.sha256,)
    text = audit.write_audit(tmp_path / "other", other)
    assert f"adversarial examples also from: {other.model.sha256}" in text
    with pytest.raises(ValueError, match="differs in others"):
        audit.audit_file(*arguments, **carried)
    path.write_bytes((tmp_path / "1.npz").read_bytes())
    with pytest.raises(ValueError, match="differs in data_sha256"):
        audit.audit_file(*arguments, **options, folder=tmp_path / "audit")


@pytest.mark.slow
def test_an_audit_in_l2_and_its_other_models():
    other = linear_model(1.0)
    result = audit.audit(
        linear_model(1.0), *examples(), 0.3, "l2", ("noise", "pgd"), bounds=BOUNDS, others=[other]
    )
    assert result.protocol.norm == "l2"
    assert result.protocol.others == (other.name,)
    for picture in result.pictures:
        change = picture.adversarial_image.decode() - picture.image.decode()
        assert np.linalg.norm(change.astype("float64")) <= 0.3 + 1e-6
    (finding,) = (one for one in result.findings if one.name == "gradient_free_stronger")
    assert "transfer on " in finding.meaning


def test_accuracies_say_where_logits_are_not_known(monkeypatch):
    made, make = [], evaluation.RobustAccuracy

    def record(*values):
        made.append(make(*values))
        return made[-1]

    monkeypatch.setattr(measure.diagnostics, "check", lambda *_: [])
    images, labels = examples()
    for output in (None, keras.layers.Lambda(lambda p: 0.9 * keras.ops.softmax(p) + 0.1 / 3)):
        hidden = keras.Sequential([keras.Input((2, 2, 3)), linear_model(1.0)])
        if output:
            hidden.add(output)
        with monkeypatch.context() as patch:
            patch.setattr(measure.evaluation, "RobustAccuracy", record)
            audit.audit(hidden, images, labels, EPSILON, attacks="noise", bounds=BOUNDS)
        assert {one.logits_known for one in made[-4:]} == {output is None}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_and_check_is_of_the_protocol(model, monkeypatch, norm):
    """Its norm, seed, bounds and ε; and what its description says it does. Nothing is attacked."""
    images, labels = examples()
    made, checked = [], []

    def robust_accuracy(model, images, labels, attacks, batch_size, first_index):
        assert checked  # first what may end the audit, then hours of attacks
        made.append(attacks)
        right = np.ones(len(labels), bool)
        return evaluation.RobustAccuracy(right, {attack.name: right for attack in attacks})

    monkeypatch.setattr(measure.evaluation, "robust_accuracy", robust_accuracy)
    monkeypatch.setattr(
        measure.diagnostics, "check", lambda *values: checked.append(values[3:]) or []
    )
    result = audit.audit(model, images, labels, 0.3, norm, ATTACK_NAMES, 7, BOUNDS, 32)
    assert checked == [(0.3, norm, BOUNDS, 32, 7, ())]
    assert [attacks[0].epsilon for attacks in made] == list(result.protocol.epsilons)
    for attacks in made:
        parts = [part for one in attacks for part in getattr(one, "attacks", [one])]
        assert {(part.norm, part.seed, part.bounds) for part in parts} == {(norm, 7, BOUNDS)}
    for attack in result.attacks:
        parts = attack.settings.get("attacks", [attack.settings])
        settings = {value for part in parts for value in part.values() if type(value) is int}
        said = re.findall(r"([\d,]+) (?:steps|queries|points)|best of (\d+)$", attack.description)
        assert {int("".join(number).replace(",", "")) for number in said} <= settings


def test_numbers_carry_a_warning_where_logits_are_not_known(result):
    """Every accuracy under attack in tables and summary, and none without an attack."""
    hidden = dataclasses.replace(result.model, output="probabilities")
    text = report.format_audit(dataclasses.replace(result, model=hidden))
    names = len(result.protocol.attacks) + 1
    assert text.count("†") == 1 + names * (1 + len(result.protocol.epsilons)) + 1
    assert "logits are not known" in text
    assert "†" not in report.format_audit(result)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((12,), (1, 12)), ((2, 6), (2, 6)), ((2, 2, 3), (2, 2, 3)), ((3, 2, 2, 1), (2, 2))],
)
def test_pictures_of_images_of_any_rank(result, shape, drawn):
    picture = result.pictures[0]
    images = {
        name: dataclasses.replace(getattr(picture, name), shape=shape)
        for name in ("image", "adversarial_image")
    }
    reshaped = dataclasses.replace(picture, **images)
    figure = report.draw_pictures(dataclasses.replace(result, pictures=(reshaped,)))
    clean = figure.axes[0].images[0].get_array()
    assert clean.shape == drawn
    pixels = (picture.image.decode() - BOUNDS[0]) / (BOUNDS[1] - BOUNDS[0])
    middle = pixels.reshape(shape)[1] if len(shape) == 4 else pixels
    np.testing.assert_allclose(clean.reshape(-1), middle.reshape(-1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "`epsilon` must be greater than 0"),
        ({"epsilon": float("nan")}, "`epsilon`"),
        ({"norm": "l1"}, "`norm` must be one of"),
        ({"attacks": ()}, "at least one"),
        ({"attacks": ("pgd", "pgd")}, "none twice"),
        ({"attacks": "standart"}, "Did you mean 'standard'"),
        ({"seed": -1}, "`seed`"),
        ({"labels": np.full(60, 3)}, "class numbers from 0 to 2. Received: from 3 to 3"),
        ({"labels": np.eye(3)[np.zeros(60, int)]}, "class numbers"),
        ({"images": np.zeros((60, 2, 2, 3), "uint8")}, "floating point"),
        ({"model": "model.keras"}, "must be a keras.Model. Received: str"),
        (
            {"model": keras.Sequential([keras.Input((2, 2, 3)), layers.Dense(3)])},
            r"one tensor of shape \(n, classes\)",
        ),
    ],
)
def test_bad_arguments(model, changes, message):
    images, labels = examples()
    arguments = {"model": model, "images": images, "labels": labels,
                 "epsilon": 0.1, "bounds": BOUNDS, "attacks": "fgsm", **changes}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        audit.audit(**arguments)
