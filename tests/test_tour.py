"""The notebook runs, and is committed with output that is small and of this code."""

import json
import pathlib

import pytest

PATH = pathlib.Path(__file__).parent.parent / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def code_cells():
    cells = json.loads(PATH.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_its_output_is_committed_and_small(code_cells):
    assert [cell["execution_count"] for cell in code_cells] == [
        *range(1, len(code_cells) + 1)
    ]  # run once, from top to bottom
    # the first cell installs, the others show something
    assert all(cell["outputs"] for cell in code_cells[1:])
    assert PATH.stat().st_size < 300_000
    outputs = [output for cell in code_cells for output in cell["outputs"]]
    assert all(output["output_type"] in ("stream", "display_data") for output in outputs)
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)  # no warnings
    pictures = [cell for cell in code_cells if "image/png" in json.dumps(cell["outputs"])]
    assert len(pictures) == 3
    assert all(cell["metadata"]["alt"].endswith(".") for cell in pictures)


@pytest.mark.slow
def test_it_runs(code_cells, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace("EPOCHS = 20", "EPOCHS = 1")
    assert any("EPOCHS = 1\n" in cell.source for cell in notebook.cells)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # an error in a cell is one here
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [bool(cell.outputs) for cell in ran] == [bool(cell["outputs"]) for cell in code_cells]
