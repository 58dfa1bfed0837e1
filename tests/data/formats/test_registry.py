"""The registry of formats: every row names functions that are there, and a task may bring a table of its own."""

import pytest

from pvt_jax.data.formats import FORMATS, Format, load, open_source
from pvt_jax.data.formats.layouts import SPLIT_NAMES, Layout, Tree, find_layout
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError

FUNCTIONS = [name for row in FORMATS.values() for name in (*row.openers.values(), row.class_names) if name]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_there(function):
    assert callable(load(function))


def open_depth(request: Request) -> str:
    return f"{request.split} of {request.root}"


def test_records_of_another_kind(monkeypatch):
    """A task opens records that no format here has, without a change to the registry."""
    monkeypatch.setattr("pvt_jax.data.formats.load", lambda function: {"depth:open_depth": open_depth}[function])
    table = {"depth_folder": Format({"depth maps": "depth:open_depth"})}
    assert open_source("depth maps", "depth_folder", Request("eval", root="x"), table) == "eval of x"
    with pytest.raises(
        UserError, match=r"unknown source 'depth_folders' of depth maps \(did you mean 'depth_folder'\?\)"
    ):
        open_source("depth maps", "depth_folders", Request("eval"), table)


def test_layouts_of_another_kind(tmp_path):
    for folder in ("rgb/train", "depth/train", "RGB/val", "Depth/val"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    layouts = (Layout("rgb|color/{split}", "depth|disparity/{split}"),)
    found = find_layout(Tree(str(tmp_path)), layouts, SPLIT_NAMES["train"])
    assert found and found.split == "train" and found[0] == str(tmp_path / "rgb/train")
    assert find_layout(Tree(str(tmp_path)), layouts, ("test",)) is None
