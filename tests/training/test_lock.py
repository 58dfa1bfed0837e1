"""One process at a time writes to a workdir; who is gone stands in nobody's way."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest

from pvt_jax.errors import UserError
from pvt_jax.training import lock
from pvt_jax.training.lock import WorkdirLock

# Another process that takes the lock and waits for the end of its stdin.
HOLDER = """
import sys, pathlib
from pvt_jax.training.lock import WorkdirLock
lock = WorkdirLock(pathlib.Path(sys.argv[1]), print)
lock.take()
print("taken", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(lock, "_SETTLING", 0.02)
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "PATIENCE", 0.3)


@pytest.fixture
def said():
    return []


@pytest.fixture
def take(tmp_path, said):
    """Take the lock of the folder as ``main`` does."""

    def taken():
        held = WorkdirLock(tmp_path, said.append)
        assert held.take()
        return held

    return taken


def no_locks(file, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_second_one_is_refused_and_a_third_comes_after_the_first(tmp_path, take, said):
    with take() as first:
        assert not first.take()
        with pytest.raises(UserError) as error:
            take()
        holder = json.loads((tmp_path / "run.lock").read_text())
        assert holder["process"] == os.getpid()
        assert str(error.value) == (
            f"process {os.getpid()} on {holder['host']} has been training in {tmp_path} since {holder['since']}: let "
            "it end or stop it, or choose another --workdir; --mode eval may run beside it"
        )
    assert list(tmp_path.iterdir()) == []
    take().release()
    assert said == []


def test_another_process_holds_it_until_it_is_killed(tmp_path, take, said):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    with pytest.raises(UserError, match=f"^process {process.pid} on "):
        take()
    process.kill()
    process.communicate()
    take().release()
    assert len(said) == 1 and f"process {process.pid} on " in said[0] and "ended without releasing" in said[0]


def test_of_many_at_once_one_gets_it(take):
    held, refused, barrier = [], [], threading.Barrier(8)

    def work():
        barrier.wait()
        try:
            held.append(take())
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    held[0].release()


@pytest.mark.parametrize("locks", [True, False])
def test_another_host_that_lives_is_seen_without_the_locks_of_the_kernel(tmp_path, take, said, monkeypatch, locks):
    """The first lock is that of another host, whose kernel tells this one nothing."""
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    first = take()
    if locks:
        monkeypatch.undo()
        monkeypatch.setattr(lock, "_SETTLING", 0.02)
        monkeypatch.setattr(lock, "PATIENCE", 0.3)
    else:
        monkeypatch.setattr(lock.socket, "gethostname", lambda: "here")
    with pytest.raises(UserError, match=f"^process {os.getpid()} on elsewhere has been training in "):
        take()
    assert said == [
        f"process {os.getpid()} on elsewhere left {tmp_path / 'run.lock'} behind: waiting 0 s for a sign of life of it"
    ]
    first.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ['{"host": "elsewhere", "process": 1, "since": "x"}', '{"host"', "", "[]", "3"])
def test_what_another_host_left_behind_is_taken_over(tmp_path, take, said, left):
    (tmp_path / "run.lock").write_text(left)
    take().release()
    assert [line.rpartition(": ")[2] for line in said] == (
        ["waiting 0 s for a sign of life of it", "this run takes over"] if "elsewhere" in left else []
    )


def test_a_folder_that_cannot_be_written_to(tmp_path, said):
    with pytest.raises(UserError, match=f"cannot write to the workdir {tmp_path}/no: .*Choose another --workdir"):
        WorkdirLock(tmp_path / "no", said.append).take()


def test_a_lock_that_someone_removed_and_took_is_left_alone(tmp_path, take):
    first = take()
    (tmp_path / "run.lock").unlink()
    second = take()
    first.release()
    assert (tmp_path / "run.lock").exists()
    second.release()
    assert list(tmp_path.iterdir()) == []
