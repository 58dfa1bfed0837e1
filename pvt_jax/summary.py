"""What a model costs in parameters, MACs and memory: ``python -m pvt_jax.summary pvt_v2_b2 --image_size 512``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pvt_jax import commands
from pvt_jax.errors import UserError
from pvt_jax.messages import aligned, byte_count

if TYPE_CHECKING:
    from pvt_jax.programs import Subject


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags; ``image_size`` becomes (height, width)."""
    parser = commands.Parser(prog="python -m pvt_jax.summary", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="model, as pvt_tiny")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        default=[224],
        metavar="SIDE",
        help="side of the images, or height and width; default 224",
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images of the training step; default 128")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the computation")
    parser.add_argument("--num_classes", type=int, default=1000, help="default 1000")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    commands.add_set_flag(parser)
    parser.add_argument("--compile", action="store_true", help="compile the training step and ask XLA for its memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object: exact numbers, bytes")
    flags = parser.parse_args(arguments)
    commands.check_model_flags(
        flags, own={"name": "NAME", **{key: f"--{key}" for key in ("num_classes", "dtype", "remat")}}
    )
    sides = flags.image_size
    if len(sides) > 2 or min(sides) < 1:
        raise UserError(f"--image_size takes one or two sides above 0, but got {' '.join(map(str, sides))}")
    for name in ("batch_size", "num_classes"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} must be above 0, but is {getattr(flags, name)}")
    flags.image_size = (sides[0], sides[-1])
    return flags


def run(arguments: Sequence[str]) -> int:
    """Print what the flags ask for. Exit code 1 if the two counts of the multiply-accumulates differ."""
    flags = parse(arguments)

    # Importing jax takes seconds; a mistyped flag is answered before.
    from pvt_jax.models import create_model

    settings = {"dtype": flags.dtype, "remat": flags.remat, **flags.settings}
    model = create_model(flags.name, num_classes=flags.num_classes, **settings)
    report = measure(model, flags.image_size, flags.batch_size)
    if flags.compile:
        from pvt_jax import programs

        # Position tables of the same size.
        settings = {"image_size": model.image_size, **settings}  # pyright: ignore[reportAttributeAccessIssue]
        subject = programs.subject(
            flags.name, image_size=flags.image_size, num_classes=flags.num_classes, settings=settings
        )
        report["compiled"] = compiled_memory(subject, flags.batch_size)
    described = {name: getattr(flags, name) for name in ("name", "image_size", "num_classes", "dtype", "remat")}
    report = {**described, "batch_size": flags.batch_size, **report}
    print(json.dumps(report) if flags.json else describe(report))
    if not report["counts_agree"]:
        print(
            "error: the formulas (macs) and the traced program (traced_macs) count different multiply-accumulates: "
            "this is a bug in pvt_jax/backbones/cost.py or pvt_jax/trace.py, trust neither",
            file=sys.stderr,
        )
        return 1
    return 0


def measure(model: Any, image_size: tuple[int, int], batch_size: int) -> dict[str, Any]:
    """Parameters and multiply-accumulates by part, for one image, and bytes of a training step on a batch.

    Raises:
      UserError: the model takes no image of this size.
    """
    import jax

    from pvt_jax import trace
    from pvt_jax.backbones import cost
    from pvt_jax.training.optimizer import adamw
    from pvt_jax.training.options import OptimizerOptions

    variables = trace.abstract_variables(model, *image_size)
    traced = trace.traced_multiply_accumulates(model, *image_size, variables=variables)
    costs = cost.multiply_accumulates(model, *image_size)
    parameters = trace.parameters_by_part(model, variables)
    parts = {
        name: {
            "output": list(part.output),
            "parameters": parameters[name],
            "macs": part.weights + part.attention,
            "attention_macs": part.attention,
            "traced_macs": traced[name].weights + traced[name].attention if name in traced else 0,
            "traced_attention_macs": traced[name].attention if name in traced else 0,
        }
        for name, part in costs.items()
    }
    memory = trace.training_memory(model, *image_size, batch_size, variables=variables)
    optimizer = adamw(OptimizerOptions())
    memory["optimizer_state"] = trace.tree_bytes(jax.eval_shape(optimizer.init, variables["params"]))
    same = all(
        part["macs"] == part["traced_macs"] and part["attention_macs"] == part["traced_attention_macs"]
        for part in parts.values()
    )
    total = {key: sum(part[key] for part in parts.values()) for key in ("parameters", "macs", "attention_macs")}
    traced_total = sum(products.weights + products.attention for products in traced.values())
    return {
        "parts": parts,
        **total,
        "traced_macs": traced_total,
        "counts_agree": same and total["macs"] == traced_total,
        "resampling_macs": sum(products.resampling for products in traced.values()),
        "memory": {**memory, "total": sum(memory.values())},
    }


def compiled_memory(subject: "Subject", batch_size: int) -> dict[str, Any]:
    """What XLA allocates for the training step of ``pvt_jax.main``: bytes, and seconds it took."""
    import jax

    from pvt_jax import programs

    backend = jax.default_backend()
    step = programs.program(subject, "train", batch_size)
    commands.say(f"compiling the training step for {backend}: tens of seconds, or minutes …")
    start = time.perf_counter()
    compiled = step.function.lower(*step.abstract).compile()
    seconds = time.perf_counter() - start
    found = programs.allocated(compiled)
    if found is None:
        raise UserError(f"XLA does not say what it allocates on {backend}: leave --compile away")
    commands.say(f"compiled in {seconds:.0f} s")
    return {"backend": backend, "devices": jax.device_count(), "seconds": round(seconds, 1), **found}


# Text, at most 80 columns wide.

_MEMORY = {
    "parameters": "parameters",
    "batch_stats": "batch statistics",
    "gradients": "gradients",
    "optimizer_state": "optimizer state (AdamW)",
    "images": "images",
    "activations": "activations kept for the backward pass",
    "total": "total, if all is held at once",
}
_COMPILED = {
    "arguments": "arguments (state and batch)",
    "outputs": "results",
    "aliased": "results that take the arguments' place",
    "temporary": "temporary",
    "total": "total",
}


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    height, width = report["image_size"]
    rows: list[tuple[str, ...]] = [("part", "output", "parameters", "MACs", "attention", "share")]
    for name, part in {**report["parts"], "total": {**report, "output": []}}.items():
        counts = [_counted(part[key], report["macs"]) for key in ("macs", "attention_macs")]
        share = f"{part['macs'] / report['macs']:.1%}"
        rows.append((name, "×".join(map(str, part["output"])), f"{part['parameters']:,}", *counts, share))
    lines = [
        f"{report['name']}: images of {height}×{width}, {report['num_classes']} classes",
        "",
        *aligned(rows, left=2),
        "",
        "MACs: multiply-accumulates (FLOPs ≈ 2 × MACs) of matrix products and",
        "convolutions, for one image. attention: those of queries · keys and weights ·",
        "values, which MACs include. share: of all MACs.",
    ]
    if report["resampling_macs"]:
        resampling = _counted(report["resampling_macs"], report["macs"])
        lines += [f"Not counted: {resampling} of resampling by fixed matrices (position tables, pooling)."]
    if report["counts_agree"]:
        lines += ["Two counts agree: from the formulas, and from the traced program."]
    else:
        lines += [f"THE TWO COUNTS DIFFER: formulas {report['macs']:,}, traced program {report['traced_macs']:,}."]
    remat = ", blocks recomputed" if report["remat"] else ""
    lines += ["", f"Training on a batch of {report['batch_size']}, {report['dtype']}{remat}", ""]
    memory = report["memory"]
    lines += aligned([(title, byte_count(memory[key])) for key, title in _MEMORY.items() if memory[key]], left=1)
    if "compiled" in report:
        compiled = report["compiled"]
        each = f"each of {compiled['devices']} devices of " if compiled["devices"] > 1 else ""
        lines += ["", f"What XLA allocates for this on {each}{compiled['backend']}", ""]
        lines += aligned([(title, byte_count(compiled[key])) for key, title in _COMPILED.items()], left=1)
    return "\n".join(lines)


def _counted(count: int, whole: int) -> str:
    """In millions, or in thousands of them where ``whole`` is that large."""
    return f"{count / 1e9:,.1f} G" if whole >= 1e11 else f"{count / 1e6:,.1f} M"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
