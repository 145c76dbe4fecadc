import pytest
from typer.testing import CliRunner

from hr_keras import cli


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", "1"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--preset", "papr"], "Did you mean 'paper'"),
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
