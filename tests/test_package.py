"""What a wheel holds, the one command that calls all others, and both at work away from a checkout."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from pvt_jax import __main__ as package
from pvt_jax import __version__, commands, config_files

ROOT = Path(__file__).resolve().parents[1]
# The wheel, made without pip, which would ask a network for setuptools.
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"
# Run away from the checkout, beside a folder of configs that is none of ours: what it finds, as JSON.
ELSEWHERE = """
import json, sys
from pvt_jax import __main__ as package, commands, config, config_files
found = {name: config.load(spec).model.name for name, spec in {"digits": "digits", "b2": "pvt_v2:b2"}.items()}
sys.argv[:] = ["pvt_jax", "trian"]
codes = [package.main()]
sys.argv[:] = ["pvt_jax", "train", "--config", "mit:b7", "--workdir", "w"]
codes.append(package.main())
folders = [path for path in sys.path if path.endswith("pvt_jax")]
jax = sorted({"jax", "flax"} & set(sys.modules))
print(json.dumps({"found": found, "codes": codes, "names": config_files.names(), "folders": folders, "jax": jax}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from links to what is in the checkout, so that no earlier build takes part."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in ROOT.iterdir():
        if path.name not in ("build", "dist", "runs") and not path.name.startswith(".") and path.suffix != ".egg-info":
            (folder / path.name).symlink_to(path)
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    (file,) = (folder / "dist").glob("pvt_jax-*.whl")
    return file


def test_a_wheel_has_all_modules_and_configs_and_nothing_else(wheel):
    files = {path for path in (ROOT / "pvt_jax").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {f"pvt_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    found = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in found if ".dist-info/" not in name) == sorted(expected)


def test_a_wheel_says_what_it_is(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    (folder,) = tmp_path.glob("*.dist-info")
    distribution = PathDistribution(folder)
    (command,) = distribution.entry_points
    assert (command.group, command.name, command.load()) == ("console_scripts", "pvt_jax", package.start)
    assert distribution.version == __version__ and distribution.metadata["License-Expression"] == "Apache-2.0"
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    needed = [text for text in distribution.requires or () if "extra ==" not in text]
    assert len(needed) == len(list(filter(None, lines)))


def test_an_installed_package_finds_its_configs(wheel, tmp_path):
    """In a folder with another package ``configs``; a mistyped word is answered without jax."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "here" / "configs").mkdir(parents=True)
    (tmp_path / "here" / "configs" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert said["names"] == config_files.names() and "pvt_medium" in said["names"] and "common" not in said["names"]
    assert said["found"] == {"digits": "pvt_tiny", "b2": "pvt_v2_b2"} and said["codes"] == [2, 2]
    assert said["jax"] == said["folders"] == []
    # Its own name, not the path that it has in a checkout.
    unknown, size = done.stderr.splitlines()
    assert unknown.startswith("error: no command 'trian' (did you mean 'train'?): the commands are train, eval, ")
    assert size == "error: mit knows no 'b7': give one of b0, b1, b2, b3, b4, b5, as --config mit:b0"


def call(monkeypatch, *words, start="/usr/bin/pvt_jax"):
    monkeypatch.setattr(sys, "argv", [start, *words])
    return package.main()


def test_every_command_has_a_row():
    modules = [path for path in (ROOT / "pvt_jax").glob("[a-z]*.py") if "\nif __name__ ==" in path.read_text()]
    assert {f"pvt_jax.{path.stem}" for path in modules} == {row.module for row in package.COMMANDS.values()}


@pytest.mark.parametrize("name", package.COMMANDS)
def test_a_command_starts_with_huge_pages_as_its_module_does(name, monkeypatch):
    calls = []
    monkeypatch.setattr(package, "restart_with_huge_pages", lambda: calls.append("restart"))
    monkeypatch.setattr(package, "main", lambda: calls.append("main") or 0)
    monkeypatch.setattr(sys, "argv", ["pvt_jax", name, "--help"])
    assert package.start() == 0
    of_module = (ROOT / f"{package.COMMANDS[name].module.replace('.', '/')}.py").read_text("utf-8")
    restarts = "    restart_with_huge_pages()\n" in of_module.partition('if __name__ == "__main__":')[2]
    assert calls == (["restart", "main"] if restarts else ["main"])


@pytest.mark.parametrize("name", package.COMMANDS)
def test_a_command_knows_how_it_was_called(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, name, "--help")
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith(f"usage: pvt_jax {name} ")
    assert call(monkeypatch, name, "--no_such_flag", start="/somewhere/pvt_jax/__main__.py") == 2
    assert capsys.readouterr().err.endswith(f"(see python -m pvt_jax {name} --help)\n")


def test_help_and_version(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == call(monkeypatch, "--version") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(package.COMMANDS)
    assert lines[-1] == f"pvt_jax {__version__}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "which command?: the commands are train, eval, "),
        (["predicts"], "no command 'predicts'"),
        (["eval", "--mode=train"], "pvt_jax eval takes no --mode: leave it out, or call pvt_jax train\n"),
        (["train", "--config", "digts", "--workdir", "w"], "no config 'digts' (did you mean 'digits'?); a config file"),
    ],
    ids=["nothing", "unknown", "settled", "config"],
)
def test_wrong_words_are_one_line(words, line, monkeypatch, capsys):
    assert call(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {line}") and err.count("\n") == 1


def test_eval_evaluates(monkeypatch):
    seen = []
    monkeypatch.setattr(commands, "run", lambda command, arguments: seen.append(sys.argv[1:]) or 143)
    monkeypatch.setattr(sys, "argv", ["pvt_jax"])
    assert package.run(["eval", "--workdir", "w"]) == 143
    assert seen == [["--mode", "eval", "--workdir", "w"]]
