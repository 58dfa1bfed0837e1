"""Times each part of RetinaNet inference, from image to boxes, on jax's default device.

    python experiments/detection_parts/detection_parts.py --models pvt_tiny pvt_small resnet50 \\
        --image_sizes 800x1344 640x1088 --rounds 5 --json results.json

Prints a markdown table. Each part is its own program: backbone, feature pyramid (FPN), heads (the towers of
convolutions up to logits and box deltas), and decoding with non-maximum suppression (NMS); "whole" is one program for
everything. Images are not padded, so nothing is masked. Weights are random; models and sizes take turns.

The cost of decoding depends on the scores, which random weights do not determine. So it runs on three inputs:

  none:    the classifier as initialised, all scores near 0.01: nothing enters NMS.
  all:     its bias at 0, all scores near 0.5: the most pairs that each level may pass on enter. Boxes are nearly the
           anchors and classes arbitrary, so NMS soon has the largest number of detections and stops.
  objects: every anchor predicts the box and class of one of 20 objects: as many pairs enter, but all except 20 are
           suppressed, so NMS has to visit all of them. This is its worst case.

"sum" and "whole" are those of "all".
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.speed.cases import image_size  # noqa: E402
from pvt_jax.compilation import compiler_options  # noqa: E402
from pvt_jax.errors import UserError  # noqa: E402
from pvt_jax.models import create_model  # noqa: E402
from pvt_jax.ops.boxes import encode_deltas  # noqa: E402

OBJECTS = 20
INPUTS = ("none", "all", "objects")  # of decoding
SUMMED = ("backbone", "FPN", "heads", "decoding, all")
PARTS = (*SUMMED[:-1], *(f"decoding, {name}" for name in INPUTS), "whole")


def random_variables(model: Any) -> Any:
    """Variables as at the start of training; they do not depend on the image size."""
    init = jax.jit(model.init, compiler_options=compiler_options("init"))
    return init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def with_bias(variables: Any, bias: float) -> Any:
    """``variables`` with the classifier's bias set to ``bias`` for every class."""
    head = variables["params"]["head"]
    classifier = {**head["classifier"], "bias": jnp.full_like(head["classifier"]["bias"], bias)}
    return {**variables, "params": {**variables["params"], "head": {**head, "classifier": classifier}}}


def of_part(variables: Any, name: str) -> Any:
    """The variables of one module of the model; not all have batch norm statistics."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def decode(head: Any, levels: list[Any], sizes: jax.Array) -> dict[str, jax.Array]:
    """``head.detect``, given the logits and deltas of each level."""

    def given(method: Callable, arguments: Any, keywords: Any, context: Any) -> Any:
        return levels if context.method_name == "_levels" else method(*arguments, **keywords)

    with nn.intercept_methods(given):
        return head.apply({}, {}, sizes, method="detect")


def predicting_objects(levels: list[Any], image_size: tuple[int, int]) -> list[Any]:
    """``levels`` whose anchors in turn predict one of ``OBJECTS`` boxes, each of its own class, with high scores."""
    height, width = image_size
    keys = jax.random.split(jax.random.key(1))
    corners = jax.random.uniform(keys[0], (OBJECTS, 2)) * jnp.array([width, height]) * 0.75
    sides = jax.random.uniform(keys[1], (OBJECTS, 2), minval=0.1, maxval=0.25) * jnp.array([width, height])
    boxes = jnp.concatenate([corners, corners + sides], axis=1)
    predicted = []
    for level in levels:
        number = jnp.arange(len(level.anchors)) % OBJECTS
        own = number[:, None] == jnp.arange(level.logits.shape[-1])
        deltas = jnp.broadcast_to(encode_deltas(level.anchors, boxes[number]), level.deltas.shape)
        predicted.append(level._replace(logits=jnp.where(own, level.logits + 3.0, -10.0), deltas=deltas))
    return predicted


def candidates(head: Any, levels: list[Any]) -> int:
    """Number of pairs of anchor and class of the first image that enter NMS."""
    passing = [int((jax.nn.sigmoid(level.logits[0]) > head.score_threshold).sum()) for level in levels]
    return sum(min(count, head.pre_nms) for count in passing)


class Case:
    """A model at an image size: every part compiled, with its inputs.

    Attributes:
      calls: part → a function that runs it once and returns its outputs.
      facts: known before timing.
      seconds: part → seconds of each timed call.
    """

    def __init__(self, name: str, model: Any, variables: Any, image_size: tuple[int, int], batch_size: int):
        images = jax.random.normal(jax.random.key(2), (batch_size, *image_size, 3))
        sizes = jnp.broadcast_to(jnp.array(image_size, jnp.int32), (batch_size, 2))
        rare = variables["params"]["head"]["classifier"]["bias"][0]
        variables = with_bias(variables, 0.0)
        self.calls: dict[str, Callable[[], Any]] = {}
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self.compile_seconds: dict[str, float] = {}

        maps = self._add(
            "backbone", partial(model.backbone.apply, method="features"), of_part(variables, "backbone"), images
        )
        pyramid = self._add("FPN", model.neck.apply, of_part(variables, "neck"), maps)
        towers = partial(model.head.apply, region=None, method="_levels")
        levels = self._add("heads", towers, of_part(variables, "head"), pyramid)
        inputs = {
            "none": [level._replace(logits=level.logits + rare) for level in levels],
            "all": levels,
            "objects": predicting_objects(levels, image_size),
        }
        program = self._compiled("decoding", partial(decode, model.head), levels, sizes)
        found = {}
        for key, value in inputs.items():
            self.calls[f"decoding, {key}"] = partial(program, value, sizes)
            found[key] = self.calls[f"decoding, {key}"]()
        program = self._compiled("whole", model.apply, variables, images)
        self.calls["whole"] = partial(program, variables, images)
        plan = program.memory_analysis()
        self.facts = {
            "model": name,
            "image_size": image_size,
            "batch_size": batch_size,
            "compile_seconds": self.compile_seconds,
            "temporary_gib": None if plan is None else plan.temp_size_in_bytes / 2**30,
            "candidates": {key: candidates(model.head, value) for key, value in inputs.items()},
            "detections": {key: int(value["valid"][0].sum()) for key, value in found.items()},
        }

    def turn(self, steps: int) -> None:
        """Time every part, after an untimed call of each to refill the caches."""
        for part in PARTS:
            jax.block_until_ready(self.calls[part]())
            for _ in range(steps):
                start = time.perf_counter()
                jax.block_until_ready(self.calls[part]())
                self.seconds[part].append(time.perf_counter() - start)

    def _compiled(self, part: str, function: Callable, *inputs: Any) -> Any:
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*inputs).compile(compiler_options("infer"))
        self.compile_seconds[part] = time.perf_counter() - start
        return compiled

    def _add(self, part: str, function: Callable, *inputs: Any) -> Any:
        self.calls[part] = partial(self._compiled(part, function, *inputs), *inputs)
        return self.calls[part]()


def results(case: Case) -> dict[str, Any]:
    """Facts, all times, and medians in seconds per batch."""
    medians = {part: statistics.median(values) for part, values in case.seconds.items()}
    medians["sum"] = sum(medians[part] for part in SUMMED)
    rate = case.facts["batch_size"] / medians["whole"]
    return {**case.facts, "images_per_second": rate, "medians": medians, "seconds": case.seconds}


COLUMNS = (*PARTS[:-1], "sum", "whole")
HEADER = ("model", "image", *(f"{part}, ms" for part in COLUMNS), "images/s", "compile, s", "temporary GiB")


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    memory = result["temporary_gib"]
    cells = [
        result["model"], "×".join(map(str, result["image_size"])),
        *(f"{1000 * result['medians'][part]:.4g}" for part in COLUMNS), f"{result['images_per_second']:.3g}",
        f"{result['compile_seconds']['whole']:.0f}", "" if memory is None else f"{memory:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["pvt_tiny", "pvt_small", "resnet50"], metavar="MODEL")
    parser.add_argument("--image_sizes", nargs="+", type=image_size, default=[(800, 1344), (640, 1088)], metavar="HxW")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each model at each size")
    parser.add_argument("--steps", type=int, default=1, help="timed calls of each part per turn, after an untimed one")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    flags = parser.parse_args(arguments)
    cases = []
    try:
        for name in flags.models:
            model = create_model(name, head="retinanet", num_classes=80, dtype=flags.dtype)
            variables = random_variables(model)
            cases += [Case(name, model, variables, size, flags.batch_size) for size in flags.image_sizes]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for _ in range(flags.rounds):
        for case in cases:
            case.turn(flags.steps)

    measured = [results(case) for case in cases]
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * 2}{'---:|' * (len(HEADER) - 2)}")
    for result in measured:
        print(row(result))
    for result in measured:
        entered = (f"{name} {result['candidates'][name]} → {result['detections'][name]}" for name in INPUTS)
        size = "×".join(map(str, result["image_size"]))
        print(f"\n{result['model']}, {size}: pairs into NMS → detections: {', '.join(entered)}")
    machine = (
        f"{jax.devices()[0].device_kind} ({jax.default_backend()}), {os.cpu_count()} CPU cores, {platform.platform()}; "
        f"jax {jax.__version__}, flax {flax.__version__}; {flags.dtype}, batch {flags.batch_size}"
    )
    print(f"\n{machine}")
    if flags.json:
        flags.json.write_text(json.dumps({"machine": machine, "cases": measured}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
