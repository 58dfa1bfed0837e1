"""Time a model here: ``python -m pvt_jax.benchmark --model pvt_v2_b0 --mode train --batch_size 32``."""

import argparse
import contextlib
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pvt_jax import commands, devices, machine
from pvt_jax.errors import UserError
from pvt_jax.huge_pages import restart_with_huge_pages
from pvt_jax.messages import aligned, byte_count, in_units, plural, waiting

if TYPE_CHECKING:
    from pvt_jax.programs import Program

_EXAMPLES = """\
Images and weights are random, so nothing is read or downloaded. infer is the jitted model as prediction runs it: to
logits, at stride 4 for segmentation, or to the final detections. train is the step of pvt_jax.main with the loss of
the task and AdamW. All devices take part, and share the batch.

examples:
  python -m pvt_jax.benchmark --model pvt_v2_b0 --mode train --batch_size 32
  python -m pvt_jax.benchmark --model pvt_tiny --head retinanet --mode infer --batch_size 1 --image_size 800 1344
  python -m pvt_jax.benchmark --model mit_b0 --head segformer --mode train --batch_size 8 --dtype bfloat16 --json
"""
# Timed calls, unless --steps says how many: as many as take about so long, within limits.
_SECONDS, _FEWEST, _MOST = 10.0, 3, 1000
# Calls before them: the first ones load code and fill caches.
_UNTIMED = 2
# A backward pass multiplies twice as much as the forward pass: for the gradients of both factors.
_PASSES = {"infer": 1, "train": 3}


# Keys that have a flag of their own.
_OWN = {"name": "--model", "task": "--head", "head.name": "--head"}
_OWN |= {key: f"--{key}" for key in ("head", "num_classes", "batch_size", "dtype", "remat", "steps")}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags; ``image_size`` becomes (height, width), or None."""
    parser = commands.Parser(prog="python -m pvt_jax.benchmark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("--model", required=True, metavar="NAME", help="such as pvt_tiny")
    parser.add_argument("--head", default="", metavar="NAME", help="of a dense model, such as segformer")
    parser.add_argument("--mode", required=True, choices=tuple(_PASSES))
    parser.add_argument("--batch_size", required=True, type=int, metavar="N", help="images of a step, on all devices")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        metavar="SIDE",
        help="one side, or height and width; default: 224, 512 for segmentation, 800×1333 for detection",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="type of the computation (default: float32)",
    )
    parser.add_argument(
        "--num_classes", type=int, metavar="N", help="default: 1000, 150 for segmentation, 80 for detection"
    )
    commands.add_set_flag(parser, ", or another key of a config, as detection.max_objects=20")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--steps", type=int, metavar="N", help="timed calls; default: 3 or more, for about 10 seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object: exact numbers, bytes")
    flags = parser.parse_args(arguments)
    commands.check_model_flags(flags, own=_OWN)
    for name in ("batch_size", "steps"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise UserError(f"--{name} must be above 0, but is {getattr(flags, name)}")
    if flags.remat and flags.mode == "infer":
        raise UserError("--remat belongs to --mode train: there is no backward pass in infer")
    flags.image_size = commands.image_size(flags.image_size) if flags.image_size else None
    if not flags.head and "image_size" in flags.settings:
        raise UserError("use --image_size instead of --set image_size=…")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Build, compile and time what the flags ask for, and print it."""
    flags = parse(arguments)
    report = measure(flags)
    print(json.dumps(report) if flags.json else describe(report))
    return 0


def measure(flags: argparse.Namespace, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """What ``--json`` prints, of what ``parse`` returned; ``clock`` tells the seconds of everything.

    Raises UserError: no such model, head or setting, or the devices lack the memory.
    """
    # Importing jax takes seconds; a mistyped flag is answered before.
    with waiting("loading JAX", commands.say):
        import jax

        from pvt_jax import compilation, environment, programs
    compilation.trim_after_compiling()
    with waiting("looking for devices", commands.say):
        device = jax.devices()[0]
    if flags.dtype == "bfloat16" and environment.lacks_bfloat16(device):
        commands.say(f"note: {environment.bfloat16_note(device).replace('model.dtype=', '--dtype ')}")

    settings = {"dtype": flags.dtype, "remat": flags.remat, **flags.settings}
    with waiting("building the model", commands.say):
        subject = programs.subject(
            flags.model, flags.head, image_size=flags.image_size, num_classes=flags.num_classes, settings=settings
        )
        program = programs.program(subject, flags.mode, flags.batch_size)
    with waiting("counting multiply-accumulates", commands.say):
        macs = _multiply_accumulates(program)
    with _memory_needed(flags, device.device_kind):
        compiled, facts = _compile(program, flags.mode, clock)
        allocated = programs.allocated(compiled)
        _check_fits(flags, device, jax.device_count(), allocated)
        with waiting("drawing weights and images", commands.say):
            step = program.runner(compiled)
        seconds = _time(step, flags.steps, clock)

    median, flops = statistics.median(seconds), 2 * _PASSES[flags.mode] * macs
    peak = devices.peak_flops(device.device_kind, flags.dtype)
    return {
        **{name: getattr(flags, name) for name in ("model", "head", "mode", "batch_size")},
        "image_size": list(subject.size),
        **{name: getattr(flags, name) for name in ("dtype", "remat")},
        "num_classes": subject.config.model.num_classes,
        "settings": flags.settings,
        "device": device.device_kind,
        "device_count": jax.device_count(),
        "images_per_second": flags.batch_size / median,
        "images_per_second_all": [flags.batch_size / one for one in seconds],
        "seconds_per_step": median,
        **facts,
        "memory": {**(allocated or {}), "peak_bytes_in_use": _peak_in_use(jax), "peak_rss": _peak_rss()},
        "parameters": program.parameters,
        "macs_per_image": macs / flags.batch_size,
        "flops_per_step": flops,
        "peak_flops": peak,
        "flops_share": None if peak is None else flops / median / (peak * jax.device_count()),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
    }


def _multiply_accumulates(program: "Program") -> int:
    """Of the forward pass of a step, with weights and in attention."""
    from pvt_jax import trace

    products = trace.function_products(program.forward, *program.forward_inputs)
    return products.weights + products.attention


def _compile(program: "Program", mode: str, clock: Callable[[], float]) -> tuple[Any, dict[str, Any]]:
    """The compiled program, how long it took, and whether it came from jax's persistent cache."""
    from pvt_jax import programs

    start = clock()
    with waiting(f"tracing and lowering the program of {mode}", commands.say):
        lowered = program.function.lower(*program.abstract)
    lowering, start = clock() - start, clock()
    waits = waiting(f"compiling the program of {mode}, which may take minutes", commands.say)
    with waits, programs.cache_hits() as hits:
        compiled = lowered.compile()
    return compiled, {"lower_seconds": lowering, "compile_seconds": clock() - start, "from_cache": bool(hits)}


def _time(step: Callable[[], Any], steps: int | None, clock: Callable[[], float]) -> list[float]:
    """Seconds of each timed call, after untimed ones."""

    def call() -> float:
        start = clock()
        step()
        return clock() - start

    with waiting(f"{plural(_UNTIMED, 'untimed call')}", commands.say):
        expected = [call() for _ in range(_UNTIMED)][-1]
    count = steps or min(max(_FEWEST, math.ceil(_SECONDS / max(expected, 1e-9))), _MOST)
    with waiting(f"timing {plural(count, 'call')}, about {count * expected:.0f} s", commands.say):
        return [call() for _ in range(count)]


@contextlib.contextmanager
def _memory_needed(flags: argparse.Namespace, kind: str) -> Iterator[None]:
    """Raises UserError where a device of this kind runs out of memory."""
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        raise UserError(f"{kind} ran out of memory: {_way_out(flags)}") from error


def _check_fits(flags: argparse.Namespace, device: Any, device_count: int, allocated: dict[str, int] | None) -> None:
    """Raises UserError: the program needs more than there is; a CPU would end the process without a word."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        # Devices of a CPU are parts of one machine.
        limit = machine.memory() // device_count
    if allocated is not None and limit is not None and allocated["total"] > limit:
        needed = f"{byte_count(allocated['total'])}, and {device.device_kind} has {byte_count(limit)}"
        raise UserError(f"the program of {flags.mode} needs {needed}: {_way_out(flags)}")


def _way_out(flags: argparse.Namespace) -> str:
    ways = [f"choose a --batch_size below {flags.batch_size}"] if flags.batch_size > 1 else ["choose a smaller image"]
    if flags.mode == "train" and not flags.remat:
        ways.append("add --remat")
    if flags.dtype == "float32":
        ways.append("add --dtype bfloat16")
    return ", or ".join(ways)


def _peak_in_use(jax: Any) -> int | None:
    """Bytes of the fullest device since the start of the process; None where devices do not say."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


def _peak_rss() -> int:
    """Bytes of memory of the process at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


# Text, at most 80 columns wide.

_ALLOCATED = {
    "arguments": "arguments",
    "outputs": "results",
    "aliased": "results that take the arguments' place",
    "temporary": "temporary",
    "total": "total",
}


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    mode, count, memory = report["mode"], report["device_count"], report["memory"]
    rates = report["images_per_second_all"]
    head = f" with {report['head']}" if report["head"] else ""
    remat = ", blocks recomputed" if report["remat"] else ""
    height, width = report["image_size"]
    cached = " (from the persistent cache)" if report["from_cache"] else ""
    speed = [
        ("images per second", _rate(report["images_per_second"])),
        (f"least and most of {plural(len(rates), 'call')}", f"{_rate(min(rates))} … {_rate(max(rates))}"),
        ("seconds per step", f"{report['seconds_per_step']:.4g}"),
        ("FLOPs per second", in_units(report["flops_per_step"] / report["seconds_per_step"])),
        ("share of the peak", _share(report)),
        ("tracing and lowering", f"{report['lower_seconds']:.1f} s"),
        (f"compiling{cached}", f"{report['compile_seconds']:.1f} s"),
    ]
    size = [
        ("parameters", f"{report['parameters']:,}"),
        ("MACs per image, forward", in_units(report["macs_per_image"])),
        ("FLOPs per step", in_units(report["flops_per_step"])),
    ]
    planned = [(title, byte_count(memory[name])) for name, title in _ALLOCATED.items() if name in memory]
    most = [("most that the process held (RSS)", byte_count(memory["peak_rss"]))]
    if memory["peak_bytes_in_use"] is not None:
        most.insert(0, ("most in use on a device", byte_count(memory["peak_bytes_in_use"])))
    passes = {"infer": "2 × MACs", "train": "6 × MACs: a backward pass counts as two forward ones"}
    return "\n".join(
        [
            f"{report['model']}{head}, {mode}, {plural(report['batch_size'], 'image')} of {height}×{width}",
            f"{report['dtype']}{remat}, {report['num_classes']} classes",
            f"{plural(count, 'device')}: {report['device']}; "
            + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
            "",
            *aligned(speed, left=1),
            "",
            *aligned(size, left=1),
            "",
            "MACs: multiply-accumulates of matrix products and convolutions, without",
            f"RoIAlign's. FLOPs: {passes[mode]}.",
            "",
            "Memory of a device as XLA plans it, and as it was",
            "",
            *aligned([*planned, *most], left=1),
        ]
    )


def _share(report: dict[str, Any]) -> str:
    if report["flops_share"] is None:
        return "peak not known"
    return f"{report['flops_share']:.1%} of {in_units(report['peak_flops'] * report['device_count'])}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.4g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.exit(main())
