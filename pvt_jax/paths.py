"""Paths that people write, in flags, in keys of a config, in calls: on this machine, or in a bucket.

A folder in a bucket is a path of ``etils.epath``, which reads and lists like a ``pathlib.Path``. What a bucket cannot
do, as appending, renaming and locking, is done by whoever needs it: ``write_whole`` here, ``training/mirror.py`` and
``training/lock.py``.
"""

import contextlib
import errno
import importlib.util
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from pvt_jax import messages
from pvt_jax.errors import UserError

if TYPE_CHECKING:
    from etils import epath

# A letter alone is a drive of Windows. A path loses the second slash when it becomes a Path.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)


class _Service(NamedTuple):
    """A kind of bucket: the packages that reach it, the first of which TensorFlow replaces; the commands that log in,
    copy a folder to this machine, and mount a bucket."""

    packages: tuple[str, ...]
    login: str
    copy: str
    mount: str


_SERVICES = {
    "gs": _Service(
        ("gcsfs", "google.cloud.storage"),
        "gcloud auth application-default login",
        "gcloud storage cp -r {} FOLDER",
        "gcsfuse",
    ),
    "s3": _Service(("s3fs",), "aws configure", "aws s3 cp --recursive {} FOLDER", "mount-s3"),
}
_HUB = "hf"


def scheme(path: str | os.PathLike[str]) -> str:
    """``"gs"`` of ``gs://BUCKET/FOLDER``, in lower case; empty for a path on this machine."""
    found = _URL.match(os.fspath(path))
    return found[1].lower() if found else ""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether it is in a bucket, ``gs://`` or ``s3://``."""
    return scheme(path) in _SERVICES


def url(path: str | os.PathLike[str]) -> str:
    """A URL as people write it, with both slashes; another path as it is."""
    return _URL.sub(lambda found: f"{found[1].lower()}://", os.fspath(path), count=1)


def local(path: str | os.PathLike[str], what: str) -> str:
    """``path`` with the home folder in place of ``~`` or ``~user``.

    Raises UserError: it is in a bucket or another URL, or there is no such user.

    Args:
      path: as a person wrote it.
      what: what it is, for the message, as ``"--workdir"``.
    """
    text = os.fspath(path)
    if (kind := scheme(text)) in _SERVICES:
        service = _SERVICES[kind]
        raise UserError(
            f"{what} {url(text)} is in a bucket, and a path on this machine is needed here: copy it "
            f"({service.copy.format(url(text))}) or mount the bucket ({service.mount}), and give that path"
        )
    if kind:
        raise UserError(
            f"{what} {url(text)} is a URL, which is not supported here: download it, and give the path on this machine"
        )
    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise UserError(f"no home folder is known for {text}: write the whole path, or ./~… for a file here")
    return home


def weights(path: str | os.PathLike[str], what: str) -> str:
    """As ``local``, but weights may also be in a bucket or on the Hugging Face hub, as ``hf://USER/REPO@REVISION``."""
    return url(path) if scheme(path) in (*_SERVICES, _HUB) else local(path, what)


def data(path: str | os.PathLike[str], what: str) -> str:
    """As ``local``, but data may also be in a bucket of Google Cloud Storage, which ArrayRecord reads."""
    return url(path) if scheme(path) == "gs" else local(path, what)


def place(path: str | os.PathLike[str], what: str) -> Path:
    """A file or folder on this machine or in a bucket, to be read and listed as a ``Path`` is.

    Raises UserError: as ``local``, or what reaches the bucket is not installed, or the bucket cannot be reached.
    """
    if not is_bucket(path):
        return Path(local(path, what))
    text = url(path)
    _check_installed(text, what)
    # Another process may change the folder at any time: nothing that was listed is kept.
    import fsspec.config
    from etils import epath

    for protocol in ("gcs", *_SERVICES):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    # They log pages of traceback for what they then raise.
    for package in _SERVICES[scheme(text)].packages:
        logging.getLogger(package).setLevel(logging.CRITICAL)
    found = epath.Path(text.rstrip("/"))
    bucket = epath.Path("/".join(text.split("/", 3)[:3]))
    try:
        with waiting(f"opening {bucket}"), bucket_errors():
            exists = found.exists() or bucket.exists()
    except OSError as error:
        raise UserError(
            f"{what} {text} cannot be reached ({error.strerror}): check its name and the network, and log in "
            f"({_SERVICES[scheme(text)].login})"
        ) from error
    if not exists:
        raise UserError(f"{what} {text}: there is no bucket {bucket}, or it is not yours: check its name")
    return cast(Path, found)


def workdir(path: str | os.PathLike[str], what: str) -> Path:
    """As ``place``, for checkpoints. Raises UserError also for buckets to which Orbax writes none."""
    if scheme(path) == "s3":
        raise UserError(
            f"{what} {url(path)}: Orbax writes no checkpoints to S3: mount the bucket (mount-s3) and give that path, "
            "or take a bucket of Google Cloud Storage"
        )
    return place(path, what)


def full(path: Path) -> str:
    """The absolute path, or the URL."""
    return str(path) if is_bucket(path) else str(path.absolute())


def read_text(path: Path) -> str:
    """A file in UTF-8. Raises OSError or UnicodeDecodeError: it cannot be read."""
    if not is_bucket(path):
        return path.read_text(encoding="utf-8")
    with bucket_errors():
        content = path.read_bytes()
    return content.decode()


def version(path: Path) -> str:
    """A text that is another one when the file has changed. Raises OSError."""
    with bucket_errors():
        found = path.stat()
        if found.mtime or not is_bucket(path):  # pyright: ignore[reportAttributeAccessIssue]
            return f"{found.length} {found.mtime}"  # pyright: ignore[reportAttributeAccessIssue]
        # Of some file systems etils does not know the time.
        import fsspec

        system, name = fsspec.url_to_fs(str(path))
        return system.ukey(name)


def write_whole(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Write a file that is there whole or not at all. Raises OSError: it cannot be written.

    ``temporary`` is where it is until it is whole, by default a name beside it; objects of a bucket need none.
    """
    if is_bucket(path):
        with bucket_errors():
            path.write_bytes(content)
        return
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def files_below(folder: Path, without: str = "") -> Iterator[str]:
    """The paths of all files below a folder, relative to it; not those in its subfolder ``without``."""
    for entry in folder.iterdir():
        if not entry.is_dir():
            yield entry.name
        elif entry.name != without:
            yield from (f"{entry.name}/{name}" for name in files_below(entry))


def move_folder(source: Path, target: Path) -> None:
    """Move a folder, in place of ``target`` if that exists; the folder above is made. Raises OSError."""
    if not is_bucket(source):
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)
        return
    remote = cast("epath.Path", source)
    with bucket_errors():
        cast("epath.Path", target).rmtree(missing_ok=True)
        for name in files_below(source):
            cast("epath.Path", source / name).copy(target / name)
        remote.rmtree()


@contextlib.contextmanager
def bucket_errors() -> Iterator[None]:
    """Whatever the libraries of a bucket raise leaves this as an OSError, with a ``strerror`` of one line."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise OSError(getattr(error, "errno", None) or errno.EIO, text) from error


def waiting(what: str) -> contextlib.AbstractContextManager[None]:
    """A line on stderr says ``what`` is waited for, if what is inside takes long."""
    return messages.waiting(f"{what} …", lambda text: print(text, file=sys.stderr, flush=True))


def check_package(name: str, what: str) -> None:
    """Raises UserError: the package ``name``, which ``what`` needs, is not installed."""
    if _is_missing(name):
        raise UserError(f"{what} needs the package {name}: pip install {name.replace('.', '-')}")


def _check_installed(text: str, what: str) -> None:
    service = _SERVICES[scheme(text)]
    # epath takes TensorFlow's file systems where there is TensorFlow.
    with_tensorflow = not _is_missing("tensorflow") and os.environ.get("EPATH_USE_TF", "").lower() not in _NO
    for package in service.packages[with_tensorflow:]:
        check_package(package, f"{what} {text}")


_NO = ("false", "no", "f", "0")


def _is_missing(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except (ModuleNotFoundError, ValueError):
        return True
