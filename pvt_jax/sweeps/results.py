"""``results.jsonl`` of a sweep: a record, which is one JSON object, for each run.

A record has ``scale``, ``arm``, ``seed`` (None: it has none), ``facts`` of the arm, the ``command`` that a person
types, ``values`` (numbers by dotted name), ``curves`` (metric → steps and values), ``seconds`` of the run, and where it
came from: ``revision`` of the code that it began with, ``date`` of its end, ``machine``, ``versions``. A run that reads
others has their commands as ``reads``. A look for a learning rate has ``look`` and ``rate``, and ``diverged`` where its
loss did, which then has no values.
"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.sweeps.spec import Sweep
from pvt_jax.training import history

FILE = "results.jsonl"
_LOCK = ".results.lock"
Record = Mapping[str, Any]
_NEEDED = {"scale", "arm", "seed", "command", "values"}


def read(file: Path) -> list[dict[str, Any]]:
    """The records, in the order of the file; none if there is no file. Raises UserError: a line is damaged."""
    try:
        texts = file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    found = []
    for number, text in enumerate(texts, 1):
        try:
            record = json.loads(text)
            if lacking := _NEEDED - record.keys():
                raise KeyError(*sorted(lacking))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} is damaged in line {number} ({type(error).__name__}): remove that line, and its run is "
                "recorded again"
            ) from error
        found.append(record)
    return found


def add(file: Path, record: Record, sweep: Sweep) -> None:
    """Put a record in its place; that of an earlier run of the same is replaced. Several processes may do so at once.

    Raises UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _held(file.with_name(_LOCK)):
            others = [other for other in read(file) if identity(other) != identity(record)]
            order = {arm.name: number for number, arm in enumerate(sweep.arms)}
            scales = list(dict.fromkeys(other["scale"] for other in [*others, record]))

            def place(one: Record) -> tuple[Any, ...]:
                here = order if one["scale"] == sweep.scale else {}
                look, rate, seed = one.get("look"), one.get("rate"), one["seed"]
                numbers = (-1 if number is None else number for number in (seed, look, rate))
                return scales.index(one["scale"]), here.get(one["arm"], len(order)), look is None, *numbers

            ordered = sorted([*others, record], key=place)
            text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in ordered)
            paths.write_whole(file, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def identity(record: Record) -> tuple[Any, ...]:
    """Two records of the same run have the same."""
    return record["scale"], record["arm"], record["seed"], record.get("look"), record.get("rate")


def of_training(folder: Path) -> dict[str, Any]:
    """Values, curves, machine and versions of the training run in ``folder``. Raises UserError: it cannot be read."""
    run = history.read(folder)
    last = next((line for line in reversed(run.lines) if line["split"] == "eval"), {})
    values = {name: value for name, value in last.items() if name not in ("split", "step") and "/" not in name}
    curve, loss = run.curve("eval", run.best_metric), run.curve("train", "loss")
    start = history.read_summary(folder)
    values |= {
        "steps": run.step,
        f"best_{run.best_metric}": curve.best[1] if curve.best else None,
        "train_loss": loss.last,
        "images_per_second": run.images_per_second,
        "training_seconds": run.training_seconds,
        **{name: start[name] for name in ("parameters", "trained_parameters", "backbone_macs")},
    }
    curves = {run.best_metric: [curve.steps, curve.values], "train_loss": [loss.steps, loss.values]}
    return {
        "values": {name: value for name, value in values.items() if value is not None},
        "curves": {name: [[*steps], [*numbers]] for name, (steps, numbers) in curves.items()},
        "machine": start["machine"],
        "versions": start["versions"],
    }


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The numbers and words in nested objects by dotted name; lists are left out, but those of numbers."""
    if isinstance(tree, Mapping):
        parts = [flat(value, f"{prefix}{name}.") for name, value in tree.items()]
        return {name: value for part in parts for name, value in part.items()}
    is_list = isinstance(tree, list)
    if is_list and not all(isinstance(item, int | float) for item in tree):
        return {}
    return {prefix.removesuffix("."): tree}


def at(record: Record, path: str) -> Any:
    """What a record has at ``"values.top1"``, ``"facts.backbone"``, ``"seconds"``; None if nothing.

    The names of values have dots themselves.
    """
    section, _, name = path.partition(".")
    found = record.get(section)
    if not name:
        return found
    return found.get(name) if isinstance(found, Mapping) else None


def number_at(record: Record, path: str) -> float | None:
    """The same, if it is a finite number."""
    found = at(record, path)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and math.isfinite(found) else None


def counted(records: Iterable[Record], sweep: Sweep) -> list[Record]:
    """The records of the sweep's arms at its scale, without looks, in the order of the arms."""
    of_arm: dict[str, list[Record]] = {arm.name: [] for arm in sweep.arms}
    for record in records:
        if record["scale"] == sweep.scale and record["arm"] in of_arm and record.get("look") is None:
            of_arm[record["arm"]].append(record)
    return [record for found in of_arm.values() for record in found]


def by_arm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each arm."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["arm"], []).append(record)
    return found


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.utime(lock)
