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
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pvt_jax import paths
from pvt_jax.errors import UserError

NAME = "run.lock"
# Seconds between two signs of life, and after how many without one a holder on another host counts as gone.
BEAT, PATIENCE = 5.0, 30.0
# Seconds in which who takes the lock at the same moment has either got it or let go.
_SETTLING = 1.0
_HELD = (errno.EAGAIN, errno.EACCES, errno.ESTALE)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Lock(Protocol):
    """The right to write to a workdir; released at the end of its context."""

    def __enter__(self) -> "Lock": ...

    def __exit__(self, *_: object) -> None: ...

    def take(self) -> bool:
        """Take it in the folder, which exists; whether it was not held before.

        Raises UserError: another process holds it, or the folder cannot be written to.
        """
        ...


def lock_of(workdir: Path, say: Callable[[str], None]) -> Lock:
    """The lock of a workdir, on this machine or in a bucket; ``say`` takes lines on one that was left behind."""
    return BucketLock(workdir, say) if paths.is_bucket(workdir) else WorkdirLock(workdir, say)


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
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(_this_process()).encode(), 0)
        except BaseException as error:
            self._close()
            if not isinstance(error, OSError):
                raise
            raise _unwritable(self._workdir, error) from error
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
        if holder := _holder(file):
            is_gone = holder["host"] == socket.gethostname() and (of_kernel or not _lives(holder["process"]))
            _outwait(holder, is_gone, self._path, lambda: _changed(self._path), self._say, self._refusal)

    def _refusal(self, holder: dict[str, object]) -> UserError:
        return _refusal(self._workdir, holder)


class BucketLock:
    """The right to write to a workdir in a bucket: an object ``run.lock`` that its holder writes every few seconds.

    Buckets have no locks. Who wants this one waits until the object has not changed for a while, writes it, and has it
    if what it wrote is still there a little later: of several that write at the same time the last one has it.
    """

    def __init__(self, workdir: Path, say: Callable[[str], None]) -> None:
        """Nothing is done yet; ``say`` takes lines on a lock that was left behind or lost."""
        self._workdir, self._path, self._say = workdir, workdir / NAME, say
        self._token = ""
        self._over, self._beats = threading.Event(), threading.Thread()

    def __enter__(self) -> "BucketLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> bool:
        """As ``WorkdirLock.take``."""
        if self._token:
            return False
        try:
            if holder := self._read():
                is_gone = holder["host"] == socket.gethostname() and not _lives(holder["process"])
                _outwait(holder, is_gone, self._path, self._read, self._say, lambda by: _refusal(self._workdir, by))
            token, since = uuid.uuid4().hex, _this_process()
            self._write(since, token, 0)
            time.sleep(_SETTLING)
            if (winner := self._read()).get("token") != token:
                raise _refusal(self._workdir, winner)
        except OSError as error:
            raise _unwritable(self._workdir, error) from error
        self._token, self._over = token, threading.Event()
        self._beats = threading.Thread(target=self._beat, args=(since, token, self._over), daemon=True)
        self._beats.start()
        return True

    def release(self) -> None:
        """Remove the object, if the lock is held."""
        if not self._token:
            return
        self._over.set()
        # A beat that is under way would bring the object back.
        self._beats.join(BEAT)
        with contextlib.suppress(OSError), paths.bucket_errors():
            if self._read().get("token") == self._token:
                self._path.unlink()
        self._token = ""

    def _read(self) -> dict[str, object]:
        """What the object says of its holder; empty if there is none. Raises OSError."""
        try:
            with paths.bucket_errors():
                return _described(self._path.read_bytes())
        except FileNotFoundError:
            return {}

    def _write(self, since: dict[str, object], token: str, beat: int) -> None:
        paths.write_whole(self._path, json.dumps({**since, "token": token, "beat": beat}).encode())

    def _beat(self, since: dict[str, object], token: str, over: threading.Event) -> None:
        beat = 0
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):
                if (holder := self._read()) and holder.get("token") != token:
                    who = f"process {holder['process']} on {holder['host']}"
                    self._say(f"{who} has taken over {self._path}: stop one of the two runs")
                    return
                beat += 1
                self._write(since, token, beat)


def _outwait(
    holder: dict[str, object],
    is_gone: bool,
    path: Path,
    state: Callable[[], object],
    say: Callable[[str], None],
    refusal: Callable[[dict[str, object]], UserError],
) -> None:
    """Return once the ``holder`` is known to be gone; raise ``refusal`` if ``state()``, its sign of life, changes."""
    who = f"process {holder['process']} on {holder['host']}"
    if is_gone:
        say(f"{who} ended without releasing {path}: this run takes over")
        return
    say(f"{who} left {path} behind: waiting {PATIENCE:.0f} s for a sign of life of it")
    seen, deadline = state(), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, PATIENCE / 10))
        if state() != seen:
            raise refusal(holder)
    say(f"{who} gives no sign of life: this run takes over")


def _refusal(workdir: Path, holder: dict[str, object]) -> UserError:
    who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
    since = f" since {holder['since']}" if holder.get("since") else ""
    return UserError(
        f"{who} has been training in {workdir}{since}: let it end or stop it, or choose another --workdir; "
        "--mode eval may run beside it"
    )


def _unwritable(workdir: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to the workdir {workdir}: {error.strerror}. Choose another --workdir")


def _this_process() -> dict[str, object]:
    return {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}


def _beat(file: int, over: threading.Event) -> None:
    """Show that this process lives until it is ``over``."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)
    os.close(file)


def _holder(file: int) -> dict[str, object]:
    """What the file says of its holder; empty if it says nothing, or is just being written."""
    try:
        return _described(os.pread(file, 4096, 0))
    except OSError:
        return {}


def _described(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError:
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
