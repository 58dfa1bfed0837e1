"""The commands of a sweep: one for each run, with the folder in which it happens."""

import math
import posixpath
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_jax import config as config_lib
from pvt_jax.sweeps.spec import Arm, Evaluate, Measure, Sweep, Train, is_seeded, needs

REPORT = "report"
_ROOT = Path("runs/sweeps")
# Stand for the folder of the sweep's runs, and for that of its file.
_RUNS, _HERE = "{runs}", "{here}"


@dataclass(frozen=True)
class Look:
    """A run that only looks for a learning rate: its value, and the number of the look, from 0."""

    number: int
    value: float


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
      arm: whose it is.
      seed: None for what has none.
      look: None for a run that counts.
      folder: where it happens, below the folder of the sweep's runs.
      module: what is run: a module, or a script beside the sweep's file.
      arguments: its arguments, without paths of this machine; ``{runs}`` stands for the folder of the sweep's runs,
        ``{here}`` for that of its file.
      local: arguments that name what is on this machine, as the folder of the data.
    """

    arm: Arm
    seed: int | None
    look: Look | None
    folder: Path
    module: str
    arguments: tuple[str, ...]
    local: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As "deep, seed 1"."""
        parts = [self.arm.name]
        if self.look is not None:
            parts.append(f"learning rate {self.look.value:g}, look {self.look.number + 1}")
        elif self.seed is not None:
            parts.append(f"seed {self.seed}")
        return ", ".join(parts)

    def command(self, sweep: Path) -> str:
        """What a person types to run it, with nothing in it of this machine; ``sweep`` is the sweep's file."""
        beside = Path("experiments", sweep.parent.name)
        return shlex.join(["python", *self._words(beside, _ROOT / sweep.parent.name)])

    def words(self, sweep: Path, runs: Path) -> list[str]:
        """The command here; ``runs`` is the folder of the sweep's runs."""
        return [sys.executable, *self._words(sweep.parent, runs), *self.local]

    def _words(self, beside: Path, runs: Path) -> list[str]:
        start = [str(beside / self.module)] if self.module.endswith(".py") else ["-m", self.module]
        return [*start, *(_placed(word.replace(_RUNS, str(runs)), beside) for word in self.arguments)]

    @property
    def identity(self) -> tuple[str, int | None, int | None, float | None]:
        """What it is in its sweep: arm, seed, and number and value of a look."""
        look = self.look
        return self.arm.name, self.seed, look.number if look else None, look.value if look else None


def jobs(sweep: Sweep, rates: Mapping[str, float], overrides: Sequence[str] = ()) -> list[Job]:
    """All jobs that count, arm by arm, and within it seed by seed.

    Args:
      sweep: which.
      rates: the learning rate that was found for each tuned arm.
      overrides: ``KEY=VALUE`` for all configs.
    """
    found = []
    for arm in sweep.arms:
        for seed in sweep.seeds if is_seeded(arm) else (None,):
            found.append(_job(sweep, arm, seed, rates, overrides))
    return found


def looks(sweep: Sweep, arm: Train, number: int, values: Sequence[float], overrides: Sequence[str]) -> list[Job]:
    """The jobs of one look at ``values``."""
    tuning = sweep.tuning
    assert tuning is not None
    found = []
    for value in values:
        keys = {**arm.overrides, **tuning.overrides, tuning.key: value, "steps": tuning.steps[number]}
        # A start's weights are of a seed that is compared.
        job = _training(sweep, arm, tuning.seed, keys, overrides, sweep.start_seed, f"look{number + 1}_{value:g}")
        found.append(Job(arm, tuning.seed, Look(number, value), *job))
    return found


def survivors(results: Mapping[float, float]) -> list[float]:
    """The better half of the values, rounded up and ascending; what is not finite is worst. The lower one of equals."""
    ranked = sorted(results, key=lambda value: (_worst_last(results[value]), value))
    return sorted(ranked[: math.ceil(len(ranked) / 2)])


def best(results: Mapping[float, float]) -> float:
    """The value with the highest result; the lower one of equals."""
    return min(results, key=lambda value: (_worst_last(results[value]), value))


def _worst_last(result: float) -> float:
    return -result if math.isfinite(result) else math.inf


def _job(sweep: Sweep, arm: Arm, seed: int | None, rates: Mapping[str, float], overrides: Sequence[str]) -> Job:
    if isinstance(arm, Train):
        keys = {**arm.overrides, **_rate(sweep, arm, rates)}
        return Job(arm, seed, None, *_training(sweep, arm, seed, keys, overrides, seed, f"seed{seed}"))
    if isinstance(arm, Evaluate):
        trained = sweep.arm(arm.of)
        assert isinstance(trained, Train)
        keys = {**trained.overrides, **_rate(sweep, trained, rates), **arm.overrides, "seed": seed}
        keys["init.checkpoint"] = _folder(sweep, arm.of, f"seed{seed}")
        shared, local = _divided(overrides)
        folder = _folder(sweep, arm.name, f"seed{seed}")
        words = ["--config", _config(trained), "--mode", "eval", "--workdir", folder, "--report", f"{folder}/{REPORT}"]
        return Job(arm, seed, None, _below(folder), "pvt_jax.main", (*words, *_flags(keys), *shared), local)
    assert isinstance(arm, Measure)
    trained = {name: _folder(sweep, name, f"seed{seed}") for name in needs(arm)}
    words = tuple(_filled(word, trained) for word in arm.arguments)
    folder = _folder(sweep, arm.name, "once" if seed is None else f"seed{seed}")
    return Job(arm, seed, None, _below(folder), arm.command, words)


def _training(
    sweep: Sweep, arm: Train, seed: int | None, keys: Mapping[str, Any], overrides: Sequence[str], start: Any, last: str
) -> tuple[Path, str, tuple[str, ...], tuple[str, ...]]:
    """(folder, module, arguments, local arguments) of a training run."""
    folder = _folder(sweep, arm.name, last)
    keys = {**keys, "seed": seed}
    if arm.start:
        keys["init.checkpoint"] = _folder(sweep, arm.start, f"seed{start}")
    shared, local = _divided(overrides)
    words = ("--config", _config(arm), "--workdir", folder, *_flags(keys), *shared)
    return _below(folder), "pvt_jax.main", words, local


def _rate(sweep: Sweep, arm: Train, rates: Mapping[str, float]) -> dict[str, float]:
    return {sweep.tuning.key: rates[arm.name]} if sweep.tuning is not None and arm.tuned else {}


def _folder(sweep: Sweep, arm: str, last: str) -> str:
    return f"{_RUNS}/{sweep.scale}/{arm}/{last}"


def _placed(word: str, beside: Path) -> str:
    """A path that begins with the folder of the sweep's file, as short as it gets."""
    return posixpath.normpath(word.replace(_HERE, str(beside))) if word.startswith(_HERE) else word


def _config(arm: Train) -> str:
    spec = arm.config
    return f"{_HERE}/{spec}" if spec.startswith(("./", "../")) else spec


def _below(folder: str) -> Path:
    return Path(folder.removeprefix(f"{_RUNS}/"))


def _filled(word: str, folders: Mapping[str, str]) -> str:
    for name, folder in folders.items():
        word = word.replace(f"{{{name}}}", folder)
    return word


def _flags(keys: Mapping[str, Any]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in keys.items()]


def _divided(overrides: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags of the overrides: those that are the same everywhere, and those that name a path of this machine."""
    flags = [(f"--config.{text}", config_lib.is_path(text.partition("=")[0])) for text in overrides]
    return tuple(flag for flag, local in flags if not local), tuple(flag for flag, local in flags if local)
