"""The folder of a run: its config, metrics and checkpoints."""

import json
import os
from pathlib import Path

import jax

from pvt_jax import config as config_lib
from pvt_jax.config import Config
from pvt_jax.errors import UserError


def open_for_training(workdir: Path, config: Config) -> None:
    """Create the folder with ``config.json``, or check that it belongs to this config.

    Raises:
      UserError: it holds the run of another config (the differences are named), or cannot be written.
    """
    path = workdir / "config.json"
    text = config_lib.to_json(config)
    if path.exists():
        lines = config_lib.differences(read_config(workdir), json.loads(text))
        if lines:
            raise UserError(
                f"{workdir} holds a run of another config ({'; '.join(lines)}): "
                "use another --workdir, or the config of that run"
            )
    elif (workdir / "checkpoints").is_dir() and any((workdir / "checkpoints").iterdir()):
        raise UserError(f"{workdir} has checkpoints but no config.json: restore that file, or use another --workdir")
    if jax.process_index() != 0:
        return
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
