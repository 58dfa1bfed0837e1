"""Run ``python -m pvt_jax.main`` on a shrunk real config, in this process or in one of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from pvt_jax import main

ROOT = Path(__file__).parents[2]

# configs/digits.py with four blocks of few channels: compiles in seconds.
SHRUNK = {
    "model.depths": "(1,1,1,1)",
    "model.dims": "(16,32,80,64)",
    "batch_size": "32",
    "log_every_steps": "1",
    "optimizer.warmup_epochs": "0",
    "evaluation.every_epochs": "100",
}


def arguments(workdir, config="configs/digits.py", **overrides) -> list[str]:
    """Command line on ``config``, shrunk; overrides have ``__`` for the dot in a key."""
    chosen = {**SHRUNK, **{key.replace("__", "."): value for key, value in overrides.items()}}
    flags = [f"--config.{key}={value}" for key, value in chosen.items()]
    return ["--config", str(ROOT / config), "--workdir", str(workdir), *flags]


def start(flags: list[str], module: str = "pvt_jax.main", **environment: str) -> subprocess.Popen:
    """The command, or a module that runs it, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of a process that must end with ``code``."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def run_here(flags: list[str], code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of the command in this process, which saves the seconds that another takes to start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main.main(flags)
    assert found == code, f"exit code {found}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()


def records(workdir, split="train") -> list[dict]:
    """Lines of ``metrics.jsonl``."""
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]
