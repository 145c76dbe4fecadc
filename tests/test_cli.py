import pathlib
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from hr_keras import cli, datasets
from hr_keras.experiments import realization

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
                   "--strategy", "--data", "--data-dir", "--model", "--learning-rate"):  # fmt: skip
        assert option in text


def test_a_table_from_one_command(tmp_path):
    result = invoke("table", "--epochs", 1, "--realizations", 1, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "Attacked as published" in result.output
    assert "Attacked exactly" in result.output
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"protocol.json", "table.md", "table.csv", "table.json", "figure.png"} <= names


def test_several_data_sets_share_a_table(tmp_path):
    """One with a column in the paper and one without; then again from the folder alone."""
    data = datasets.load("mnist10k", validation=0)
    path = tmp_path / "a|b*.npz"
    np.savez(
        path,
        x_train=data.train.images[:300], y_train=data.train.labels[:300],
        x_test=data.test.images[:100], y_test=data.test.labels[:100],
    )  # fmt: skip
    folder = tmp_path / "runs"
    result = invoke(
        "table", "--data", path, "--data", "mnist10k", "--epochs", 1, "--realizations", 1,
        "--output", folder,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == {
        "mnist10k", "a|b*", "table.md", "table.csv", "table.json", "claims.csv",
    }  # fmt: skip
    text = (folder / "table.md").read_text()
    assert (
        f"Each cell: mnist10k · {str(path).replace('|', chr(92) + '|')}".replace(
            "*", chr(92) + "*"
        ).replace("_", chr(92) + "_")
        in text
    )
    assert "beside the paper's column MNIST" in text
    assert "The paper has no such column." in text
    for name in ("mnist10k", "a|b*"):
        assert (folder / name / "figure.png").exists()
    before = contents(folder)
    path.unlink()
    assert invoke("table", "--output", folder).exit_code == 0
    assert contents(folder) == before


@pytest.mark.parametrize("folder", sorted(path.parent for path in RESULTS.glob("*/table.md")))
def test_committed_results_regenerate_without_training(folder, tmp_path, monkeypatch):
    def no_training(*_):
        raise AssertionError("trains")

    monkeypatch.setattr(realization, "build", no_training)
    shutil.copytree(folder, tmp_path / folder.name)
    result = invoke("table", "--output", tmp_path / folder.name)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / folder.name) == contents(folder)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".keras"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", "1"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--preset", "paper"], "Did you mean 'paper-mnist'"),
        (["--data", "mnist10"], "Did you mean 'mnist10k'"),
        (["--strategy", "mirror"], "Did you mean 'mirrored'"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", "0"], "epochs"),
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


def test_version_and_no_arguments(monkeypatch, capsys):
    from hr_keras import __version__

    assert invoke("--version").output.strip() == __version__
    assert "table" in invoke().output
