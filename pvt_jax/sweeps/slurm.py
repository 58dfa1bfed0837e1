"""A sweep as an array of SLURM tasks."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pvt_jax.errors import UserError
from pvt_jax.sweeps.jobs import Job
from pvt_jax.sweeps.spec import Sweep, Train, needs


def tasks(sweep: Sweep, found: Sequence[Job]) -> list[list[Job]]:
    """The jobs in groups that run apart from each other: a job stands behind those that it needs.

    A tuned arm is one group, as all its seeds wait for its learning rate; otherwise each seed is one.
    """
    groups: list[list[Job]] = []
    of: dict[tuple[str, int | None], int] = {}
    for job in found:
        tuned = sweep.tuning is not None and isinstance(job.arm, Train) and job.arm.tuned
        joined = [(name, job.seed) for name in needs(job.arm)]
        if tuned:
            joined += [key for key in of if key[0] == job.arm.name]
        numbers = sorted({of[key] for key in joined if key in of})
        if not numbers:
            of[job.arm.name, job.seed] = len(groups)
            groups.append([job])
            continue
        first = numbers[0]
        for other in numbers[1:]:
            groups[first] += groups[other]
            groups[other] = []
            of.update({key: first for key, number in of.items() if number == other})
        groups[first].append(job)
        of[job.arm.name, job.seed] = first
    order = {id(job): number for number, job in enumerate(found)}
    return [sorted(group, key=lambda job: order[id(job)]) for group in groups if group]


def submit(script: Path, name: str, count: int, words: Sequence[str], options: str) -> str:
    """Write the script of an array of ``count`` tasks, and give it to ``sbatch``; what that says.

    Args:
      script: where it is written.
      name: of the job.
      count: of the tasks; each calls ``words`` with ``--task`` and its number.
      words: arguments of ``python -m pvt_jax.sweep``.
      options: of sbatch, as ``"--partition=gpu --gres=gpu:1 --time=12:00:00"``.

    Raises:
      UserError: there is no sbatch, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--slurm needs sbatch, which is not on this machine: start it on a node of a SLURM cluster")
    name = re.sub(r"[^\w-]", "_", name)
    logs = script.parent / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-m", "pvt_jax.sweep", *words, "--task"])
    lines = [
        "#!/bin/sh",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --array=0-{count - 1}",
        f"#SBATCH --output={logs}/%A_%a.log",
        f'exec {command} "$SLURM_ARRAY_TASK_ID"',
    ]
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(["sbatch", *shlex.split(options), str(script)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
