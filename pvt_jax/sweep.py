"""Run an experiment: ``python -m pvt_jax.sweep experiments/deeper_wider/sweep.py``.

The runs of a sweep, one after the other; what is recorded in its results.jsonl is not run again, and what was stopped
goes on. Then its table and its figures are made from the records, which --report does alone. Exit code 1: a run failed.
"""

import argparse
import fnmatch
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from pvt_jax import commands
from pvt_jax.errors import UserError
from pvt_jax.messages import listed, plural
from pvt_jax.sweeps import report, results, slurm
from pvt_jax.sweeps.file import load
from pvt_jax.sweeps.jobs import Job
from pvt_jax.sweeps.runner import Runner, StopError
from pvt_jax.sweeps.spec import needs, with_seeds
from pvt_jax.visualization.curves import check_installed


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags, with ``--config.KEY=VALUE`` for all training runs collected in ``overrides``."""
    parser = commands.Parser(prog="python -m pvt_jax.sweep", description=__doc__)
    parser.add_argument("sweep", metavar="SWEEP[:SCALE]", help="file of a sweep, as experiments/latency/sweep.py")
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="arms to run, or patterns of their names")
    parser.add_argument("--seeds", metavar="N,N", help="seeds to run, in place of those of the sweep")
    parser.add_argument(
        "--runs", type=commands.path("--runs"), metavar="DIR", help="folder of all sweeps' runs; default runs/sweeps"
    )
    parser.add_argument(
        "--output",
        type=commands.path("--output"),
        metavar="DIR",
        help="folder of results.jsonl, table and figures; default that of the sweep",
    )
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--report", action="store_true", help="make table and figures of what is recorded, run nothing")
    parser.add_argument(
        "--slurm",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="submit an array to SLURM; options of sbatch as --slurm='--gres=gpu:1'",
    )
    parser.add_argument("--task", type=int, metavar="N", help="run the Nth task of such an array alone")
    flags = commands.parse_with_overrides(parser, arguments)
    if flags.slurm is not None and (flags.report or flags.list or flags.task is not None):
        raise UserError("--slurm goes with neither --report nor --list nor --task")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Do what the flags say. Exit code 1: a run failed; 130 or 143: a signal stopped it."""
    flags = parse(arguments)
    file, sweep = load(flags.sweep)
    if flags.seeds is not None:
        sweep = with_seeds(sweep, _seeds(flags.seeds))
        sweep.check()
    output, runs = flags.output or file.parent, (flags.runs or Path("runs/sweeps")) / file.parent.name
    runner = Runner(file, sweep, runs, output, flags.overrides, commands.say)
    every = runner.jobs()
    chosen = _chosen(flags.only, every)
    if flags.slurm is not None:
        groups = slurm.tasks(sweep, [job for job in every if chosen(job)])
        words = [word for word in arguments if word != "--slurm" and word != flags.slurm]
        words = [word for word in words if not word.startswith("--slurm=")]
        print(
            slurm.submit(
                runs / f"{sweep.scale}.sbatch", f"{file.parent.name}_{sweep.scale}", len(groups), words, flags.slurm
            )
        )
        return 0
    if flags.list:
        return _list(runner, [job for job in every if chosen(job)])
    if flags.report:
        check_installed("--report")
        return _report(runner, output)
    if flags.task is not None:
        groups = slurm.tasks(sweep, [job for job in every if chosen(job)])
        if not 0 <= flags.task < len(groups):
            raise UserError(f"--task {flags.task}: the tasks are 0 to {len(groups) - 1}")
        names = {(job.arm.name, job.seed) for job in groups[flags.task]}
        chosen = lambda job: (job.arm.name, job.seed) in names  # noqa: E731
    draws = flags.task is None and find_spec("matplotlib") is not None
    if flags.task is None and not draws:
        commands.say("note: no table and figures without matplotlib: pip install it, then --report makes them")
    try:
        failed = runner(chosen)
    except StopError as stopped:
        commands.say("stopped and saved: run the same command to go on")
        return stopped.code
    if failed:
        commands.say(f"{plural(failed, 'run')} failed: run the same command to try again")
    if draws and results.counted(runner.records(), sweep):
        _report(runner, output)
    return 1 if failed else 0


def _report(runner: Runner, output: Path) -> int:
    for name in runner.outdated():
        commands.say(
            f"note: the record of {name} is of an earlier form of its command, or of what it reads: run the sweep again"
        )
    for file in report.write(output, runner.sweep, runner.records()):
        commands.say(f"written: {file}")
    return 0


def _list(runner: Runner, found: Sequence[Job]) -> int:
    words = {True: "recorded", False: "to run", None: "to run again"}
    for job in found:
        print(f"{job.name}: {words[runner.recorded(job)]}: {job.command(runner.file)}")
    return 0


def _chosen(only: Sequence[str], every: Sequence[Job]) -> Callable[[Job], bool]:
    """Whether ``only`` names a job's arm, or an arm that needs it."""
    arms = {job.arm.name: job.arm for job in every}
    names = {name for pattern in only for name in fnmatch.filter(arms, pattern)}
    lost = [pattern for pattern in only if not fnmatch.filter(arms, pattern)]
    if lost:
        raise UserError(f"--only {lost[0]}: there is no such arm; the arms are {listed([*arms], 40)}")
    while lacking := {need for name in names for need in needs(arms[name])} - names:
        names |= lacking
    return lambda job: not only or job.arm.name in names


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds takes whole numbers, as 0,1,2, not {text!r}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
