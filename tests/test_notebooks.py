"""The notebooks run from the first cell to the last, and show what they say."""

import re

import nbformat
import pytest

from tests.helpers.notebooks import NOTEBOOKS, execute, read, shorten, source_of

FIRST = """\
# In Colab, first: !git clone …, then %pip install ./pvt_jax
try:
    import pvt_jax
except ImportError:
    %pip install --quiet ../..
    import pvt_jax

print(pvt_jax.check_environment())"""


def test_there_are_six():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_", "6_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_how_to_open_it_and_where_it_runs(path):
    notebook = read(path)
    title = source_of(notebook, "markdown")[0]
    assert title.startswith("# ") and f"/blob/main/docs/notebooks/{path.name})" in title
    assert source_of(notebook, "code")[0] == FIRST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_of_a_run_without_errors(path):
    """Readers of the site see stored outputs: there are some, all of one run from top to bottom."""
    assert not re.search(r"/(tmp|home|root)/", path.read_text(encoding="utf-8")), "a folder of one machine"
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run: make notebooks"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) or "3_" in path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = read(path)
    shorten(notebook, 4)
    execute(notebook, tmp_path)


def test_kernels_that_start_together_share_no_ports(tmp_path):
    """Two did, in parallel tests: one died of "Address already in use"."""
    cell = nbformat.v4.new_code_cell("import ipykernel, json; json.loads(ipykernel.get_connection_info())['transport']")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    execute(notebook, tmp_path)
    assert notebook.cells[0].outputs[0].data["text/plain"] == "'ipc'"
