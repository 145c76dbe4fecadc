import errno
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
from datasets_on_disk import generated, prepare_tfds
from processes import used_by_another_process
from typer.testing import CliRunner

from hr_keras import cli, datasets, evaluation
from hr_keras._core import examples as examples_module
from hr_keras._core.rendering import plain_text
from hr_keras.attacks import worst_case
from hr_keras.audit import measure as audit_measure
from hr_keras.cli import options
from hr_keras.experiments import fit, measure, train, workers
from hr_keras.experiments.methods import METHODS
from hr_keras.experiments.protocol import MODELS, OPTIMIZERS, PRESETS
from hr_keras.experiments.run_folder import RunFolder

RESULTS = pathlib.Path(__file__).parent.parent / "results"


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def run_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["hr-keras", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return exit_info.value.code, capsys.readouterr()


def test_help_names_every_option():
    text = invoke("table", "--help").output
    for option in ("--preset", "--realizations", "--alpha", "--epochs", "--seed", "--output",
                   "--strategy", "--data", "--data-dir", "--model", "--learning-rate",
                   "--method", "--baseline"):  # fmt: skip
        assert option in text


def test_the_choices_are_those_of_the_modules():
    """Which the help must not import."""
    for choice, known in (
        (options.Preset, PRESETS), (options.Model, MODELS), (options.Method, METHODS),
        (options.AttackName, worst_case.ATTACK_NAMES), (options.Optimizer, OPTIMIZERS),
    ):  # fmt: skip
        assert {one.value for one in choice} == set(known)


def test_options_reach_the_protocol(tmp_path):
    chosen = options.Options(
        output=tmp_path / "run", data_label="MNIST, rotated", optimizer=options.Optimizer.adam
    )
    protocol = chosen.plan_table().runs[0].protocol
    assert (protocol.data_label, protocol.optimizer) == ("MNIST, rotated", "adam")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Generated images in the on-disk format of tensorflow-datasets."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare_tfds("cifar10", (32, 32, 3), folder, train=100)
    prepare_tfds("svhn_cropped", (32, 32, 3), folder, train=100)
    return folder


@pytest.fixture
def file(tmp_path):
    """Generated images as a file."""
    images, labels = generated((12, 12, 1), 100)
    path = tmp_path / "a|b*.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


def test_a_table_from_one_command(file, tmp_path):
    result = invoke(
        "table", "--data", file, "--epochs", 1, "--realizations", 1,
        "--method", "hr", "--output", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Attacked as published" in result.output
    assert "Attacked exactly" in result.output
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"protocol.json", "table.md", "table.csv", "table.tex", "figure.png"} <= names


@pytest.mark.slow
def test_several_data_sets_share_a_table(prepared, file, tmp_path):
    """One with a column in the paper and one without; then again from the folder alone."""
    result = invoke(
        "table", "--data", file, "--data", "cifar10", "--data-dir", prepared,
        "--epochs", 1, "--realizations", 1, "--output", tmp_path / "runs",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "runs").iterdir() if path.name[0] != "."}
    assert names == {
        "cifar10", "a|b*", "table.md", "table.csv", "table.tex",
        "differences.md", "differences.csv", "differences.tex", "report.html",
    }  # fmt: skip
    text = (tmp_path / "runs" / "table.md").read_text()
    assert f"Each cell: CIFAR-10 · {plain_text(file.stem)}." in text
    assert "beside the paper's column CIFAR-10" in text
    assert "The paper has no such column." in text
    for name in ("cifar10", "a|b*"):
        assert (tmp_path / "runs" / name / "figure.png").exists()
    before = contents(tmp_path / "runs")
    file.unlink()
    again = invoke("table", "--output", tmp_path / "runs")
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "runs") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_the_resnet_presets_run_end_to_end(name, prepared, tmp_path):
    """Through tensorflow-datasets, on 100 generated images."""
    result = invoke(
        "table", "--preset", f"paper-{name}", "--data-dir", prepared, "--epochs", 2,
        "--realizations", 1, "--output", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    column = {"cifar10": "CIFAR-10", "svhn": "SVHN"}[name]
    assert f"beside the paper's column {column}" in (tmp_path / "run" / "table.md").read_text()
    for loss in ("ce", "hr"):
        model = keras.models.load_model(tmp_path / "run" / f"realization-0-{loss}.keras")
        assert model.name == "resnet8"
        layers = {layer.name for layer in model.layers}
        assert ("subtract_mean" in layers) == (name == "cifar10")
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        assert int(model.optimizer.iterations) == 2


WRITES = {"table": "table", "figure": "convergence", "confusion": "confusion", "bounds": "bounds",
          "saturation": "saturation", "compare": "comparison", "alpha": "alpha",
          "tune": "learning_rates", "label-noise": "label_noise"}  # fmt: skip
GRIDS = ("alpha", "tune", "label-noise")  # a folder of run folders each


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        pytest.param(
            command,
            path.parent,
            id=f"{command}-{path.parent.name}",
            marks=() if path.parent.name == "quick" else pytest.mark.slow,
        )
        for command, stem in WRITES.items()
        for path in sorted(RESULTS.rglob(f"{stem}.md"))
    ],
)
def test_committed_results_regenerate_without_training(command, folder, tmp_path, monkeypatch):
    def no_model(*_):
        raise AssertionError("a saved result is enough")

    monkeypatch.setattr(fit, "build_model", no_model)
    monkeypatch.setattr(keras.models, "load_model", no_model)
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*.keras"))
    result = invoke(command, "--output", tmp_path / "copy")
    assert result.exit_code == 0, result.output
    if command == "table":
        (tmp_path / "copy" / "report.html").unlink()
    assert contents(tmp_path / "copy") == contents(folder)


@pytest.mark.slow
def test_every_drawing_command_trains_and_draws_again(file, tmp_path):
    folder = tmp_path / "run"
    arguments = ("--data", file, "--epochs", 2, "--realizations", 1, "--output", folder)
    assert invoke("bounds", *arguments).exit_code == 0
    for command, stem in WRITES.items():
        if command not in GRIDS:
            result = invoke(command, "--output", folder)
            assert result.exit_code == 0, result.output
            assert {f"{stem}.md", f"{stem}.csv", f"{stem}.tex"} <= {
                p.name for p in folder.iterdir()
            }
    assert {f"{stem}.{end}" for stem in ("figure", "confusion", "bounds", "saturation")
            for end in ("png", "svg")} <= {path.name for path in folder.iterdir()}  # fmt: skip
    unknown = invoke("confusion", "--output", folder, "--epsilon", 0.2)
    assert "`epsilon` must be one of" in str(unknown.exception)


@pytest.mark.slow
def test_a_stronger_attack_is_made_once_and_kept(file, tmp_path):
    """Attacked once; then, without models, the same table from the folder alone."""
    path = tmp_path / "run"
    arguments = ("--data", file, "--epochs", 1, "--realizations", 1, "--output", path)
    result = invoke("table", *arguments, "--attack", "pgd", "--examples", 12)
    assert result.exit_code == 0, result.output
    text = (path / "table.md").read_text()
    assert "attacked with `pgd`" in text
    assert "Accuracy on 12 test images" in text
    found = RunFolder(path).accuracies().query("examples == 12 and method == 'ce'")
    assert list(found["epsilon"]) == [0.0, 0.1, 0.25]
    assert (found["accuracy"] <= found["accuracy"].iloc[0]).all()
    model = keras.models.load_model(path / "realization-0-ce.keras")
    images, labels = (array[:12] for array in datasets.load(str(file)).test)
    robust = evaluation.robust_accuracy(model, images, labels, worst_case.make_attack("pgd", 0.1))
    assert found["accuracy"].iloc[1] == pytest.approx(robust.worst_case)
    before = contents(path)
    for model_path in path.glob("*.keras"):
        model_path.unlink()
    assert invoke("table", "--output", path).exit_code == 0
    assert contents(path) == before
    more = invoke("table", "--output", path, "--attack", "fgsm", "--examples", 12)
    assert "a stronger attack needs the trained model" in str(more.exception)
    assert contents(path) == before


@pytest.fixture(scope="module")
def saved(digits, tmp_path_factory):
    """A small trained model as a file, one that takes other images, and one of other classes."""
    folder = tmp_path_factory.mktemp("models")
    for name, shape, classes in (
        ("digits", (28, 28, 1), 10), ("wide", (32, 32, 3), 10), ("eleven", (28, 28, 1), 11)
    ):  # fmt: skip
        model = keras.Sequential(
            [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)]
        )
        model.compile(
            "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
        )
        if name == "digits":
            model.fit(*digits.train, batch_size=200, verbose=0)
        model.save(folder / f"{name}.keras")
    keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Dense(10)]).save(
        folder / "spatial.keras"
    )
    (folder / "text.keras").write_text("not a model")
    return folder


def test_an_audit_from_one_command(saved, tmp_path):
    """Then once more, and from the folder alone, without the model: the same bytes."""
    model = tmp_path / "digits.keras"
    shutil.copy(saved / "digits.keras", model)
    options = (model, "--epsilon", 0.05, "--examples", 20, "--attack", "noise", "--attack", "pgd")
    folder = tmp_path / "audit"
    result = invoke("audit", *options, "--output", folder)
    assert result.exit_code == 0, result.output
    assert "Accuracy at ε = 0.05" in result.output
    assert f"More in {folder / 'report.html'}" in result.output
    assert "Protocol" not in result.output
    assert {path.name for path in folder.iterdir()} == {
        "audit.json", "audit.md", "model_card.md", "curve.png", "curve.svg", "pictures.png",
        "pictures.svg", "report.html",
    }  # fmt: skip
    content = json.loads((folder / "audit.json").read_text())
    assert content["protocol"]["attacks"] == ["noise", "pgd"]
    assert content["protocol"]["data"] == "mnist10k"
    assert len(content["model"]["sha256"]) == 64
    before = contents(folder)
    assert invoke("audit", *options, "--output", folder).exit_code == 0
    assert contents(folder) == before
    other = invoke("audit", *options, "--seed", 1, "--output", folder)
    assert "differs in seed" in str(other.exception)
    model.unlink()
    (folder / "audit.md").unlink()
    assert invoke("audit", "--output", folder).exit_code == 0
    assert contents(folder) == before


def test_an_audit_uses_the_devices_of_its_strategy(saved, tmp_path, monkeypatch):
    """Two chunks of 256 images on two of the logical CPUs."""
    import tensorflow as tf

    monkeypatch.setattr(examples_module, "CHUNK", 1)
    monkeypatch.setattr(audit_measure.diagnostics, "check", lambda *_: [])
    used, attack = set(), evaluation.robust_accuracy

    def recording(*arguments):
        used.add(tf.identity(0.0).device)
        return attack(*arguments)

    monkeypatch.setattr(audit_measure.evaluation, "robust_accuracy", recording)
    options = ("--epsilon", 0.05, "--examples", 300, "--attack", "noise", "--strategy", "mirrored")
    result = invoke("audit", saved / "digits.keras", *options, "--output", tmp_path / "audit")
    assert result.exit_code == 0, result.output
    assert len(used) == 2


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("missing", (), "There is no file"),
        ("text", (), "is not a Keras model"),
        ("wide", (), "takes images of shape (32, 32, 3); those of mnist10k are (28, 28, 1)"),
        ("eleven", (), "has 11 classes; the labels of mnist10k are from 0 to 9"),
        ("spatial", (), "one tensor of shape (n, classes)"),
        ("digits", ("--data", "mnist10"), "Did you mean 'mnist10k'"),
        ("digits", ("--epsilon", 0), "`epsilon` must be greater than 0"),
        ("digits", ("--epsilon", "nan"), "`epsilon`"),
        ("digits", ("--norm", "l1"), "linf"),
        ("digits", ("--attack", "standart"), "standard"),
        ("digits", ("--examples", 0), "`examples` must be a positive integer"),
        ("digits", ("--examples", 1), "at least two"),
        ("digits", ("--output", RESULTS / "mnist10k" / "quick"), "holds no audit.json"),
    ],
)
def test_what_an_audit_refuses(saved, tmp_path, monkeypatch, capsys, model, options, message):
    monkeypatch.chdir(tmp_path)
    code, captured = run_main(monkeypatch, capsys, "audit", saved / f"{model}.keras", *options)
    assert code == 2
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


def test_an_audit_of_nothing(monkeypatch, capsys):
    code, captured = run_main(monkeypatch, capsys, "audit")
    assert code == 2
    assert "must be given" in captured.err


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, capsys):
    shutil.copytree(RESULTS / "mnist10k" / "quick", tmp_path / "run")
    before = contents(tmp_path / "run")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, captured = run_main(monkeypatch, capsys, "figure", "--output", tmp_path / "run")
    assert code == 2
    assert "No space left" in captured.err
    assert contents(tmp_path / "run") == before


def test_a_second_command_in_the_same_folder_changes_nothing(tmp_path, monkeypatch, capsys):
    shutil.copytree(RESULTS / "mnist10k" / "quick", tmp_path / "run")
    (tmp_path / "run" / "table.md").unlink()
    before = contents(tmp_path)
    with used_by_another_process(tmp_path / "run"):
        for command in ("table", "figure"):
            code, captured = run_main(monkeypatch, capsys, command, "--output", tmp_path / "run")
            assert code == 2
            assert captured.err.startswith("hr-keras: another process is at work in")
            assert captured.err.count("\n") == 1
            assert contents(tmp_path) == before
    assert invoke("table", "--output", tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("figure", "--accuracy", "90"), "(0, 1]"),
        (("confusion", "--epsilon", "0.3"), "one of the protocol's"),
        (("alpha", "--epsilon", "0.2"), "one of the protocol's"),
    ],
)
def test_what_is_wrong_is_said_before_the_training(
    arguments, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "train_folder", None)
    output = tmp_path / "run"
    code, captured = run_main(monkeypatch, capsys, *arguments, "--output", output)
    assert code == 2
    assert expected in captured.err
    assert not output.exists()


@pytest.mark.parametrize("when", ["training", "attack"])
def test_ctrl_c_ends_with_a_line(when, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    shutil.copytree(RESULTS / "mnist10k" / "quick", tmp_path / "run")
    if when == "training":
        monkeypatch.setattr(train, "train_folder", stop)
    monkeypatch.setattr(measure, "measure_attack", stop)
    code, captured = run_main(
        monkeypatch, capsys, "table", "--attack", "pgd", "--output", tmp_path / "run"
    )
    assert code == 130
    assert captured.err == (
        "\nhr-keras: stopped. Finished work is kept; run the same command again to resume.\n"
    )


def test_a_killed_process_ends_with_a_line(tmp_path, monkeypatch, capsys):
    def run(*_):
        raise workers.ProcessEnded("a process ended before its task did")

    monkeypatch.setattr(train, "train_folder", run)
    code, captured = run_main(monkeypatch, capsys, "table", "--output", tmp_path / "run")
    assert code == 1
    assert captured.err == "hr-keras: a process ended before its task did\n"


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".keras" and not path.name.startswith(".")
    }


def test_a_bug_shows_its_traceback(tmp_path, monkeypatch):
    """A TypeError of ours, a ValueError of another package; with --debug everything."""
    monkeypatch.setattr("sys.argv", ["hr-keras", "table", "--output", str(tmp_path / "run")])

    def fail(*_):
        len(3)

    monkeypatch.setattr(train, "train_folder", fail)
    with pytest.raises(TypeError, match="has no len"):
        cli.main()
    monkeypatch.setattr(train, "train_folder", lambda *_: np.zeros(3).reshape(2, 2))
    with pytest.raises(ValueError, match="reshape"):
        cli.main()
    monkeypatch.setattr("sys.argv", ["hr-keras", "--debug", "confusion", "--epsilon", "0.3",
                                     "--output", str(tmp_path / "other")])  # fmt: skip
    with pytest.raises(ValueError, match="one of the protocol's"):
        cli.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", "1"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--preset", "paper"], "paper-mnist"),
        (["--data", "mnist10"], "Did you mean 'mnist10k'"),
        (["--strategy", "mirror"], "mirrored"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", "0"], "epochs"),
        (["--label-noise", "1"], "`label_noise` must be in [0, 1)"),
        (["--attack-every", "0"], "attack_every"),
        (["--output", __file__], "not a run folder"),
        (["--output", f"{__file__}/run"], "Not a directory"),
        (["--seed", "99999999999999999999"], "seed"),
    ],
)
def test_wrong_arguments_end_with_a_line_and_nothing_written(
    monkeypatch, capsys, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, captured = run_main(monkeypatch, capsys, "table", *arguments)
    assert code == 2
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_loop_of_links(monkeypatch, capsys, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for command in ("table", "audit"):
        arguments = ["--output", str(tmp_path / "loop")]
        code, captured = run_main(monkeypatch, capsys, command, *arguments)
        assert code == 2
        assert "Traceback" not in captured.err
        assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("command", [("table",), ("audit", "model.keras")])
def test_a_worker_that_does_not_answer_ends_with_a_line(monkeypatch, capsys, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    config = {"cluster": {"worker": ["localhost:0", "localhost:9"]}}
    config["task"] = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    options = ("--strategy", "multiworker", "--wait", "0.2")
    code, captured = run_main(monkeypatch, capsys, *command, *options)
    assert code == 2
    assert "hr-keras: localhost:9 of TF_CONFIG did not answer within 0.2 seconds" in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alpha", "--alpha", "1.6", "--alpha", "1"], "greater than 1. Received: alpha=1.0"),
        (["alpha", "--data", "mnist", "--data", "mnist10k"], "`alpha` take one data set"),
        (["table", "--data", "mnist10k", "--data", "mnist10k"], "names that differ"),
        (["alpha", "--method", "ce"], "trains HR only"),
        (["alpha", "--learning-rate-of", "hr=0.1"], "trains HR only"),
        (["tune", "--learning-rate-of", "hr=0.1"], "A search chooses the learning rates"),
        (["tune", "--learning-rate", "0.1", "--learning-rate", "0"], "must be > 0. Received: 0.0"),
        (["table", "--learning-rates-from", "none"], "holds no search for learning rates"),
        (["table", "--attack", "pdg"], "pgd"),
        (["table", "--method", "hrr"], "hr"),
        (["table", "--method", "ce", "--method", "ce"], "none twice"),
        (["table", "--method", "ce", "--baseline", "hr"], "`baseline` must be one of"),
        (["table", "--attack", "pgd", "--examples", "0"], "`examples`"),
        (["table", "--examples", "10"], "`--attack`: give one"),
    ],
)
def test_wrong_arguments_of_other_commands(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, captured = run_main(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in captured.err
    assert not list(tmp_path.iterdir())


def test_version_and_no_arguments(monkeypatch, capsys):
    from hr_keras import __version__

    assert invoke("--version").output.strip() == __version__
    for command in ("table", "figure", "confusion", "alpha", "bounds", "audit"):
        assert command in invoke().output
