"""Train or evaluate: ``python -m pvt_jax.main --config configs/digits.py --workdir runs/digits``."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pvt_jax import commands, paths
from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.huge_pages import restart_with_huge_pages
from pvt_jax.messages import waiting

if TYPE_CHECKING:
    from pvt_jax.training.evaluate import Result

_CONFIG = "config file, as configs/pvt_tiny.py, or the name of one that comes with pvt_jax, as pvt_tiny"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags, with ``--config.KEY=VALUE`` collected in ``overrides``."""
    parser = commands.Parser(prog="python -m pvt_jax.main", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help=_CONFIG)
    parser.add_argument(
        "--workdir",
        type=commands.workdir("--workdir"),
        help="folder of the run; run again on it to resume; with --dry_run it is neither needed nor written",
    )
    parser.add_argument("--mode", choices=("train", "eval"), default="train")
    parser.add_argument("--extend", action="store_true", help="train the run in the workdir on to more steps or epochs")
    parser.add_argument("--step", default="latest", help="with --mode eval: latest, best, or a step number")
    parser.add_argument(
        "--report", metavar="DIR", help="with --mode eval: a new folder for a table of classes, figures, worst images"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="compile the training step, say what it needs, and read and write nothing",
    )
    parser.add_argument(
        "--topology",
        metavar="KIND:SIZE",
        help="with --dry_run: devices that need not be here, as v5e:16x16 or h200:64; default: those that are here",
    )
    parser.add_argument(
        "--compare", action="store_true", help="with --dry_run: compile also what other settings would change"
    )
    parser.add_argument(
        "--train_images", type=int, metavar="N", help="with --dry_run: size of the data set, for the length of the run"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --dry_run: print one JSON object: exact numbers, bytes"
    )
    parser.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0, when run on several hosts")
    parser.add_argument("--num_processes", type=int, help="how many processes take part")
    parser.add_argument("--process_id", type=int, help="number of this process, from 0")
    flags = commands.parse_with_overrides(parser, arguments)
    _check_dry_run(flags)
    if flags.workdir is None and not flags.dry_run:
        parser.error("the following arguments are required: --workdir")
    return flags


def _check_dry_run(flags: argparse.Namespace) -> None:
    """Raises UserError: a flag belongs to a dry run and there is none, or the other way round."""
    for name in ("topology", "compare", "train_images", "json"):
        if getattr(flags, name) and not flags.dry_run:
            raise UserError(f"--{name} belongs to --dry_run")
    for name in ("extend", "report", "coordinator_address", "num_processes", "process_id"):
        if getattr(flags, name) and flags.dry_run:
            raise UserError(f"--dry_run compiles a training step in one process: leave --{name} away")
    if flags.dry_run and (flags.mode, flags.step) != ("train", "latest"):
        raise UserError("--dry_run compiles a training step: leave --mode and --step away")
    if flags.train_images is not None and flags.train_images < 1:
        raise UserError(f"--train_images must be above 0, but is {flags.train_images}")


def run(arguments: Sequence[str]) -> int:
    """Do what the flags say; the exit code."""
    flags = parse(arguments)
    if flags.dry_run:
        return _dry_run(flags)
    workdir = paths.workdir(flags.workdir, "--workdir")
    config = config_lib.load(flags.config, flags.overrides, workdir if flags.mode == "eval" else None)
    step = int(flags.step) if flags.step.isdigit() else flags.step
    if step not in ("latest", "best") and not isinstance(step, int):
        raise UserError(f"--step takes latest, best or a number, not {flags.step!r}")
    if flags.mode == "eval" and flags.extend:
        raise UserError("--extend belongs to --mode train: an evaluation has no length")
    if flags.mode == "train" and flags.report is not None:
        raise UserError("--report belongs to --mode eval: it is of an evaluation")
    if flags.mode == "train" and step != "latest":
        raise UserError("--step belongs to --mode eval: training goes on from the newest checkpoint")

    # Importing jax takes seconds; a mistyped flag or key is answered before.
    with waiting("loading JAX", commands.say):
        import jax

        from pvt_jax.training import distributed, loop

    # Orbax logs pages of traceback for each error that it then raises; what it raises is answered below.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("pvt_jax").addHandler(logging.StreamHandler(sys.stderr))
    with waiting("looking for devices and other processes", commands.say):
        distributed.initialize(flags.coordinator_address, flags.num_processes, flags.process_id)
        jax.devices()
    if flags.mode == "train":
        result = loop.train(config, workdir, extend=flags.extend)
    else:
        result = loop.evaluate(config, workdir, step, flags.report)
    if jax.process_index() == 0:
        print(_last_line(result, flags), flush=True)
    return result.exit_code


def _dry_run(flags: argparse.Namespace) -> int:
    """Print the plan of the run."""
    from pvt_jax.planning import topology as topologies

    config = config_lib.load(flags.config, flags.overrides)
    topology = topologies.parse(flags.topology) if flags.topology else None
    if topology is not None:
        topologies.check_plugin(topology.platform)
        topologies.prepare(topology.platform, os.environ)
    with waiting("loading JAX", commands.say):
        from pvt_jax.compilation import trim_after_compiling
        from pvt_jax.planning import plan, text
    trim_after_compiling()
    report = plan.plan(config, topology, compare=flags.compare, train_images=flags.train_images, say=commands.say)
    print(json.dumps(report) if flags.json else text.describe(report), flush=True)
    return 0


def _last_line(result: "Result", flags: argparse.Namespace) -> str:
    if result.stopped_by is not None:
        return (
            f"stopped by {result.stop_reason} and saved at step {result.step} in {flags.workdir}: "
            "run the same command to go on"
        )
    numbers = result.headline
    if flags.mode == "eval":
        report = f"; report in {flags.report}" if flags.report is not None else ""
        return f"evaluated: step {result.step}  {numbers}  of {flags.workdir}{report}"
    return f"done: step {result.step}  {numbers}  in {flags.workdir} (metrics.jsonl, checkpoints/, tensorboard/)"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.exit(main())
