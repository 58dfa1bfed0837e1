"""Run the jobs of a sweep, one after the other, and record what they found."""

import datetime
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from pvt_jax import machine
from pvt_jax.errors import UserError
from pvt_jax.messages import plural
from pvt_jax.sweeps import jobs as jobs_lib
from pvt_jax.sweeps import results, run_folder
from pvt_jax.sweeps.jobs import REPORT, Job
from pvt_jax.sweeps.process import in_a_process
from pvt_jax.sweeps.run_folder import LOG, ORIGIN, OUTPUT
from pvt_jax.sweeps.spec import Arm, Evaluate, Sweep, Train, needs, with_seeds
from pvt_jax.training import history

# Seconds between two lines about a job that is running.
_EVERY = 60.0
# Exit codes of a command that a signal has stopped, and which has saved.
_STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}


class _State(NamedTuple):
    """Records, by identity as well; jobs; and these by arm and seed, with those of the seed that looks start from."""

    records: list[dict[str, Any]]
    known: Mapping[tuple[Any, ...], results.Record]
    jobs: list[Job]
    by_seed: Mapping[tuple[str, int | None], Job]


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
    # What was read of results.jsonl, and of which state of that file.
    _read: tuple[Any, "_State"] | None = field(default=None, init=False, repr=False)

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
        return self._state().jobs

    def records(self) -> list[dict[str, Any]]:
        """What is recorded, of all scales."""
        return self._state().records

    def outdated(self) -> list[str]:
        """Names of jobs whose record is of another command than they have now, or of other runs than they read."""
        return [job.name for job in self.jobs() if self.recorded(job) is None]

    def recorded(self, job: Job) -> bool | None:
        """Whether a job is recorded; None: its record is of another command, or of other runs than it reads."""
        record = self._state().known.get((self.sweep.scale, *job.identity))
        if record is None:
            return False
        is_same = record["command"] == job.command(self.file) and record.get("reads", []) == self._reads(job)
        return is_same or None

    def _reads(self, job: Job) -> list[str]:
        """The commands of the runs that a job reads, and of those that these start from."""
        seed = self.sweep.start_seed if job.look is not None else job.seed
        found = [self._state().by_seed[name, seed] for name in dict.fromkeys(needs(job.arm))]
        return [text for one in found for text in (one.command(self.file), *self._reads(one))]

    def _state(self) -> "_State":
        """Records and jobs, read again when the file has changed, as another process may have done."""
        file = self.output / results.FILE
        try:
            found = file.stat()
            version = found.st_mtime_ns, found.st_size, found.st_ino
        except FileNotFoundError:
            version = None
        if self._read is None or self._read[0] != version:
            records = results.read(file)
            known = {results.identity(record): record for record in records}
            rates = {arm.name: 0.0 for arm in self.sweep.arms} | self._known_rates(known)
            seeds = {*self.sweep.seeds, self.sweep.start_seed}
            more = jobs_lib.jobs(with_seeds(self.sweep, sorted(seeds)), rates, self.overrides)
            by_seed = {(job.arm.name, job.seed): job for job in more}
            self._read = version, _State(records, known, jobs_lib.jobs(self.sweep, rates, self.overrides), by_seed)
        return self._read[1]

    def _is_tuned(self, arm: Arm) -> TypeGuard[Train]:
        return self.sweep.tuning is not None and isinstance(arm, Train) and arm.tuned

    def _known_rates(self, known: Mapping[tuple[Any, ...], results.Record]) -> dict[str, float]:
        """The learning rates that records tell, of arms whose looks are complete and have the commands of now."""

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
        for name in needs(arm):
            # Which is not among the seeds where others are chosen.
            start = self._state().by_seed[name, self.sweep.start_seed]
            if self._run(start, start.name) is not None:
                return None
        best = self._halved(arm, self._look)
        looked = [record for record in self.records() if record["arm"] == arm.name and "look" in record]
        if best is None and looked and all(record.get("diverged") for record in looked):
            self.say(f"{arm.name}: every {tuning.key} diverged: give the sweep's tuning lower values")
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
        command, reads = job.command(self.file), self._reads(job)
        folder = self.runs / job.folder
        run_folder.make_room(folder, [command, *reads], self.say)
        if isinstance(job.arm, Train):
            run_folder.reuse(folder, [command, *reads], job.local, self.runs.parent, self.say)
        else:
            # It does all of it again.
            (folder / ORIGIN).unlink(missing_ok=True)
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
        origin = {"date": datetime.date.today().isoformat(), **run_folder.origin(folder)}
        if problem is None:
            run_folder.keep_origin(folder, origin)
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

    def _executed(self, job: Job, folder: Path, where: str) -> tuple[str | None, dict[str, Any]]:
        told = time.monotonic()

        def beat() -> None:
            nonlocal told
            if time.monotonic() - told >= _EVERY:
                told = time.monotonic()
                self.say(f"{where}: {run_folder.progress(folder)}")

        execute, log = self.execute or in_a_process, folder / LOG
        said = log.stat().st_size if log.exists() else 0
        with run_folder.timed(folder, self.file.parent):
            code = execute(job.words(self.file, self.runs), folder / OUTPUT, log, beat)
        if code in _STOPPED:
            raise StopError(code)
        return (f"exit code {code}: {run_folder.last_line(log, said)}" if code else None), {}

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


def _here() -> dict[str, Any]:
    return {"machine": machine.processor(), "versions": machine.versions()}
