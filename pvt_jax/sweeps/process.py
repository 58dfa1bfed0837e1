"""A command in a process of its own."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def in_a_process(words: Sequence[str], stdout: Path, stderr: Path, beat: Callable[[], None]) -> int:
    """Run a command. A SIGTERM to this process goes on to it, and it may save; SIGINT reaches it by itself."""
    with (
        stdout.open("wb") as out,
        stderr.open("ab") as log,
        subprocess.Popen(words, stdout=out, stderr=log) as process,
        _passing_on(process),
    ):
        while True:
            try:
                code = process.wait(1.0)
                return 128 - code if code < 0 else code
            except subprocess.TimeoutExpired:
                beat()
            except KeyboardInterrupt:
                continue


@contextmanager
def _passing_on(process: subprocess.Popen) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
