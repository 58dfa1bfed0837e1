"""Files that grow, in a workdir whose storage has no growing files."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pvt_jax import paths

# Seconds between two times that files are sent while nothing asks for it.
_EVERY = 30.0


class Mirror:
    """The local folder in which files of a workdir are written: the workdir itself, or of one in a bucket another.

    An object of a bucket cannot be appended to, and takes one write a second. So its files are written in a temporary
    folder, and sent whole: at once where that matters, else at most every half minute. What was not sent is lost with
    the process.

    Attributes:
      folder: where files are to be written.
    """

    def __init__(self, workdir: Path, names: Sequence[str]):
        """``names`` are of files that a run goes on writing. Raises OSError: they cannot be read."""
        self._workdir, self._remote = workdir, paths.is_bucket(workdir)
        self.folder = Path(tempfile.mkdtemp(prefix="pvt_jax_")) if self._remote else workdir
        self._sent: dict[str, tuple[int, int]] = {}
        self._last = time.monotonic()
        for name in names if self._remote else ():
            with paths.bucket_errors():
                if (workdir / name).exists():
                    (self.folder / name).write_bytes((workdir / name).read_bytes())

    def send(self, *, at_once: bool) -> None:
        """Send the files that have changed. Raises OSError if they cannot be, and are not to wait for the next time."""
        if not self._remote or not (at_once or time.monotonic() - self._last > _EVERY):
            return
        self._last = time.monotonic()
        try:
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                name, state = path.relative_to(self.folder).as_posix(), path.stat()
                if self._sent.get(name) != (version := (state.st_size, state.st_mtime_ns)):
                    paths.write_whole(self._workdir / name, path.read_bytes())
                    self._sent[name] = version
        except OSError:
            if at_once:
                raise

    def close(self) -> None:
        """Send what has changed, and remove the temporary folder."""
        self.send(at_once=True)
        if self._remote:
            shutil.rmtree(self.folder, ignore_errors=True)
