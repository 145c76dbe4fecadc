"""What the benchmarks say of their measurements; nothing is timed here."""

import json
import pathlib

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
    (tmp_path / "earlier").mkdir()
    interleaved.save([interleaved.limit("a race", "two / one", 1.25, at_most=2.0)],
                     tmp_path / "earlier" / "race.json")  # fmt: skip
    again = results.markdown(path, tmp_path / "earlier")
    assert "| a race | two / one | 2.5 | 2 | 3 | ≤ 2 | **no** | 1.25 |" in again
    assert "| a race | two / one | 2.5 | 2 | 3 | ≤ 2 | **no** |" in text
    assert "| two\\|2 | 5.5 | 2 | 9 | 2.500 (2.000–3.000) |  |" in text
    assert "### did not run" in text
    assert "| three | ImportError: no |" in text
