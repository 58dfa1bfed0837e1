"""The folder of a run: its config, its data in words, metrics and checkpoints."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pvt_jax import config as config_lib
from pvt_jax import paths
from pvt_jax.config import Config
from pvt_jax.data.description import DataDescription
from pvt_jax.errors import UserError
from pvt_jax.messages import escaped_name, listed
from pvt_jax.training.history import DATA, SUMMARY, read_config, read_data
from pvt_jax.training.resume import Past
from pvt_jax.weights.files import read_metadata
from pvt_jax.weights.places import located

# The images that data.holdout keeps for evaluation.
HELD_OUT = "held_out.txt"
# What --extend changes.
_LENGTH = ("steps:", "epochs:")


def check(workdir: Path, config: Config, only: tuple[str, ...] = ("",), *, extend: bool = False) -> None:
    """Raise UserError if the folder holds the checkpoints of another config; the differences are named.

    ``only`` limits the comparison to keys with these beginnings; with ``extend`` the length may differ.
    """
    folder = workdir / "checkpoints"
    try:
        with paths.bucket_errors() if paths.is_bucket(workdir) else contextlib.nullcontext():
            is_empty = not (folder.is_dir() and any(folder.iterdir()))
        if is_empty:
            return
    except OSError as error:
        raise UserError(f"cannot read the workdir {workdir}: {error.strerror}. Choose another --workdir") from error
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} has checkpoints but no config.json: restore that file, or use another --workdir")
    saved = read_config(workdir)
    if "optimizer" not in saved:
        raise UserError(
            f"{workdir} holds weights alone, as convert writes them, and no run: give "
            f"--config.init.checkpoint={workdir} and another --workdir"
        )
    lines = config_lib.differences(saved, json.loads(config_lib.to_json(config)))
    lines = [line for line in lines if line.startswith(only)]
    others = [line for line in lines if not line.startswith(_LENGTH)]
    if lines and not others and not extend:
        raise UserError(
            f"{workdir} holds a run of another length ({'; '.join(lines)}): add --extend to train it for longer, with "
            "the schedule of the new length, or give its length, or another --workdir"
        )
    if others:
        data = read_data(workdir) if any(line.startswith("model.num_classes:") for line in others) else None
        classes = f"; its classes are {listed([*map(escaped_name, data.class_names)])}" if data else ""
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(lines)}){classes}: "
            "use another --workdir, or the config of that run"
        )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved something here; whether it is sound shows when it is restored."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def create(workdir: Path, config: Config, data: DataDescription | None = None, held_out: Sequence[str] = ()) -> None:
    """Make the folder and write ``config.json``, and if given ``data.json`` and ``held_out.txt``, a path a line.

    Raises UserError if it cannot be done.
    """
    make(workdir)
    _write(workdir, "config.json", config_lib.to_json(config))
    if data is not None:
        _write(workdir, DATA, data.to_json())
    if held_out:
        _write(workdir, HELD_OUT, "".join(f"{path}\n" for path in held_out))


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``. Raises UserError if it cannot be done."""
    _write(workdir, SUMMARY, json.dumps(summary, indent=2) + "\n")


def make(workdir: Path) -> None:
    """Make the folder. Raises UserError if it cannot be made."""
    with _storage_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)


def past(workdir: Path) -> Past | None:
    """What the run in ``workdir`` was when it last started; None before its first checkpoint."""
    return Past(workdir, read_config(workdir), read_data(workdir)) if has_checkpoint(workdir) else None


def folder_of(checkpoint: str | Path, holds: str = "config.json") -> Path | None:
    """The workdir, with a file ``holds``, that a path names by itself, its checkpoints or a step; else None."""
    path = located(checkpoint)
    folders = {
        path: True,
        path.parent: path.name == "checkpoints",
        path.parent.parent: path.parent.name == "checkpoints",
    }
    return next((folder for folder, may_be in folders.items() if may_be and (folder / holds).is_file()), None)


def data_of_weights(checkpoint: str | Path) -> DataDescription | None:
    """The classes of a source of weights, as ``init.checkpoint`` names one; None if it does not tell them.

    They are those of ``read_data`` of a workdir, which may be named by itself, its checkpoints or a step; or what
    ``convert`` wrote into a ``.safetensors`` file, whose splits and format are not known. Raises UserError: the file
    that tells them is damaged.
    """
    if folder := folder_of(checkpoint, DATA):
        return read_data(folder)
    path = located(checkpoint)
    file = path / "model.safetensors" if path.is_dir() else path
    return DataDescription.from_metadata(read_metadata(file)) if file.is_file() else None


def _write(workdir: Path, name: str, text: str) -> None:
    """A file is there whole or not at all."""
    with _storage_errors(workdir):
        paths.write_whole(workdir / name, text.encode())


@contextlib.contextmanager
def _storage_errors(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to the workdir {workdir}: {error.strerror}. Choose another --workdir") from error
