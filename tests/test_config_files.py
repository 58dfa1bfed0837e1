"""Config files by path and by name, and what they import."""

import sys
from pathlib import Path

import pytest

from pvt_jax import config as config_lib
from pvt_jax import config_files
from pvt_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
OWN = "from configs.{module} import {name}\n\n\ndef get_config(arg=''):\n    return {{'seed': {value}}}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_a_config_that_comes_with_pvt_jax():
    assert config_lib.load("pvt_medium").to_dict() == config_lib.load(f"{ROOT}/configs/pvt_medium.py").to_dict()
    assert config_lib.load("pvt_v2:b2_li").model.name == "pvt_v2_b2_li"
    assert config_files.find("digits") == config_files.ConfigFile(ROOT / "configs/digits.py", "", "digits")


def test_a_file_of_that_name_comes_first(elsewhere):
    (elsewhere / "digits").mkdir()
    assert config_files.find("digits").path == ROOT / "configs/digits.py"
    (elsewhere / "pvt_tiny").write_text("")
    assert config_files.find("pvt_tiny:x") == config_files.ConfigFile(Path("pvt_tiny"), "x")


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            "pvt_medum",
            r"^no config 'pvt_medum' \(did you mean 'pvt_medium'\?\); a config file of your own is given by ",
        ),
        ("common", r"^no config 'common': those that come with pvt_jax are cifar10, .*, vit; .* as \./common\.py$"),
        ("my/pvt_tiny.py", "^no config file my/pvt_tiny.py: --config pvt_tiny takes the one that comes with pvt_jax$"),
        ("resnet:17", "^resnet knows no '17': give one of 18, 34, 50, 101, as --config resnet:18$"),
        ("gs://a/b", "^the config file gs://a/b is in a bucket, and a path on this machine is needed here: copy it "),
    ],
)
def test_what_is_not_there_is_told_with_the_way_out(spec, line):
    with pytest.raises(UserError, match=line):
        config_lib.load(spec)


@pytest.mark.parametrize("folder", [".", "configs"])
def test_a_copied_config_finds_the_recipes(folder, elsewhere):
    """Beside no ``common.py`` of its own, and in a folder of any name."""
    place = elsewhere / folder / "mine.py"
    place.parent.mkdir(exist_ok=True)
    place.write_text((ROOT / "configs/pvt_small.py").read_text())
    assert config_lib.load(f"{folder}/mine.py").model.name == "pvt_small"


def test_files_beside_a_config_come_before_those_of_pvt_jax(elsewhere):
    folder = elsewhere / "configs"
    folder.mkdir()
    (folder / "common.py").write_text("VALUE = 7\n")
    (folder / "mine.py").write_text(OWN.format(module="common", name="VALUE", value="VALUE"))
    assert config_lib.load("configs/mine.py").seed == 7
    # Read anew each time, and nothing stays behind, as a notebook needs it.
    (folder / "common.py").write_text("VALUE = 88\n")
    before = {name for name in sys.modules if name.startswith("configs")}, list(sys.path)
    assert config_lib.load("configs/mine.py").seed == 88
    assert ({name for name in sys.modules if name.startswith("configs")}, list(sys.path)) == before
    assert config_lib.load("pvt_tiny").batch_size == 1024


def test_the_package_is_never_searched(elsewhere, monkeypatch):
    """An installed config stands in a folder of the package, whose modules would hide Python's own."""
    monkeypatch.setattr(config_files, "_PACKAGE", elsewhere)
    (elsewhere / "configs").mkdir()
    (elsewhere / "trace.py").write_text("raise RuntimeError('not this one')\n")
    (elsewhere / "configs" / "it.py").write_text(
        "import trace\n\n\ndef get_config():\n    import trace\n\n    return {'seed': len(trace.__name__)}\n"
    )
    monkeypatch.delitem(sys.modules, "trace", raising=False)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert config_files.names() == ["it"]
    assert config_lib.load("it").seed == 5
