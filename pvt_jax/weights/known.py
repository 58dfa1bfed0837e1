"""Published weights: downloaded by name, checked and cached.

The rows, with source and licence, are those of the families and heads: classifiers trained on ImageNet-1k, and heads
trained on ADE20K or COCO. The PVT authors' own detectors are on drives without plain downloads; those here are
mmdetection's. Nothing is downloaded before its name is asked for. A row has a hash if the publisher states it (on the
pages of Hugging Face; at the end of a file name, which by the convention of PyTorch and mmdetection begins its SHA-256)
or if unrelated public projects that pinned the file recorded the same one. Files without a hash are checked by length.
"""

import contextlib
import difflib
import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pvt_jax.backbones import FAMILIES
from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.weight_names import PublishedWeights
from pvt_jax.weights.torch_file import expanded, open_file

log = logging.getLogger("pvt_jax")

_CHUNK = 2**20


KNOWN: dict[str, PublishedWeights] = {
    name: row for owner in (*FAMILIES.values(), *HEADS.values()) for name, row in owner.weights.published.items()
}


def cache_folder() -> Path:
    """Where downloads are kept: $PVT_JAX_CACHE, else pvt_jax in $XDG_CACHE_HOME, else ~/.cache/pvt_jax."""
    if own := os.environ.get("PVT_JAX_CACHE"):
        return expanded(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return expanded(shared) / "pvt_jax"
    return expanded("~/.cache/pvt_jax")


def fetch_known(name: str, *, timeout: float = 60.0) -> Path:
    """The cached file of the weights ``name`` of ``KNOWN``, downloaded if it is missing or not as published.

    A file gets its final name only when it is whole and checked, even if several processes want it at once. The licence
    is logged with the download.

    Args:
      name: a key of ``KNOWN``.
      timeout: seconds to wait for the server.

    Raises:
      UserError: no such name, no network, no such file there, or a file that is not the published one.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, 1, 0.0)[0]
        raise UserError(f"unknown weights {name!r}: did you mean {near!r}? Known weights: {', '.join(KNOWN)}")
    known = KNOWN[name]
    suffix = PurePosixPath(urllib.parse.urlsplit(known.url).path).suffix
    path = cache_folder() / f"{name.replace('/', '_')}{suffix}"
    if path.is_file():
        problem = _difference(known, *_measure(path))
        if not problem:
            return path
        log.warning("%s is not the published file (%s) and is downloaded again", path, problem)
    log.log(
        logging.WARNING if known.non_commercial else logging.INFO,
        *("downloading the weights %s from %s (%s); licence: %s", name, known.url, known.source, known.licence),
    )
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        size, sha256 = _download(name, known, path, temporary, timeout)
        if problem := _difference(known, size, sha256):
            raise UserError(
                f"what {known.url} sent is not the published {name} ({problem}) and was removed: try again later, and "
                "if this persists, do not trust the file"
            )
        with _writing(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _difference(known: PublishedWeights, size: int, sha256: str) -> str:
    """How a file differs from the published one; empty if it does not."""
    if known.size is not None and size != known.size:
        return f"expected {known.size:,} bytes, found {size:,}"
    if known.sha256 is not None and not sha256.startswith(known.sha256):
        return f"expected SHA-256 {known.sha256}, found {sha256[: len(known.sha256)]}"
    return ""


def _measure(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return file.tell(), digest.hexdigest()


def _download(name: str, known: PublishedWeights, path: Path, temporary: Path, timeout: float) -> tuple[int, str]:
    """Length and hash of what was written to ``temporary``."""
    digest, size = hashlib.sha256(), 0
    with _writing(path), temporary.open("wb") as file:
        for chunk in _receive(name, known, path, timeout):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return size, digest.hexdigest()


def _receive(name: str, known: PublishedWeights, path: Path, timeout: float) -> Iterator[bytes]:
    """All chunks that the server sends; failures are UserErrors."""
    by_hand = f"run it again, download it yourself to {path}, or give the path of the file itself"
    request = urllib.request.Request(known.url, headers={"User-Agent": "pvt_jax"})
    size = 0
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            promised = response.headers.get("Content-Length", "")
            total = int(promised) if promised.isdigit() else known.size
            for chunk in _with_progress(response, name, total):
                size += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        raise UserError(f"{known.url} answers {error.code} {error.reason} for the weights {name}: {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download the weights {name} from {known.url} ({reason}): {by_hand}") from error
    if total is not None and size < total:
        raise UserError(f"the download of {name} from {known.url} broke off at {size:,} of {total:,} bytes: {by_hand}")


def _with_progress(response: BinaryIO | Any, name: str, total: int | None) -> Iterator[bytes]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(name, total=total)
        while chunk := response.read(_CHUNK):
            progress.advance(task, len(chunk))
            yield chunk


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Make room or fix the permission, or set PVT_JAX_CACHE to "
            "another folder"
        ) from error
