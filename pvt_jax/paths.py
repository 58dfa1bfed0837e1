"""Paths that people write: in flags, in keys of a config, in calls."""

import os
import re

from pvt_jax.errors import UserError

# A letter alone is a drive of Windows. A path loses the second slash when it becomes a Path.
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def local(path: str | os.PathLike[str], what: str) -> str:
    """``path`` with the home folder in place of ``~`` or ``~user``.

    Raises UserError: it is in a bucket or another URL, or there is no such user.

    Args:
      path: as a person wrote it.
      what: what it is, for the message, as ``"--workdir"``.
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise UserError(
            f"{what} {text} is a URL, and buckets and other URLs are not supported: mount or download it, and give the "
            "path on this machine"
        )
    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise UserError(f"no home folder is known for {text}: write the whole path, or ./~… for a file here")
    return home
