"""Seconds from the command to the first step of ``python -m pvt_jax.main``, and what they go to.

    python experiments/first_step/first_step.py --tree OTHER --rounds 3 --json first_step.json

With an empty compilation cache and with a full one, for this tree and another one, such as a clone at an older commit;
the trees take turns. A step has two images of noise, with boxes for RetinaNet. The clock starts with the process and
stops when the first step's numbers are written. The process then leaves as after an error, without evaluation and
checkpoint.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# In order, from the process's start; the first step ends with its numbers on the host.
PHASES = ("imports", "data and weights", "first parameters", "first step", "rest")
# Durations that jax reports; where they overlap the later one counts.
DURATIONS = {
    "jaxpr_trace_duration": "tracing",
    "jaxpr_to_mlir_module_duration": "lowering",
    "backend_compile_duration": "compiling or reading",
}
_BEGIN, _RECORD = "PVT_JAX_BEGIN", "PVT_JAX_RECORD"
_SIDE = 128

_FOLDER = ("data.source=folder", "data.root={images}", "data.name=", "model.num_classes=2")
_COCO = ("data.root={coco}", "model.num_classes=2", "init.checkpoint=")
_SIZES = (f"detection.short_sides=({_SIDE},)", f"detection.long_side={_SIDE}", f"detection.test_short_side={_SIDE}")
# Config and overrides by name; what all have is in ``command``.
RUNS = {
    "pvt_tiny": ("configs/pvt_tiny.py", _FOLDER),
    "pvt_large": ("configs/pvt_large.py", _FOLDER),
    "retinanet": ("configs/retinanet.py:pvt_small", (*_COCO, *_SIZES)),
}
_ALL = ("steps=1", "log_every_steps=1", "batch_size=2", "data.workers=0", "data.threads=1", "model.dtype=float32")


# In the process that is timed.


def child(arguments: Sequence[str]) -> None:
    """Run ``pvt_jax.main`` up to the first step, and write what its seconds went to."""
    begin = float(os.environ[_BEGIN])
    intervals: list[tuple[str, float, float]] = []

    import jax

    def note(event: str, duration_secs: float, **rest: Any) -> None:
        if kind := DURATIONS.get(event.rpartition("/")[2]):
            now = time.time()
            intervals.append((kind, now - duration_secs, now))

    jax.monitoring.register_event_duration_secs_listener(note)
    from pvt_jax import main
    from pvt_jax.training import build, loop

    spent = {"imports": time.time() - begin}
    trainer: Any = loop._Trainer
    write = trainer._write

    def timed(owner: Any, name: str, phase: str) -> None:
        function = getattr(owner, name)

        def wrapped(*arguments: Any, **more: Any) -> Any:
            start = time.time()
            try:
                return function(*arguments, **more)
            finally:
                spent[phase] = time.time() - start

        setattr(owner, name, wrapped)

    def written(self: Any, step: int, split: str, metrics: dict[str, float]) -> None:
        write(self, step, split, metrics)
        end = time.time()
        spent["first step"] = end - started[0]
        record = {"phases": spent, "seconds": end - begin, "durations": exclusive(intervals), "loss": metrics["loss"]}
        Path(os.environ[_RECORD]).write_text(json.dumps(record))
        raise SystemExit(0)

    started: list[float] = []
    go = trainer.go

    def goes(*arguments: Any) -> Any:
        started.append(time.time())
        return go(*arguments)

    timed(loop, "build", "data and weights")
    timed(build.Run, "first_state", "first parameters")
    trainer.go, trainer._write = goes, written
    sys.exit(main.main(arguments))


def exclusive(intervals: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Seconds by kind of (kind, start, end): what lies in several counts once, for the last kind of ``DURATIONS``."""
    kinds = [*DURATIONS.values()]
    found = dict.fromkeys(kinds, 0.0)
    edges = sorted({edge for _, *both in intervals for edge in both})
    for start, end in zip(edges, edges[1:], strict=False):
        inside = [kinds.index(kind) for kind, first, last in intervals if first <= start and end <= last]
        if inside:
            found[kinds[max(inside)]] += end - start
    return found


# In the process that starts it.


def command(name: str, data: dict[str, str], workdir: Path) -> list[str]:
    """Arguments of ``pvt_jax.main``."""
    config, own = RUNS[name]
    settings = [f"--config.{text}".format(**data) for text in (*_ALL, *own)]
    return ["--config", config, "--workdir", str(workdir), *settings]


def timed_run(name: str, tree: Path, cache: Path, data: dict[str, str], python: str) -> dict[str, Any]:
    """The record of one run; its workdir is thrown away. Raises SystemExit: it fails."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            _RECORD: str(record),
        }
        words = [python, str(Path(__file__).resolve()), "--child", *command(name, data, Path(folder) / "run")]
        environment[_BEGIN] = repr(time.time())
        done = subprocess.run(
            words, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if not record.exists():
            last = (done.stdout.strip() or "nothing was said").splitlines()[-1]
            raise SystemExit(f"{name} in {tree}: no first step, exit code {done.returncode}: {last}")
        found = json.loads(record.read_text())
    found["phases"]["rest"] = found["seconds"] - sum(found["phases"].values())
    return found


def compare(
    names: Sequence[str],
    trees: dict[str, Path],
    rounds: int,
    python: str,
    run: Callable[..., dict[str, Any]] = timed_run,
) -> list[dict[str, Any]]:
    """Records of all runs: trees take turns, each round begins with empty caches."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder))
        for name in names:
            for number in range(rounds):
                for cache in ("cold", "warm"):
                    for label, tree in trees.items():
                        kept = Path(folder) / "caches" / f"{name}-{number}-{label}"
                        found = {"model": name, "tree": label, "cache": cache, **run(name, tree, kept, data, python)}
                        records.append(found)
                        print(f"{name}, {label}, {cache}: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
    return records


def write_data(folder: Path) -> dict[str, str]:
    """A few noise images, as a folder of classes and as COCO has them: their folders by name."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)

    def picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(path)

    images, coco = folder / "images", folder / "coco"
    for split, year in (("train", "train2017"), ("val", "val2017")):
        for number in range(4):
            picture(images / split / f"class{number % 2}" / f"{split}{number}.jpg")
        for number in (1, 2):
            picture(coco / year / f"{number}.jpg")
        sizes = {"height": _SIDE, "width": _SIDE}
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg", **sizes} for number in (1, 2)],
            "categories": [{"id": number, "name": f"class{number}"} for number in (1, 2)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": n, "bbox": [8, 8, 64, 48], "area": 64 * 48, "iscrowd": 0}
                for n in (1, 2)
            ],
        }
        path = coco / "annotations" / f"instances_{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return {"images": str(images), "coco": str(coco)}


def table(records: Sequence[dict[str, Any]]) -> str:
    """In Markdown: medians of the rounds, in seconds."""
    head = ("model", "tree", "cache", "first step after", *PHASES, *(f"of it {kind}" for kind in DURATIONS.values()))
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["model"], record["cache"], record["tree"]), []).append(record)
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for (model, cache, tree), group in groups.items():
        columns = [[record["seconds"] for record in group]]
        columns += [[record["phases"][phase] for record in group] for phase in PHASES]
        columns += [[record["durations"][kind] for record in group] for kind in DURATIONS.values()]
        lines.append((model, tree, cache, *(f"{statistics.median(column):.1f}" for column in columns)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def label_of(tree: Path) -> str:
    """Its commit, or its name."""
    found = subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or tree.name


def main() -> None:
    """The command."""
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, metavar="DIR", help="another checkout of this project")
    parser.add_argument("--models", nargs="+", default=[*RUNS], choices=RUNS, help=f"default: {' '.join(RUNS)}")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, medians of which are printed; default: 1")
    parser.add_argument("--python", default=sys.executable, help="interpreter; default: this one")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be above 0, but is {arguments.rounds}")
    trees = {label_of(ROOT): ROOT}
    if arguments.tree:
        tree = arguments.tree.resolve()
        if not (tree / "pvt_jax" / "main.py").exists():
            parser.error(f"--tree {arguments.tree}: there is no pvt_jax/main.py in it")
        if label_of(tree) in trees:
            parser.error(f"--tree {arguments.tree}: it is at the same commit as this one, {label_of(tree)}")
        trees = {label_of(tree): tree, **trees}
    records = compare(arguments.models, trees, arguments.rounds, arguments.python)
    print(table(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
