"""READMEs of experiments as pages of the site."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pages(experiments: Path, monkeypatch):
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "EXPERIMENTS", experiments)
    monkeypatch.setattr(module, "FOLDER", experiments.parent / "docs/results")
    (experiments.parent / "docs").mkdir()
    return module


def test_links_and_pictures_are_found_from_the_page(tmp_path, monkeypatch):
    folder = tmp_path / "experiments/size"
    folder.mkdir(parents=True)
    (tmp_path / "experiments/README.md").write_text("[a](size/README.md#b) [c](../docs/experiments.md)\n")
    (folder / "README.md").write_text("![x](x.png) [c](../README.md) [s](sweep.py) [w](https://a.org/b) [h](#here)\n")
    module = pages(tmp_path / "experiments", monkeypatch)
    module.write(None)
    results = tmp_path / "docs/results"
    assert (results / "claims.md").read_text() == "[a](size.md#b) [c](../experiments.md)\n"
    assert (results / "size.md").read_text() == (
        "![x](../../experiments/size/x.png) [c](claims.md) [s](../../experiments/size/sweep.py) "
        "[w](https://a.org/b) [h](#here)\n"
    )


def test_pages_follow_the_folders_and_stay_where_nothing_changed(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/README.md").write_text("all\n")
    module = pages(tmp_path / "experiments", monkeypatch)
    results = tmp_path / "docs/results"
    results.mkdir()
    (results / "gone.md").write_text("old\n")
    module.write(None)
    before = (results / "claims.md").stat().st_mtime_ns
    module.write(None)
    assert [page.name for page in results.iterdir()] == ["claims.md"]
    assert (results / "claims.md").stat().st_mtime_ns == before
