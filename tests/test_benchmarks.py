"""What the benchmarks say of their measurements; nothing is timed here."""

import datetime
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_contestants_take_turns_after_a_warm_up():
    import interleaved

    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = interleaved.compare(contestants, 2, clock=lambda: len(calls))
    assert calls == [*"ab", *"ab", *"ab"]
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_ratios_are_pair_by_pair_and_limits_are_of_their_median(capsys):
    import interleaved

    seconds = {"a": [1.0, 2.0, 4.0], "b": [3.0, 4.0, 4.0]}
    assert interleaved.ratios(seconds, "b", "a") == [3.0, 2.0, 1.0]
    row = interleaved.limit("t", "b / a", [3.0, 2.0, 1.0], at_most=2.0)
    assert (row["measured"], row["min"], row["max"], row["held"]) == (2.0, 1.0, 3.0, True)
    assert not interleaved.limit("t", "b / a", [3.0, 2.0, 1.0], at_most=1.9)["held"]
    assert interleaved.limit("t", "b / a", 2.0, at_least=2.0)["held"]
    assert not interleaved.limit("t", "b / a", 2.0, at_least=2.1)["held"]
    assert capsys.readouterr().out.count("MISSED") == 2


@pytest.mark.parametrize(("costs", "expected"), [((2, 5, 17), 1.0), ((2, 5, 29), 2.0)])
def test_a_straight_line_has_slopes_alike(costs, expected):
    import scaling

    cases = [(1, 4), (4, 4), (16, 4)]
    seconds = dict(zip(cases, ([cost, 2 * cost] for cost in costs), strict=True))
    assert scaling.line(seconds, cases, lambda case: case[0]) == pytest.approx([expected] * 2)


def test_a_library_that_does_not_run_has_a_row_with_its_error(capsys):
    import peers

    class Missing(peers.Library):
        package = "no-such-package"

    class Broken(peers.Library):
        package = "tensorflow"

        def __init__(self, model):
            raise ImportError("not with this Keras\nand more")

    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    images, labels = np.full((8, 2, 2, 1), 0.5, "float32"), np.zeros(8, "int32")
    running, rows = peers.start_all(model, images, labels, (Missing, peers.Bare, Broken))
    (name,) = running
    assert name.startswith("Bare ")
    assert [row["name"] for row in rows] == ["Missing", "Broken"]
    assert rows[0]["error"].startswith("PackageNotFoundError: ")
    assert rows[1]["error"] == "ImportError: not with this Keras"


def test_a_gradient_shared_by_hand_gives_the_cells_of_attacks_one_by_one():
    import peers

    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.set_weights([generator.normal(size=(4, 3)), np.zeros(3)])
    images = generator.uniform(size=(40, 2, 2, 1)).astype("float32")
    labels = model.predict(images, verbose=0).argmax(axis=-1).astype("int32")
    labels[::5] = (labels[::5] + 1) % 3
    one_by_one, shared = (
        peers.six_cells(kind(model), images, labels, 20)
        for kind in (peers.Bare, peers.SharedByHand)
    )
    assert shared == one_by_one
    assert len(set(shared.values())) >= 3


def test_tables_are_made_of_the_files(tmp_path):
    import interleaved

    import results

    rows = interleaved.report("a race", {"one": [1.0, 3.0], "two|2": [2.0, 9.0]}, {"one": "slow"})
    rows.append(interleaved.limit("a race", "two / one", [2.0, 3.0], at_most=2.0))
    rows.append({"title": "did not run", "name": "three", "error": "ImportError: no"})
    path = tmp_path / "race.json"
    interleaved.save(rows, path, threads=1)
    machine = json.loads(path.read_text())["machine"]
    assert (machine["keras"], machine["threads"]) == (keras.__version__, 1)
    text = results.markdown(path)
    assert text.startswith("## race\n")
    assert "earlier" not in text
    assert "| of | quantity | measured | min | max | limit | held |" in text
    lines = results.summary({"race": json.loads(path.read_text())}).splitlines()
    assert len(lines) == 5
    assert datetime.date.today().isoformat() in lines[0]
    assert lines[1] == "- Repeats, the most of each script: race 2."
    assert lines[2:4] == [
        "- Limits: 0 of 1 are held.",
        "- Missed: a race: two / one 2.5, limit ≤ 2.",
    ]
    (tmp_path / "earlier").mkdir()
    interleaved.save([interleaved.limit("a race", "two / one", 1.25, at_most=2.0)],
                     tmp_path / "earlier" / "race.json")  # fmt: skip
    again = results.markdown(path, tmp_path / "earlier")
    assert "| a race | two / one | 2.5 | 2 | 3 | ≤ 2 | **no** | 1.25 |" in again
    assert "| a race | two / one | 2.5 | 2 | 3 | ≤ 2 | **no** |" in text
    assert "| two\\|2 | 5.5 | 2 | 9 | 2.500 (2.000–3.000) |  |" in text
    assert "### did not run" in text
    assert "| three | ImportError: no |" in text


def make_adder(folder, number):
    """What `sides.Side` calls in another process."""
    if number < 0:
        raise ImportError("no negative numbers\nand more")
    threads = [os.environ[name] for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")]
    return lambda *more: (os.getpid(), threads, sum(more, number))


@pytest.mark.slow
def test_each_side_works_in_a_process_of_its_own_with_equal_threads(capsys, monkeypatch):
    import sides

    for name in sides._THREADS:
        monkeypatch.setenv(name, "7")
    running, rows = {}, []
    for name, number in (("two", 2), ("five", 5), ("none", -1)):
        started, failed = sides.start_all({name: make_adder}, None, number, threads=3)
        running, rows = running | started, rows + failed
    assert [(row["name"], row["error"]) for row in rows] == [
        ("none", "ImportError: no negative numbers")
    ]
    seconds, found = sides.compare(running, 2)
    assert {name: len(values) for name, values in seconds.items()} == {"two": 2, "five": 2}
    pids, threads, sums = zip(*found.values(), strict=True)
    assert len({*pids, os.getpid()}) == 3
    assert threads == (["3", "3"], ["3", "3"])
    assert sums == (2, 5)
    result, took = running["two"](10)
    assert result[2] == 12
    assert set(took) == {"wall", "processor"}
    for side in running.values():
        side.close()


def test_another_copy_of_the_package_is_not_measured(tmp_path):
    import interleaved

    interleaved.check_package(BENCHMARKS.parent / "hr_keras" / "__init__.py")
    installed = BENCHMARKS.parent / ".venv" / "site-packages"  # as the README's commands install
    for place in (tmp_path, installed):
        with pytest.raises(SystemExit, match="pip install -e"):
            interleaved.check_package(place / "hr_keras" / "__init__.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "adversarial_training --batches 1 1 --memory-batch 0",
        "attacks --images 256 256 --epochs 2",
        "evaluation --images 250 250",
        "iterative --images 64 --standard 8",
        "memory --images 1000",
        "pgd --images 8 --steps 2",
        "scaling --images 50 100 200 --epsilons 1 2 3",
        "streaming --images 200 --jpeg 20 --generated 50 100",
    ],
)
def test_a_benchmark_runs_with_little_to_do(command, tmp_path):
    script, *arguments = command.split()
    output = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, f"{script}.py", *arguments, "--repeats", "1", "--output", str(output)],
        cwd=BENCHMARKS, env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}, check=True,
    )  # fmt: skip
    assert json.loads(output.read_text())["rows"]
