"""The folder of a run: what is in it, and where its results come from."""

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.sweeps import results
from pvt_jax.sweeps.jobs import REPORT
from pvt_jax.training import history, lock

# What a job leaves in its folder: its command and, below it, those of the runs that it reads; what it said; what it
# printed; where its results come from.
COMMAND, LOG, OUTPUT, ORIGIN = "command.txt", "log.txt", "output.json", "origin.json"


def make_room(folder: Path, commands: Sequence[str], say: Callable[[str], None]) -> None:
    """What another command has left is put aside, and what an evaluation has left is removed.

    ``commands`` are that of the job, and those of the runs that it reads.
    """
    written = folder / COMMAND
    if written.exists() and written.read_text("utf-8").splitlines() != [*commands]:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        folder.rename(aside)
        say(f"what an earlier command left is in {aside}")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / REPORT, ignore_errors=True)
    paths.write_whole(written, "".join(f"{command}\n" for command in commands).encode())


def reuse(folder: Path, commands: Sequence[str], local: Sequence[str], every: Path, say: Callable[[str], None]) -> None:
    """Copy what another sweep has trained with this very command: it then finds nothing left to do.

    Args:
      folder: of the run, with its command alone; otherwise nothing is copied.
      commands: that of the run, and those of the runs that it reads.
      local: arguments that name what is on this machine, as the folder of the data.
      every: folder of the runs of all sweeps.
      say: takes a line for a person.
    """
    if any(file.name != COMMAND for file in folder.iterdir()):
        return
    wanted = [_elsewhere(command) for command in commands]
    for written in sorted(every.glob(f"*/*/*/*/{COMMAND}")):
        other = written.parent
        if other == folder:
            continue
        try:
            found = [_elsewhere(command) for command in written.read_text("utf-8").splitlines()]
            if found != wanted or not _is_done(other, local):
                continue
            left = shutil.ignore_patterns(COMMAND, LOG, OUTPUT, lock.NAME)
            shutil.copytree(other, folder, dirs_exist_ok=True, ignore=left)
        except OSError:
            # It is being moved or removed: it is trained here then.
            for file in folder.iterdir():
                if file.name != COMMAND:
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
            continue
        say(f"the same run is in {other}: copied")
        return


def _elsewhere(command: str) -> list[str]:
    """The words of a training run's command without its workdir."""
    words = shlex.split(command)
    if "--workdir" in words:
        place = words.index("--workdir")
        del words[place : place + 2]
    return words


def _is_done(run: Path, local: Sequence[str]) -> bool:
    """Whether the run in a folder has come to its end, and read its data where the ``local`` arguments say."""
    try:
        found, settings = history.read(run), history.read_config(run)
    except UserError:
        return False
    places = dict(word.removeprefix("--config.").split("=", 1) for word in local)
    here = all(results.at(settings, key) == value for key, value in places.items())
    evaluated = any(line["split"] == "eval" and line["step"] == found.total_steps for line in found.lines)
    return here and found.step == found.total_steps and evaluated and not (run / lock.NAME).exists()


@contextmanager
def timed(folder: Path, code: Path) -> Iterator[None]:
    """Keep in ``folder`` the revision of the code that a run began with, and its seconds, however often it stops.

    A run that has come to its end keeps what is written: nothing is left to do for it.
    """
    found, began, start = origin(folder), revision(code), time.monotonic()
    try:
        yield
    finally:
        if "date" not in found:
            seconds = found.get("seconds", 0.0) + time.monotonic() - start
            keep_origin(folder, {"seconds": round(seconds, 1), "revision": found.get("revision", began)})


def origin(folder: Path) -> dict[str, Any]:
    """``seconds``, ``revision`` and, of what is done, ``date``; empty if nothing has been run."""
    try:
        return json.loads((folder / ORIGIN).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def keep_origin(folder: Path, found: Mapping[str, Any]) -> None:
    """Write what ``origin`` reads. Raises OSError: it cannot be written."""
    paths.write_whole(folder / ORIGIN, json.dumps(found).encode())


def revision(folder: Path) -> str:
    """Of the code in git, with a + where files have changed since; empty outside of git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        code = (":/pvt_jax", ":/configs", ":(top,glob)experiments/**/*.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def progress(folder: Path) -> str:
    """How far a run is, as "step 300 of 1,562"; "running" where it does not tell."""
    try:
        run = history.read(folder)
    except (UserError, OSError):
        return "running"
    return f"step {run.step:,}{f' of {run.total_steps:,}' if run.total_steps else ''}"


def last_line(log: Path, start: int) -> str:
    """What a command said last of errors, or at all; ``start`` is how much the log had before it."""
    try:
        lines = log.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    except OSError:
        return "no output"
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or [line for line in lines if line.strip()] or ["no output"])[-1]
