"""Processes that take turns at a step: one a side, which lives through all rounds, so that all meet the same machine.

Needs Python alone. Each environment has what its side needs, and may lack the others'.
"""

import contextlib
import dataclasses
import json
import os
import resource
import select
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.speed.cases import MORE_PARAMETERS, SIDES, Case, Side  # noqa: E402

# A deadline; others are by ``time.monotonic()``.
NEVER = float("inf")
# Of the seconds until a deadline, how many the rounds get; until then sides may start.
_ROUNDS = 0.1


@dataclass(frozen=True)
class Turns:
    """How often each side is timed.

    Attributes:
      rounds: turns of each side.
      steps: timed ones of a turn, after an untimed one.
      calls: of a step between two looks at the clock, which then tells their mean. On an accelerator several: it works
        on one while the host prepares the next, as in training.
      warmup: steps before the first turn.
    """

    rounds: int = 10
    steps: int = 2
    calls: int = 1
    warmup: int = 3


class SideError(Exception):
    """A side cannot go on; the message is one line. ``late``: it has only run out of time."""

    def __init__(self, message: str, late: bool = False):
        super().__init__(message)
        self.late = late


class Worker:
    """The process of a side."""

    def __init__(self, side: str, case: Case, python: str, environment: Mapping[str, str], log: Any = None):
        command = [python, str(Path(__file__).resolve()), side, json.dumps(dataclasses.asdict(case))]
        # Compilers start processes of their own, which have to end with it.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=dict(environment),
        )

    def ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        """What it answers. Raises SideError: it fails, ends, or says nothing until ``deadline``."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self.answer(deadline)

    def answer(self, deadline: float) -> dict[str, Any]:
        """The next answer; see ``ask``."""
        stdout = self.process.stdout
        assert stdout is not None
        left = None if deadline == NEVER else max(deadline - time.monotonic(), 0)
        # It answers each request with one line, so that nothing waits in a buffer.
        if not select.select([stdout], [], [], left)[0]:
            raise SideError("no time left", late=True)
        line = stdout.readline()
        if not line:
            raise SideError(f"its process ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def close(self) -> None:
        """End it, with the processes that it has started."""
        with killed_with_children(self.process):
            pass
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def killed_with_children(process: subprocess.Popen) -> Iterator[None]:
    """In the end a process that leads a session is killed with those that it has started, if it still runs."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_by_signal() -> None:
    """Let SIGTERM end this process as an error does, with all that it has started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def compare(
    case: Case,
    sides: Sequence[str],
    turns: Turns,
    *,
    pythons: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
    deadline: float = NEVER,
    log: Any = None,
    start: Callable[..., Worker] = Worker,
) -> dict[str, Any]:
    """The record of a case: its fields, and by side the times of its steps, images per second, memory and facts.

    In place of these a side that failed has ``error``, and ``late`` if it only ran out of time.

    Args:
      pythons: interpreters by framework.
      environment: variables of the processes; default: those of this one.
      deadline: by ``time.monotonic()``.
      log: a file that takes what the processes say; default: the standard error of this one.
      start: makes a worker.
    """
    environment = dict(os.environ if environment is None else environment)
    begin = time.monotonic()
    rounds_begin = deadline if deadline == NEVER else deadline - _ROUNDS * (deadline - begin)
    workers: dict[str, Worker] = {}
    results: dict[str, dict[str, Any]] = {}

    def attempt(action: Callable[[str], None]) -> None:
        """With each side that is left, one after the other."""
        for side in list(workers):
            try:
                action(side)
            except SideError as error:
                workers.pop(side).close()
                # Fewer turns than asked for are turns, too.
                if not (error.late and results.get(side, {}).get("seconds")):
                    results[side] = {"error": str(error), "late": error.late}

    def load(side: str) -> None:
        workers[side].answer(rounds_begin)

    def build(side: str) -> None:
        results[side] = workers[side].ask({"warmup": turns.warmup}, rounds_begin) | {"seconds": []}

    def turn(side: str) -> None:
        time.sleep(0.3)  # the other frameworks' threads spin for a while after their last task
        answer = workers[side].ask({"steps": turns.steps, "calls": turns.calls}, deadline)
        results[side]["seconds"] += answer["seconds"]
        results[side]["peak_bytes"] = answer["peak_bytes"]

    try:
        # All load their libraries at once; what they do on the device they do one after the other.
        for side in sides:
            framework = SIDES[side].framework
            workers[side] = start(side, case, pythons[framework], environment | _variables(framework, case.device), log)
        for action in (load, build, *[turn] * turns.rounds):
            attempt(action)
    finally:
        for worker in workers.values():
            worker.close()
    _check_parameters(case, results)
    for result in results.values():
        if result.get("seconds"):
            result["images_per_second"] = case.batch_size / statistics.median(result["seconds"])
            result["best_images_per_second"] = case.batch_size / min(result["seconds"])
            result["least_images_per_second"] = case.batch_size / max(result["seconds"])
    return {**dataclasses.asdict(case), "sides": {side: results[side] for side in sides}}


def _variables(framework: str, device: str) -> dict[str, str]:
    if framework == "torch":
        return {}
    # All processes live at once: none may take the memory of the device for itself.
    return {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def _check_parameters(case: Case, results: dict[str, dict[str, Any]]) -> None:
    """A baseline of another size is no baseline."""
    ours = next((one["parameters"] for side, one in results.items() if _is_ours(side) and "parameters" in one), None)
    more = MORE_PARAMETERS.get(case.model, 0)
    if ours is None or more is None:
        return
    for side, one in results.items():
        expected = ours if _is_ours(side) else ours + more
        if one.get("parameters", expected) != expected:
            found = f"{one['parameters']:,} parameters, but {expected:,} were expected"
            results[side] = {"error": f"another model: it has {found}", "late": False}


def _is_ours(side: str) -> bool:
    return SIDES[side].framework == "jax"


# What runs in the process of a side.


class Steps(Protocol):
    """A step of a side, ready to run."""

    facts: dict[str, Any]

    def start(self) -> object:
        """Run the next step, or only hand it over to the device."""
        ...

    def wait(self) -> None:
        """Wait for all steps so far."""
        ...

    def peak_bytes(self) -> int:
        """The most memory that was in use so far, of the device, or of the process on a CPU."""
        ...


def work(
    make: Callable[[], Callable[[Case, Side], Steps]], side: Side, case: Case, pipes: tuple[TextIO, TextIO]
) -> None:
    """Answer each line of the first of ``pipes`` in the second one: facts about the step, then the times of turns.

    An answer comes before the first request, when ``make`` has loaded what makes the steps.
    """
    requests, answers = pipes

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        make_steps = make()
        answer({})
        warmup = json.loads(next(requests))["warmup"]
        steps = make_steps(case, side)
        for _ in range(warmup):
            steps.start()
        steps.wait()
        answer(steps.facts)
        for line in requests:
            request = json.loads(line)
            # Untimed: an idle process has lost caches and memory pages, which is no cost of a step.
            seconds = [timed(steps, request["calls"]) for _ in range(1 + request["steps"])][1:]
            answer({"seconds": seconds, "peak_bytes": steps.peak_bytes()})
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip() or "no reason given").splitlines()[0]
        answer({"error": f"{type(error).__name__}: {first}"})


def timed(steps: Steps, calls: int) -> float:
    """Mean seconds of so many calls."""
    start = time.perf_counter()
    for _ in range(calls):
        steps.start()
    steps.wait()
    return (time.perf_counter() - start) / calls


def resident_peak() -> int:
    """Bytes of this process at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10  # Linux counts in KiB


def maker(framework: str) -> Callable[[Case, Side], Steps]:
    """What makes the steps of a framework. Each environment has one of the two, or both."""
    if framework == "jax":
        from experiments.speed.jax_steps import JaxSteps as Made
    else:
        from experiments.speed.torch_steps import TorchSteps as Made
    return Made


def main() -> None:
    """The process of a side: ``turns.py SIDE CASE``."""
    fields = json.loads(sys.argv[2])
    case = Case(**fields | {"image_size": tuple(fields["image_size"])})
    # Libraries print, too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = SIDES[sys.argv[1]]
    work(lambda: maker(side.framework), side, case, (sys.stdin, answers))


if __name__ == "__main__":
    main()
