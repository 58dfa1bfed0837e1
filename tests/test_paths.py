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
        told = f"{scheme.lower()}://{str(url).partition(':')[2].lstrip('/')}"
        assert str(error.value) == (
            f"--workdir {told} is a URL, which is not supported here: download it, and give the path on this machine"
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


def needs_a_copy(named, url):
    return (
        f"error: {named} {url} is in a bucket, and a path on this machine is needed here: copy it (gcloud storage cp "
        f"-r {url} FOLDER) or mount the bucket (gcsfuse), and give that path\n"
    )


GS = "gs://b/x"
COMMANDS = [
    (main, ["--config", DIGITS, f"--workdir={GS}"], f"error: --workdir {GS} needs the package gcsfs: pip install"),
    (main, ["--config", DIGITS, "--workdir=s3://b/x"], "error: --workdir s3://b/x: Orbax writes no checkpoints to S3"),
    (main, ["--config", DIGITS, "--workdir=w", f"--config.init.checkpoint={GS}"], f"error: the weights {GS} needs the"),
    (main, ["--config", f"{ROOT}/configs/folder.py:{GS}", "--workdir=w"], needs_a_copy("data.root", GS)),
    (
        main,
        ["--config", f"{ROOT}/configs/folder.py:s3://b/x", "--workdir=w"],
        "error: data.root s3://b/x is in a bucket",
    ),
    (main, ["--config", DIGITS, "--workdir=w", f"--config.data.root={GS}"], needs_a_copy("data.root", GS)),
    (main, ["--config", GS, "--workdir=w"], needs_a_copy("the config file", GS)),
    (convert, [GS, "w"], f"error: the weights {GS} needs the package gcsfs: pip install gcsfs\n"),
    (convert, ["hf://a/b", "w"], "error: hf://a/b needs the package huggingface_hub: pip install huggingface_hub\n"),
    (convert, ["hf:/a", "w"], "error: hf://a is not of the form hf://USER/REPO"),
    (convert, ["w", GS], needs_a_copy("DST", GS)),
    (prepare, ["cifar10", f"--data_dir={GS}"], needs_a_copy("--data_dir", GS)),
]


@pytest.mark.parametrize(("command", "flags", "line"), COMMANDS, ids=[line[7:35] for _, _, line in COMMANDS])
def test_a_bucket_is_one_line_before_anything_is_written(command, flags, line, home, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(paths, "_is_missing", lambda package: True)
    assert command.main(flags) == 2
    err = capfd.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1
    assert list((tmp_path / "here").iterdir()) == []


def test_a_bucket_in_python(home, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_is_missing", lambda package: True)
    config = config_lib.load(DIGITS)
    for call in (
        lambda: loop.train(config, GS),
        lambda: loop.evaluate(config, Path(GS)),
        lambda: load_variables(GS, None),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(UserError, match="gs://b/x needs the package gcsfs: pip install gcsfs"):
            call()
    assert list((tmp_path / "here").iterdir()) == []
