"""Pages of the site that are READMEs of ``experiments/``: a Sphinx extension, which copies them to ``docs/results/``.

A folder of an experiment that is added needs nothing here.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
FOLDER = ROOT / "docs" / "results"
CLAIMS = "claims.md"


def page_of(readme: Path) -> Path:
    """The page that shows a README of an experiment, or that of all."""
    name = CLAIMS if readme.parent == EXPERIMENTS else f"{readme.parent.name}.md"
    return FOLDER / name


def page(readme: Path) -> str:
    """The text of a README, with links and pictures found from its page."""

    def moved(match: re.Match) -> str:
        target, mark, anchor = match[1].partition("#")
        if not target or "://" in target:
            return match[0]
        file = Path(os.path.normpath(readme.parent / target))
        file = page_of(file) if file.name == "README.md" and EXPERIMENTS in file.parents else file
        return f"]({os.path.relpath(file, FOLDER)}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, readme.read_text("utf-8"))


def write(app: "Sphinx") -> None:
    """Write the pages, and remove those of folders that are gone."""
    FOLDER.mkdir(exist_ok=True)
    texts = {page_of(readme): page(readme) for readme in [EXPERIMENTS / "README.md", *EXPERIMENTS.glob("*/README.md")]}
    for old in {*FOLDER.glob("*.md")} - texts.keys():
        old.unlink()
    for file, text in texts.items():
        # What has not changed is not built again.
        if not file.exists() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")


def setup(app: "Sphinx") -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
