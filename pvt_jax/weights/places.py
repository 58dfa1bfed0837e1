"""Where weights are: on this machine, or in a bucket or on the Hugging Face hub, from where they are fetched once."""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.weights.files import IN_FOLDER
from pvt_jax.weights.known import cache_folder
from pvt_jax.weights.torch_file import expanded

# What a folder of weights holds besides them.
_BESIDE = ("config.json", "data.json", "preprocessor_config.json")
# The one item of a checkpoint that only a run that goes on needs; it is as large as all others together.
_NOT_NEEDED = "opt_state"
_CHUNK = 2**22
_HUB_FORM = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")


def located(path: str | Path, step: str = "latest") -> Path:
    """The weights that ``path`` names, on this machine; ``~`` is the home folder.

    What is in a bucket is kept in the cache of ``known.cache_folder``, and fetched anew when it has changed; what is on
    the hub is where the hub's own package keeps it. A process asks once.

    Raises UserError: they cannot be fetched, or a package that fetches them is not installed.

    Args:
      path: a path, ``gs://…`` or ``s3://…`` of a file, a run or a folder of a model, or
        ``hf://USER/REPO@REVISION/FILE``, of which revision and file may be left out.
      step: of a run in a bucket the checkpoint that is wanted, ``"latest"`` or a number; ``"all"`` gives the workdir.
    """
    kind = paths.scheme(path)
    if not kind:
        return expanded(path)
    text = paths.weights(path, "the weights")
    return _of_hub(text) if kind == "hf" else _of_bucket(text.rstrip("/"), step)


# Buckets.


@cache
def _of_bucket(text: str, step: str) -> Path:
    place = paths.place(text, "the weights")
    kept = cache_folder() / "buckets" / text.replace("://", "/")
    try:
        with paths.bucket_errors():
            if not place.is_dir():
                if not place.exists():
                    raise UserError(f"there is no {text}: check its name")
                _fetch(place, kept)
                return kept
            names = {entry.name for entry in place.iterdir()}
            if wanted := _wanted(names, lambda name: _read(place / name)):
                _fetch_all(place, kept, wanted)
                return kept
            return _checkpoint(place, kept, step)
    except OSError as error:
        raise UserError(
            f"cannot fetch {text} ({error.strerror or error}): run it again to go on, or copy it"
        ) from error


def _checkpoint(place: Path, kept: Path, step: str) -> Path:
    """The checkpoint of a run, which ``place`` names by itself, its checkpoints or a step."""
    if (place / "params").is_dir() or (place / "ema_params").is_dir():
        place, kept, step, given = place.parent.parent, kept.parent.parent, place.name, kept
    else:
        if place.name == "checkpoints":
            place, kept = place.parent, kept.parent
        given = None
    store = place / "checkpoints"
    names = [entry.name for entry in store.iterdir()] if store.is_dir() else []
    # Orbax writes this last. What has no number is half written, or of others.
    whole = [name for name in names if name.isdigit() and (store / name / "commit_success.txt").exists()]
    steps = sorted(whole, key=int)
    if not steps:
        raise UserError(f"no weights in {place}: it has neither checkpoints of a run nor {IN_FOLDER[0]}")
    chosen = {"latest": steps[-1:], "all": steps}.get(step, [name for name in steps if name == step])
    if not chosen:
        raise UserError(f"no checkpoint of step {step} in {place}: there are {', '.join(steps)}")
    _fetch_all(place, kept, [name for name in (*_BESIDE, "metrics.jsonl") if (place / name).exists()])
    local = kept / "checkpoints"
    for folder in local.iterdir() if local.is_dir() else ():
        if folder.name not in steps:
            shutil.rmtree(folder, ignore_errors=True)
    for name in chosen:
        for inside in paths.files_below(store / name, _NOT_NEEDED):
            _fetch(store / name / inside, local / name / inside)
    return kept if step == "all" else given or local / chosen[0]


def _fetch_all(place: Path, kept: Path, names: Sequence[str]) -> None:
    for name in names:
        _fetch(place / name, kept / name)


def _fetch(source: Path, kept: Path) -> None:
    """Have the file at ``kept`` as it is at ``source``. An interrupted fetch is continued."""
    version, note = paths.version(source), kept.with_name(f".{kept.name}.version")
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f".{kept.name}.part")
    # Several processes of a run may want the same file.
    with note.open("a+", encoding="utf-8") as noted:
        fcntl.flock(noted, fcntl.LOCK_EX)
        noted.seek(0)
        before = noted.read()
        if before == version and kept.is_file():
            return
        if before != f"part of {version}":
            part.unlink(missing_ok=True)
            _note(noted, f"part of {version}")
        with (
            paths.waiting(f"fetching {source} into {kept.parent}"),
            source.open("rb") as remote,
            part.open("ab") as file,
        ):
            if done := file.tell():
                remote.seek(done)
            while chunk := remote.read(_CHUNK):
                file.write(chunk)
        os.replace(part, kept)
        _note(noted, version)


def _note(file: Any, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _read(path: Path) -> bytes:
    return path.read_bytes()


# What to fetch of a folder of a model.


def _wanted(names: set[str], read: Any) -> list[str]:
    """The files of a folder that are needed: its weights, as ``files.read_weights`` chooses them, and what is beside.

    Empty if there are no weights. ``read`` gives the bytes of a file by its name.
    """
    first = next((name for name in IN_FOLDER if name in names), None)
    if first is None:
        return []
    wanted = [*(name for name in _BESIDE if name in names), first]
    if first.endswith(".index.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            parts = set(json.loads(read(first))["weight_map"].values())
            wanted += sorted(part for part in parts if part in names)
    return wanted


# The Hugging Face hub.


class _OnHub(NamedTuple):
    repository: str
    revision: str | None
    file: str


def _parsed(text: str) -> _OnHub:
    found = _HUB_FORM.fullmatch(text.rstrip("/"))
    if found is None:
        raise UserError(f"{text} is not of the form hf://USER/REPO, hf://USER/REPO@REVISION or hf://USER/REPO/FILE")
    return _OnHub(found[1], found[2], found[3] or "")


@cache
def _of_hub(text: str) -> Path:
    asked = _parsed(text)
    paths.check_package("huggingface_hub", text)
    import huggingface_hub
    from huggingface_hub import errors

    where = {"repo_id": asked.repository, "revision": asked.revision}
    try:
        with paths.waiting(f"fetching {text}"):
            if asked.file:
                return Path(huggingface_hub.hf_hub_download(filename=asked.file, **where))
            try:
                names = set(huggingface_hub.HfApi().list_repo_files(**where))
            except OSError as error:
                # What was refused stays so; what was fetched while there was a network is still there.
                if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
                    raise
                return _fetched_before(asked)
            wanted = _wanted(names, lambda name: _read(Path(huggingface_hub.hf_hub_download(filename=name, **where))))
            if not wanted:
                raise UserError(
                    f"no weights in {text}: it has neither {' nor '.join(IN_FOLDER[::2])}; name a file, as {text}/FILE"
                )
            return Path(huggingface_hub.snapshot_download(allow_patterns=wanted, **where))
    except Exception as error:
        if (reason := _hub_refusal(error, asked)) is None:
            raise
        raise UserError(f"cannot fetch {text}: {reason}") from error


def _fetched_before(asked: _OnHub) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    for name in IN_FOLDER:
        found = huggingface_hub.try_to_load_from_cache(asked.repository, name, revision=asked.revision or "main")
        if isinstance(found, str):
            return Path(found).parent
    raise errors.LocalEntryNotFoundError("the hub cannot be reached")


def _hub_refusal(error: Exception, asked: _OnHub) -> str | None:
    """What is wrong and what to do, for what the hub's package raises; None for errors of others."""
    from huggingface_hub import errors

    token = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return f"{asked.repository} asks for consent: give it on https://huggingface.co/{asked.repository}, and {token}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no {asked.repository}, or it is private: check its name, and if it is private {token}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{asked.repository} has no revision {asked.revision}: give a branch, a tag or a commit"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "the hub cannot be reached, and it was not fetched before: check the network, and HF_HUB_OFFLINE"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{asked.repository} has no file {asked.file}: check its name"
    if isinstance(error, errors.HFValidationError):
        return f"the hub has no names like {asked.repository}: give hf://USER/REPO"
    if isinstance(error, errors.HfHubHTTPError) and getattr(error.response, "status_code", 0) in (401, 403):
        return f"access is refused: {token}"
    if isinstance(error, OSError):
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return f"{text}: check the network, or try again later"
    return None
