"""One run at a time writes to a workdir."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pvt_jax.errors import UserError

NAME = "run.lock"
# Seconds between two signs of life, and after how many without one a holder on another host counts as gone.
BEAT, PATIENCE = 5.0, 30.0
# Seconds in which who takes the lock at the same moment has either got it or let go.
_SETTLING = 1.0
_HELD = (errno.EAGAIN, errno.EACCES, errno.ESTALE)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class WorkdirLock:
    """The right to write to a workdir: a lock of the kernel on the file ``run.lock`` in it.

    The kernel drops it when the process ends, however it ends, so a run that was killed can go on at once. Where file
    systems do not tell other hosts of locks (Lustre and BeeGFS as they are often mounted, NFS without its lock
    service, FUSE), the file speaks for its holder: it names host and process, and its time of change moves every few
    seconds while the holder lives. Clocks are not compared. As a context manager it is released at the end.
    """

    def __init__(self, workdir: Path, say: Callable[[str], None]) -> None:
        """Nothing is done yet; ``say`` takes lines on a lock that was left behind."""
        self._workdir, self._path, self._say = workdir, workdir / NAME, say
        self._file: int | None = None
        self._over = threading.Event()

    def __enter__(self) -> "WorkdirLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> bool:
        """Take the lock in the folder, which exists; whether it was not held before.

        Raises UserError: another process holds it, or the folder cannot be written to.
        """
        if self._file is not None:
            return False
        try:
            self._file, of_kernel = self._locked_file()
            self._wait_for_life(self._file, of_kernel)
            holder = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(holder).encode(), 0)
        except BaseException as error:
            self._close()
            if not isinstance(error, OSError):
                raise
            raise UserError(
                f"cannot write to the workdir {self._workdir}: {error.strerror}. Choose another --workdir"
            ) from error
        self._over = threading.Event()
        threading.Thread(target=_beat, args=(os.dup(self._file), self._over), daemon=True).start()
        return True

    def release(self) -> None:
        """Remove the file and let go, if the lock is held."""
        if self._file is None:
            return
        self._over.set()
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                self._path.unlink()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            # Not left to close(): a copy of the descriptor may still be open.
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None

    def _locked_file(self) -> tuple[int, bool]:
        """The file, open, and whether the kernel has locked it."""
        deadline = time.monotonic() + _SETTLING
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_nlink:
                    return file, True
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return file, False
                holder = _holder(file)
                if error.errno not in _HELD:
                    os.close(file)
                    raise
                if time.monotonic() > deadline:
                    os.close(file)
                    raise self._refusal(holder) from None
                time.sleep(_SETTLING / 20)
            # Its holder has let go of it, or just removed it.
            os.close(file)

    def _wait_for_life(self, file: int, of_kernel: bool) -> None:
        """Return once whoever left ``file`` behind is known to be gone."""
        holder = _holder(file)
        if not holder:
            return
        who = f"process {holder['process']} on {holder['host']}"
        if holder["host"] == socket.gethostname() and (of_kernel or not _lives(holder["process"])):
            self._say(f"{who} ended without releasing {self._path}: this run takes over")
            return
        self._say(f"{who} left {self._path} behind: waiting {PATIENCE:.0f} s for a sign of life of it")
        seen, deadline = _changed(self._path), time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
            if _changed(self._path) != seen:
                raise self._refusal(holder)
        self._say(f"{who} gives no sign of life: this run takes over")

    def _refusal(self, holder: dict[str, object]) -> UserError:
        who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
        since = f" since {holder['since']}" if holder.get("since") else ""
        return UserError(
            f"{who} has been training in {self._workdir}{since}: let it end or stop it, or choose another --workdir; "
            "--mode eval may run beside it"
        )


def _beat(file: int, over: threading.Event) -> None:
    """Show that this process lives until it is ``over``."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)
    os.close(file)


def _holder(file: int) -> dict[str, object]:
    """What the file says of its holder; empty if it says nothing, or is just being written."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"host", "process"} <= found.keys() else {}


def _lives(process: object) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(int(str(process)), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True  # Someone else's.
    return True


def _changed(path: Path) -> int:
    """When a file last changed; opened for it, as NFS then asks its server."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return -1
    try:
        return os.fstat(file).st_mtime_ns
    finally:
        os.close(file)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(" ", "seconds")
