"""Run the jobs of a sweep, one after the other, and record what they found."""

import datetime
import json
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pvt_jax import machine, paths
from pvt_jax.errors import UserError
from pvt_jax.messages import plural
from pvt_jax.sweeps import jobs as jobs_lib
from pvt_jax.sweeps import results
from pvt_jax.sweeps.jobs import REPORT, Job
from pvt_jax.sweeps.spec import Arm, Evaluate, Sweep, Train, needs
from pvt_jax.training import history, lock

# What a job leaves in its folder: its command and, below it, those of the runs that it reads; what it said; what it
# printed; where its results come from.
COMMAND, LOG, OUTPUT, ORIGIN = "command.txt", "log.txt", "output.json", "origin.json"
# Seconds between two lines about a job that is running.
_EVERY = 60.0
# Exit codes of a command that a signal has stopped, and which has saved.
_STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}


class StopError(Exception):
    """A signal has stopped a job; the exit code."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


@dataclass
class Runner:
    """Runs the jobs of a sweep that have no record yet.

    Attributes:
      file: the sweep's file.
      sweep: what it says.
      runs: folder of the runs.
      output: folder of ``results.jsonl``.
      overrides: ``KEY=VALUE`` for all configs.
      say: takes the lines for a person.
      execute: (words, stdout, stderr, beat) → exit code; ``beat`` is called now and then while it runs.
    """

    file: Path
    sweep: Sweep
    runs: Path
    output: Path
    overrides: Sequence[str] = ()
    say: Callable[[str], None] = print
    execute: Callable[[Sequence[str], Path, Path, Callable[[], None]], int] | None = None

    def __call__(self, chosen: Callable[[Job], bool] = lambda job: True) -> int:
        """Run the ``chosen`` jobs in order; one that fails is told, and the others go on. How many failed.

        Raises StopError: a signal has ended a job.
        """
        failed: set[tuple[str, int | None]] = set()
        rates: dict[str, float | None] = {}
        every = [job for job in self.jobs() if chosen(job)]
        for number, job in enumerate(every, 1):
            arm, where = job.arm, f"{job.name} ({number} of {len(every)})"
            lacking = [name for name in needs(arm) if (name, job.seed) in failed]
            if not lacking and self._is_tuned(arm) and arm.name not in rates:
                # Only now, as the runs may start from those of an arm before it.
                rates[arm.name] = self._rate(arm)
            if lacking:
                self.say(f"{where}: left out, as it needs {lacking[0]}, which failed")
            elif self._is_tuned(arm) and rates[arm.name] is None:
                self.say(f"{where}: left out, as no learning rate was found")
            elif self._run(next(one for one in self.jobs() if one.identity == job.identity), where) is None:
                continue
            failed.add((arm.name, job.seed))
        return len(failed)

    def jobs(self) -> list[Job]:
        """All jobs that count, with the learning rates that are known, and 0 where none is."""
        rates = {arm.name: 0.0 for arm in self.sweep.arms} | self._known_rates()
        return jobs_lib.jobs(self.sweep, rates, self.overrides)

    def records(self) -> list[dict[str, Any]]:
        """What is recorded, of all scales."""
        return results.read(self.output / results.FILE)

    def outdated(self) -> list[str]:
        """Names of jobs whose record is of another command than they have now."""
        known = {results.identity(record): record for record in self.records()}
        every = self.jobs()
        records = [(job, known.get((self.sweep.scale, *job.identity))) for job in every]
        return [job.name for job, record in records if record is not None and not self._is_of(record, job, every)]

    def recorded(self, job: Job) -> bool | None:
        """Whether a job is recorded; None: its record is of another command, or of what it reads."""
        wanted = (self.sweep.scale, *job.identity)
        record = next((record for record in self.records() if results.identity(record) == wanted), None)
        return record is not None and (self._is_of(record, job, self.jobs()) or None)

    def _is_of(self, record: results.Record, job: Job, every: Sequence[Job]) -> bool:
        """Whether a record is of a job as it is now. Records of earlier versions do not tell what they have read."""
        reads = self._reads(job, every)
        return record["command"] == job.command(self.file) and record.get("reads", reads) == reads

    def _reads(self, job: Job, every: Sequence[Job]) -> list[str]:
        """The commands of the runs that a job reads, and of those that these start from."""
        seed = self.sweep.seeds[0] if job.look is not None else job.seed
        found = [one for one in every if one.arm.name in needs(job.arm) and one.seed == seed]
        return [text for one in found for text in (one.command(self.file), *self._reads(one, every))]

    def _is_tuned(self, arm: Arm) -> TypeGuard[Train]:
        return self.sweep.tuning is not None and isinstance(arm, Train) and arm.tuned

    def _known_rates(self) -> dict[str, float]:
        """The learning rates that records tell, of arms whose looks are complete and as they would be run now."""
        known = {results.identity(record): record for record in self.records()}

        def recorded(found: Sequence[Job]) -> dict[float, float]:
            looked = [known.get((self.sweep.scale, *job.identity), {}) for job in found]
            commands = [one.get("command") for one in looked]
            return self._metrics(looked) if commands == [job.command(self.file) for job in found] else {}

        rates = {arm.name: self._halved(arm, recorded) for arm in self.sweep.arms if self._is_tuned(arm)}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def _rate(self, arm: Train) -> float | None:
        """The learning rate of an arm, found by looks where records do not tell it.

        None if no value of a look is left, or one failed that may not: to choose among the others would be to guess.
        """
        tuning = self.sweep.tuning
        assert tuning is not None
        best = self._halved(arm, self._look)
        if best is not None:
            self.say(f"{arm.name}: {tuning.key}={best:g} is best of {plural(len(tuning.values), 'value')}")
        return best

    def _halved(self, arm: Train, look: Callable[[Sequence[Job]], dict[float, float]]) -> float | None:
        """The best learning rate by successive halving; ``look`` gives the metric by rate, nothing to give up."""
        tuning = self.sweep.tuning
        assert tuning is not None
        values, looked = sorted(tuning.values), {}
        for number in range(len(tuning.steps)):
            looked = look(jobs_lib.looks(self.sweep, arm, number, values, self.overrides))
            if not looked:
                return None
            values = jobs_lib.survivors(looked)
        return jobs_lib.best(looked)

    def _look(self, found: Sequence[Job]) -> dict[float, float]:
        """The metric by learning rate, of those that did not diverge; empty if one failed for another reason."""
        problems = [self._run(job, job.name) for job in found]
        if any(problem is not None and history.DIVERGED not in problem for problem in problems):
            return {}
        wanted = {(self.sweep.scale, *job.identity) for job in found}
        return self._metrics([record for record in self.records() if results.identity(record) in wanted])

    def _metrics(self, looked: Sequence[results.Record]) -> dict[float, float]:
        return {one["rate"]: one["values"][self.sweep.metric] for one in looked if not one.get("diverged")}

    def _run(self, job: Job, where: str) -> str | None:
        """Run a job unless it is recorded. What went wrong; None if nothing did."""
        recorded = self.recorded(job)
        if recorded:
            return None
        if recorded is None:
            self.say(f"{where}: its command, or what it reads, has changed since it was recorded: it runs again")
        command, reads = job.command(self.file), self._reads(job, self.jobs())
        folder = self.runs / job.folder
        self._make_room(folder, [command, *reads])
        if not isinstance(job.arm, Train):
            # It does all of it again.
            (folder / ORIGIN).unlink(missing_ok=True)
        self._reuse(job, folder, command)
        self.say(f"{where}: {command}")
        start = time.monotonic()
        problem, values = self._executed(job, folder, where)
        if problem is None:
            try:
                values = self._found(job, folder)
            except (UserError, OSError, ValueError, KeyError) as error:
                problem = f"it left no results: {error}"
        seconds = time.monotonic() - start
        if problem is not None:
            self.say(f"{where}: failed after {seconds:.0f} s: {problem}; see {folder / LOG}")
            if job.look is None or history.DIVERGED not in problem:
                return problem
            # That it diverges is what this look has found.
            values = {"values": {}, "diverged": True, **_here()}
        origin = {"date": datetime.date.today().isoformat(), **_origin(folder)}
        _keep_origin(folder, origin)
        look = {} if job.look is None else {"look": job.look.number, "rate": job.look.value}
        record = {
            "scale": self.sweep.scale,
            "arm": job.arm.name,
            "seed": job.seed,
            **look,
            "facts": dict(job.arm.facts),
            "command": command,
            **({"reads": reads} if reads else {}),
            **values,
            **origin,
        }
        results.add(self.output / results.FILE, record, self.sweep)
        if problem is not None:
            return problem
        shown = values["values"].get(self.sweep.metric)
        self.say(f"{where}: done in {seconds:.0f} s{f', {self.sweep.metric} {shown:.4g}' if shown is not None else ''}")
        return None

    def _reuse(self, job: Job, folder: Path, command: str) -> None:
        """Copy what another sweep has trained with this very command: it then finds nothing left to do."""
        if not isinstance(job.arm, Train) or any(file.name != COMMAND for file in folder.iterdir()):
            return
        wanted = _elsewhere(command)
        for written in sorted(self.runs.parent.glob(f"*/*/*/*/{COMMAND}")):
            other = written.parent
            first = written.read_text("utf-8").partition("\n")[0]
            if other != folder and _elsewhere(first) == wanted and _is_done(other, job.local):
                left = shutil.ignore_patterns(COMMAND, LOG, OUTPUT, lock.NAME)
                shutil.copytree(other, folder, dirs_exist_ok=True, ignore=left)
                self.say(f"the same run is in {other}: copied")
                return

    def _executed(self, job: Job, folder: Path, where: str) -> tuple[str | None, dict[str, Any]]:
        told = time.monotonic()

        def beat() -> None:
            nonlocal told
            if time.monotonic() - told >= _EVERY:
                told = time.monotonic()
                self.say(f"{where}: {_progress(folder)}")

        execute, log = self.execute or in_a_process, folder / LOG
        said = log.stat().st_size if log.exists() else 0
        with _timed(folder, self.file.parent):
            code = execute(job.words(self.file, self.runs), folder / OUTPUT, log, beat)
        if code in _STOPPED:
            raise StopError(code)
        return (f"exit code {code}: {_last_line(log, said)}" if code else None), {}

    def _found(self, job: Job, folder: Path) -> dict[str, Any]:
        """Values, curves, machine and versions of a job that is done."""
        here = _here()
        if isinstance(job.arm, Train):
            return results.of_training(folder)
        if isinstance(job.arm, Evaluate):
            metrics = json.loads((folder / REPORT / "metrics.json").read_text("utf-8"))
            trained = history.read_summary(self.runs / self.sweep.scale / job.arm.of / folder.name)
            values = {name: value for name, value in results.flat(metrics).items() if "/" not in name}
            return {"values": values, "machine": trained["machine"], "versions": trained["versions"]}
        printed = json.loads((folder / OUTPUT).read_text("utf-8"))
        device = printed.get("device", "cpu")
        if device != "cpu":
            here["machine"] = f"{printed.get('device_count', 1)} × {device}"
        return {"values": results.flat(printed), **here}

    def _make_room(self, folder: Path, commands: Sequence[str]) -> None:
        """What another command has left is put aside, and what an evaluation has left is removed.

        ``commands`` are that of the job, and those of the runs that it reads, which earlier versions did not write.
        """
        written = folder / COMMAND
        if written.exists() and written.read_text("utf-8").splitlines() not in ([*commands], [*commands[:1]]):
            number = 1
            while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
                number += 1
            folder.rename(aside)
            self.say(f"what an earlier command left is in {aside}")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / REPORT, ignore_errors=True)
        paths.write_whole(written, "".join(f"{command}\n" for command in commands).encode())


def _here() -> dict[str, Any]:
    return {"machine": machine.processor(), "versions": machine.versions()}


@contextmanager
def _timed(folder: Path, code: Path) -> Iterator[None]:
    """Keep in ``folder`` the revision of the code that a run began with, and its seconds, however often it stops.

    A run that has come to its end keeps what is written: nothing is left to do for it.
    """
    found, began, start = _origin(folder), revision(code), time.monotonic()
    try:
        yield
    finally:
        if "date" not in found:
            seconds = found.get("seconds", 0.0) + time.monotonic() - start
            _keep_origin(folder, {"seconds": round(seconds, 1), "revision": found.get("revision", began)})


def _origin(folder: Path) -> dict[str, Any]:
    """``seconds``, ``revision`` and, of what is done, ``date``; empty if nothing has been run."""
    try:
        return json.loads((folder / ORIGIN).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _keep_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    paths.write_whole(folder / ORIGIN, json.dumps(origin).encode())


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
    return here and found.step == found.total_steps


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


def _progress(folder: Path) -> str:
    try:
        run = history.read(folder)
    except (UserError, OSError):
        return "running"
    return f"step {run.step:,}{f' of {run.total_steps:,}' if run.total_steps else ''}"


def _last_line(log: Path, start: int) -> str:
    """What a command said last of errors, or at all; ``start`` is how much the log had before it."""
    try:
        lines = log.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    except OSError:
        return "no output"
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or [line for line in lines if line.strip()] or ["no output"])[-1]
