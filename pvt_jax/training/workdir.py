"""The folder of a run: its config, metrics and checkpoints."""

import json
import os
from pathlib import Path

import jax

from pvt_jax import config as config_lib
from pvt_jax.config import Config
from pvt_jax.errors import UserError


def check(workdir: Path, config: Config, only: tuple[str, ...] = ("",)) -> None:
    """Raise UserError if the folder holds the checkpoints of another config; the differences are named.

    ``only`` limits the comparison to keys with these beginnings.
    """
    folder = workdir / "checkpoints"
    try:
        if not (folder.is_dir() and any(folder.iterdir())):
            return
    except OSError as error:
        raise UserError(f"cannot read the workdir {workdir}: {error.strerror}. Choose another --workdir") from error
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} has checkpoints but no config.json: restore that file, or use another --workdir")
    lines = config_lib.differences(read_config(workdir), json.loads(config_lib.to_json(config)))
    lines = [line for line in lines if line.startswith(only)]
    if lines:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(lines)}): "
            "use another --workdir, or the config of that run"
        )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved something here; whether it is sound shows when it is restored."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def create(workdir: Path, config: Config) -> None:
    """Make the folder and write ``config.json``. Raises UserError if it cannot be written."""
    if jax.process_index() != 0:
        return
    path, text = workdir / "config.json", config_lib.to_json(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = workdir / "config.json.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write to the workdir {workdir}: {error.strerror}. Choose another --workdir") from error


def read_config(workdir: Path) -> dict:
    """The config that the run in ``workdir`` was started with, as plain dicts."""
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no config.json in {workdir}: this is not the --workdir of a run") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
