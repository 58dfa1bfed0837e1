"""What one machine with an NVIDIA GPU can tell about speed in ten minutes.

    bash experiments/speed/on_device.sh --out OUT --wheels WHEELS --cifar FOLDER

In the order of their value: the kernels of ``pvt_jax.ops.kernels`` against XLA, ours against eager PyTorch and
``torch.compile`` (timm's PVT v2, Hugging Face's PVT), and ``configs/cifar10.py`` for as long as is left. Each result is
in OUT as soon as it is there: ``results.jsonl``, a table in ``report.md``, and what programs said in ``log.txt``. What
fails is reported, and the next part runs. Run again with the same OUT it goes on with what is missing.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.speed import on_device_report as report  # noqa: E402
from experiments.speed.cases import Case  # noqa: E402
from experiments.speed.turns import Turns, compare, end_by_signal, killed_with_children  # noqa: E402
from pvt_jax import commands  # noqa: E402
from pvt_jax.errors import UserError  # noqa: E402

# Of the seconds, how many wait for the training on CIFAR-10, if there is a folder.
_KEPT_FOR_CIFAR10 = 0.2
# The least seconds in which a part can come to something, and the most for the check of the kernels.
_FEWEST, _CHECK = 20.0, 120.0
# Seconds that a run has to save itself.
_SAVING = 30.0


class Budget:
    """Seconds until the end."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.begin, self.end = clock(), clock() + seconds

    def left(self, kept: float = 0.0) -> float:
        """Seconds, without those that are ``kept`` for another part."""
        return self.end - self.clock() - kept

    def spent(self) -> float:
        """Seconds so far."""
        return self.clock() - self.begin


class Results:
    """Records of what was found, in a file of JSON lines, and as a table beside it."""

    def __init__(self, out: Path):
        self.out, self.file = out, out / "results.jsonl"
        self.records = (
            [json.loads(line) for line in self.file.read_text("utf-8").splitlines()] if self.file.exists() else []
        )

    def add(self, part: str, **values: Any) -> None:
        """Write one more record, and the table of all."""
        self.records.append({"part": part, **values})
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.records[-1]) + "\n")
        (self.out / "report.md").write_text(report.report(self.records), "utf-8")

    def has(self, part: str, **values: Any) -> bool:
        """Whether there is a record that was not cut off by the end of the time."""
        return any(
            record["part"] == part
            and all(record.get(name) == value for name, value in values.items())
            and not any(side.get("late") for side in record.get("sides", {}).values())
            for record in self.records
        )


@dataclass(frozen=True)
class Plan:
    """What is run, of full size or tiny."""

    cases: tuple[tuple[Case, tuple[str, ...]], ...]
    turns: Turns
    check: tuple[str, ...] = ()
    cifar10: tuple[str, ...] = ()

    @classmethod
    def full(cls) -> "Plan":
        """128 images of 224² on a GPU."""
        return cls(tuple(_cases(batch_size=128, device="cuda")), Turns(rounds=6, steps=2, calls=10, warmup=3))

    @classmethod
    def tiny(cls) -> "Plan":
        """A few small images, on a CPU: whether everything runs."""
        settings = (
            "steps=2",
            "batch_size=4",
            "model.patch_sizes=(4,2,2,2)",
            "model.dtype=float32",
            "log_every_steps=1",
        )
        cases = [*_cases(batch_size=2, image_size=(32, 32), device="cpu")]
        # A CPU is slow in bfloat16.
        small = [one for one in reversed(cases) if one[0].model in ("pvt_v2_b0", "pvt_tiny")]
        return cls(
            tuple(small),
            Turns(rounds=2, steps=1, calls=2, warmup=1),
            ("--interpret",),
            tuple(f"--config.{setting}" for setting in settings),
        )


def _cases(**settings: Any) -> Iterator[tuple[Case, tuple[str, ...]]]:
    """The smaller of each family first, then the larger ones."""
    for models in (("pvt_v2_b0", "pvt_tiny"), ("pvt_v2_b2", "pvt_small")):
        for dtype in ("bfloat16", "float32"):
            for mode in ("train", "infer"):
                for model in models:
                    library = "timm" if model.startswith("pvt_v2") else "torch"
                    # Kernels are for training in bfloat16.
                    plain = ("jax-plain",) if (dtype, mode) == ("bfloat16", "train") else ()
                    yield Case(model, mode, dtype, **settings), ("jax", *plain, library, f"{library}-compiled")


@dataclass(frozen=True)
class Programs:
    """Starts programs of this project.

    Attributes:
      python: interpreter.
      environment: its variables.
      log: takes what programs say.
    """

    python: str
    environment: dict[str, str]
    log: Any

    def run(self, *words: str, seconds: float, codes: Sequence[int] = (0,)) -> str:
        """Standard output. Raises UserError: another exit code than ``codes``, or no end after so many seconds."""
        process = self.start(*words, stdout=subprocess.PIPE)
        with killed_with_children(process):
            try:
                output = process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                raise UserError(f"no end after {seconds:.0f} s") from None
        if process.returncode not in codes:
            raise UserError(f"exit code {process.returncode}: {(output or self.last_words()).strip()}")
        return output

    def start(self, *words: str, stdout: Any) -> subprocess.Popen:
        """The process of an interpreter with these arguments."""
        return subprocess.Popen(
            [self.python, *words],
            stdout=stdout,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=self.environment,
            start_new_session=True,
        )

    def last_words(self) -> str:
        """The last line of the log."""
        self.log.flush()
        lines = Path(self.log.name).read_text("utf-8", "replace").splitlines()
        return lines[-1] if lines else "nothing was said"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags."""
    parser = commands.Parser(prog="on_device.sh", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", required=True, type=commands.path("--out"), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=570.0, help="when to be done; default: 570")
    parser.add_argument("--wheels", type=commands.path("--wheels"), help="folder of wheels to install first")
    parser.add_argument(
        "--cifar", type=commands.path("--cifar"), help="CIFAR-10: a folder with train/CLASS and test/CLASS"
    )
    parser.add_argument(
        "--work",
        type=commands.path("--work"),
        help="folder of wheels as installed, caches and the run on CIFAR-10; default: work in --out",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="on a CPU, with a few small images: whether everything runs"
    )
    flags = parser.parse_args(arguments)
    if not flags.seconds > 0:
        raise UserError(f"--seconds must be above 0, but is {flags.seconds:g}")
    if flags.wheels and not [*flags.wheels.glob("*.whl")]:
        raise UserError(f"--wheels {flags.wheels}: there are no *.whl files in it")
    for split in ("train", "test"):
        if flags.cifar and not (flags.cifar / split).is_dir():
            raise UserError(f"--cifar {flags.cifar}: it needs a folder {split}/ with a folder of images per class")
    flags.work = flags.work or flags.out / "work"
    return flags


def run(arguments: Sequence[str]) -> int:
    """Run the parts; the exit code is 0 if there is any result."""
    flags = parse(arguments)
    end_by_signal()
    budget = Budget(flags.seconds)
    for folder in (flags.out, flags.work):
        folder.mkdir(parents=True, exist_ok=True)
    results, plan = Results(flags.out), Plan.tiny() if flags.tiny else Plan.full()
    with (flags.out / "log.txt").open("a", encoding="utf-8") as log:
        programs = Programs(sys.executable, _environment(flags.work, flags.tiny), log)

        def attempt(name: str, part: Callable[[], None]) -> None:
            commands.say(f"{budget.spent():5.0f} s  {name}")
            try:
                part()
            except Exception as error:  # Whatever it is, other parts may run.
                message = str(error).strip() or type(error).__name__
                commands.say(f"         failed: {message}")
                results.add("failure", what=name, reason=message)

        if flags.wheels:
            attempt("wheels", lambda: install(flags.wheels, flags.work / "site", programs, budget))
        attempt("kernels", lambda: check_kernels(plan, programs, budget, results))
        kept = _KEPT_FOR_CIFAR10 * flags.seconds if flags.cifar else 0.0
        attempt("comparison", lambda: compare_all(plan, programs, budget, kept, results))
        if flags.cifar:
            attempt("CIFAR-10", lambda: train(flags, plan, programs, budget, results))
        results.add("total", seconds=budget.spent(), budget=flags.seconds)
    print((flags.out / "report.md").read_text("utf-8"))
    return 0


def _environment(work: Path, tiny: bool) -> dict[str, str]:
    work = work.resolve()
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(work / "site"), *([before] if before else [])]),
        "JAX_COMPILATION_CACHE_DIR": str(work / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        **({"JAX_PLATFORMS": "cpu"} if tiny else {}),
    }


def install(wheels: Path, site: Path, programs: Programs, budget: Budget) -> None:
    """Put the wheels where the programs find them, without a network and without what they depend on."""
    files = [str(path.resolve()) for path in sorted(wheels.glob("*.whl"))]
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
    programs.run("-m", "pip", "install", *options, *files, seconds=budget.left())


def check_kernels(plan: Plan, programs: Programs, budget: Budget, results: Results) -> None:
    """Record each kernel's largest difference from XLA."""
    if results.has("kernels"):
        return
    script = str(ROOT / "experiments" / "speed" / "check_kernels.py")
    seconds = min(_CHECK, budget.left())
    # By exit code 1 it says that a kernel differs.
    output = programs.run(script, "--json", *plan.check, seconds=seconds, codes=(0, 1))
    if not output:
        raise UserError(programs.last_words())
    results.add("kernels", **json.loads(output))


def compare_all(plan: Plan, programs: Programs, budget: Budget, kept: float, results: Results) -> None:
    """Record case after case, for as long as there is time for one more."""
    longest = _FEWEST
    pythons = {"jax": programs.python, "torch": programs.python}
    for case, sides in plan.cases:
        if results.has("case", **{name: getattr(case, name) for name in ("model", "mode", "dtype", "device")}):
            continue
        if budget.left(kept) < longest / 2:
            results.add("left_out", model=case.model, mode=case.mode, dtype=case.dtype)
            continue
        commands.say(f"{budget.spent():5.0f} s  {case.model}, {case.mode}, {case.dtype}: {', '.join(sides)}")
        begin = budget.spent()
        deadline = budget.clock() + budget.left(kept)
        record = compare(
            case,
            sides,
            plan.turns,
            pythons=pythons,
            environment=programs.environment,
            deadline=deadline,
            log=programs.log,
        )
        results.add("case", **record, wall_seconds=budget.spent() - begin)
        longest = max(longest, budget.spent() - begin)
        for line in report.case_lines(record):
            commands.say(f"         {line}")


def train(flags: argparse.Namespace, plan: Plan, programs: Programs, budget: Budget, results: Results) -> None:
    """Train ``configs/cifar10.py`` until the end, and record how far it came; the next time it goes on."""
    workdir = flags.work / "cifar10"
    if budget.left() < _FEWEST:
        raise UserError("no time left")
    config = f"configs/cifar10.py:{flags.cifar.resolve()}"
    words = ("-m", "pvt_jax.main", "--config", config, "--workdir", str(workdir.resolve()), *plan.cifar10)
    process = programs.start(*words, stdout=programs.log)
    with killed_with_children(process):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(budget.left(min(_SAVING, budget.left() / 3)), 0.0))
        process.terminate()  # It saves itself; if it has ended, nothing happens.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(budget.left(), 5.0))
    metrics = workdir / "metrics.jsonl"
    if not metrics.exists():
        raise UserError(f"exit code {process.returncode}: {programs.last_words()}")
    shutil.copy(metrics, flags.out / "cifar10.jsonl")
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    if not lines:
        raise UserError(
            f"it ended before its first numbers, with exit code {process.returncode}: {programs.last_words()}"
        )
    trained = [line for line in lines if line["split"] == "train"]
    evaluated = [line for line in lines if line["split"] == "eval"]
    rates = [line["images_per_second"] for line in trained if "images_per_second" in line]
    results.add(
        "cifar10",
        exit_code=process.returncode,
        step=max((line["step"] for line in lines), default=0),
        loss=trained[-1]["loss"] if trained else None,
        images_per_second=statistics.median(rates) if rates else None,
        top1=evaluated[-1]["top1"] if evaluated else None,
    )


if __name__ == "__main__":
    sys.exit(commands.run(run, None))
