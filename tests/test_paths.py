"""Paths that people write, wherever they write them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax import config as config_lib
from pvt_jax import convert, load_variables, main, paths, prepare
from pvt_jax.errors import UserError
from pvt_jax.training import loop
from tests.helpers.command import ROOT

DIGITS = str(ROOT / "configs" / "digits.py")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, from another one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# Neither "~" nor ":" nor "/".
names = st.text(st.characters(codec="utf-8", exclude_characters="~:/\0"), min_size=1, max_size=6)


@settings(max_examples=30)
@given(parts=st.lists(names, min_size=1, max_size=3), colon=st.booleans())
def test_other_paths_stay_as_they_are(parts, colon):
    path = "/".join(parts) + ":" * colon
    for start in ("", "/", "./", "../", "./~", "C:/"):
        assert paths.local(start + path, "it") == start + path
    assert paths.local(Path(path), "it") == str(Path(path))


@settings(max_examples=30)
@given(scheme=st.from_regex(r"[a-zA-Z][a-zA-Z0-9+.-]{1,5}", fullmatch=True), rest=names)
def test_urls_are_refused_also_as_a_path(scheme, rest):
    for url in (f"{scheme}://{rest}", Path(f"{scheme}://{rest}/x")):
        with pytest.raises(UserError) as error:
            paths.local(url, "--workdir")
        assert str(error.value) == (
            f"--workdir {url} is a URL, and buckets and other URLs are not supported: mount or download it, and give "
            "the path on this machine"
        )


def test_home_in_flags_and_keys(home, tmp_path):
    flags = main.parse(["--config", DIGITS, "--workdir=~/runs/mine"])
    assert flags.workdir == home / "runs" / "mine"
    flags = convert.parse(["~/a.pth", "~/b.safetensors"])
    assert (flags.source, flags.destination) == (home / "a.pth", home / "b.safetensors")
    keys = ("data.root", "init.checkpoint")
    config = config_lib.load(DIGITS, [f"{key}=~/x" for key in keys])
    assert [config_lib.get(config, key) for key in keys] == [str(home / "x")] * 2
    # In Python a key may be set without being checked.
    config.data.root = "~/y"
    assert config_lib.read(config).data.root == str(home / "y")
    chosen = {"task": "detection", "detection": {"annotations": "~/a.json", "image_folder": "~"}}
    assert config_lib.resolve(chosen).detection.annotations == str(home / "a.json")
    assert config_lib.resolve(chosen).detection.image_folder == str(home)
    assert list((tmp_path / "here").iterdir()) == []


COMMANDS = [
    (main, ["--config", DIGITS, "--workdir=gs://b/x"], "--workdir gs://b/x"),
    (main, ["--config", DIGITS, "--workdir=w", "--config.data.root=gs://b/x"], "data.root gs://b/x"),
    (main, ["--config", DIGITS, "--workdir=w", "--config.init.checkpoint=gs://b/x"], "init.checkpoint gs://b/x"),
    (main, ["--config", f"{ROOT}/configs/folder.py:gs://b/x", "--workdir=w"], "data.root gs://b/x"),
    (main, ["--config", "gs://b/x", "--workdir=w"], "the config file gs://b/x"),
    (convert, ["gs://b/x", "w"], "SRC gs://b/x"),
    (convert, ["w", "gs://b/x"], "DST gs://b/x"),
    (prepare, ["cifar10", "--data_dir=gs://b/x"], "--data_dir gs://b/x"),
]


@pytest.mark.parametrize(("command", "flags", "named"), COMMANDS, ids=[named for _, _, named in COMMANDS])
def test_a_bucket_is_one_line_before_anything_is_written(command, flags, named, home, tmp_path, capfd):
    assert command.main(flags) == 2
    assert capfd.readouterr().err == (
        f"error: {named} is a URL, and buckets and other URLs are not supported: mount or download it, and give the "
        "path on this machine\n"
    )
    assert list((tmp_path / "here").iterdir()) == []


def test_a_bucket_in_python(home, tmp_path):
    config = config_lib.load(DIGITS)
    for call in (
        lambda: loop.train(config, "gs://b/x"),
        lambda: loop.evaluate(config, Path("gs://b/x")),
        lambda: load_variables("gs://b/x", None),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(UserError, match="gs:/+b/x is a URL"):
            call()
    assert list((tmp_path / "here").iterdir()) == []
