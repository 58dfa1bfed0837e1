"""Run the notebooks: ``python -m tests.helpers.notebooks [4_dense …]`` does so in place and keeps what they showed."""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# No notebook downloads: they take the way that they have for readers without a network.
_OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook as a tree."""
    return nbformat.read(path, as_version=4)


def source_of(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """The text of the cells of one kind, ``code`` or ``markdown``."""
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def shorten(notebook: nbformat.NotebookNode, steps: int) -> None:
    """Train for ``steps`` in place of the notebook's own."""
    for cell in notebook.cells:
        cell.source = re.sub(r"^STEPS = \d+$", f"STEPS = {steps}", cell.source, flags=re.MULTILINE)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in ``folder``, in a process of its own. Raises CellExecutionError: a cell has raised."""
    added = {**_OFFLINE, "PYTHONPATH": str(ROOT), "PVT_JAX_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    # A free TCP port is looked for by this process and bound later, by the kernel's: of two kernels that start together
    # one may take the other's, and did. Files of its own it cannot; their path is short, as that of a socket has to be.
    with tempfile.TemporaryDirectory(prefix="kernel") as sockets:
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/socket"}})
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, kernel_name="python3", timeout=1800, resources=resources, config=config)
        client.execute(env={**os.environ, **added})


def main(names: list[str]) -> int:
    """Execute the notebooks of these names in place, or all."""
    for path in [path for path in NOTEBOOKS if not names or path.stem in names]:
        print(path.name, flush=True)
        notebook = read(path)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        for cell in notebook.cells:
            # When a cell ran changes each time and tells nothing; a picture's JPEG is a second copy of it.
            cell.metadata.pop("execution", None)
            for output in cell.get("outputs", []):
                output.get("data", {}).pop("image/jpeg", None)
        # The folder is Colab's for a reader, and none of this machine.
        path.write_text(nbformat.writes(notebook).replace(folder, "/content") + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
