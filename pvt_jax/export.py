"""Export: ``python -m pvt_jax.export runs/digits digits.zip`` writes a model that runs with jax alone."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pvt_jax import commands
from pvt_jax.errors import UserError
from pvt_jax.messages import plural

if TYPE_CHECKING:
    from pvt_jax.prediction.exported.function import Function, Outputs, Size

_EXAMPLES = """\
SOURCE is the workdir of a run, a file or folder of weights, or a name of known weights, as pvt_tiny. FILE is a zip of
programs for batches of any size, one for each image size; of the weights; and of metadata.json. docs/export.md has the
ten lines that run it with jax and flatbuffers alone. The file is read back and compared with the model before it is
kept; the exit code is 1 if they differ.

examples:
  python -m pvt_jax.export runs/digits digits.zip
  python -m pvt_jax.export runs/mask_rcnn objects.zip --step best --image_size 480 640 --image_size 640 480
  python -m pvt_jax.export segformer.pth pixels.zip --model mit_b0 --head segformer --image_size 512 --outputs logits
"""
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
_BATCHES = (1, 3)
# Greatest difference from the model, by the type of the computation; see ``check.difference``.
_TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2}
# Another runtime adds up in another order.
_ONNX_TOLERANCE = 1e-4


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags, with ``--config.KEY=VALUE`` collected in ``overrides``; sizes are a tuple of (height, width)."""
    parser = commands.Parser(prog="python -m pvt_jax.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    commands.add_source_flags(parser)
    parser.add_argument("file", metavar="FILE", type=commands.path("FILE"), help="what is written")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        action="append",
        metavar="SIDE",
        help="one side, or height and width, of the images; may be repeated, for a program each; default: that of a "
        "classifier's or a segmentation's training, or a landscape image of a detector's evaluation",
    )
    parser.add_argument(
        "--preprocess",
        choices=("inside", "outside"),
        default="inside",
        help="inside: images are uint8, from 0 to 255; outside: float32, normalised by the caller (default: inside)",
    )
    parser.add_argument(
        "--outputs", nargs="+", default=(), metavar="NAME", help="what the model gives; default: all that is small"
    )
    parser.add_argument(
        "--format", choices=("jax", "onnx"), default="jax", help="onnx is for other runtimes (default: jax)"
    )
    parser.add_argument(
        "--platforms",
        nargs="+",
        choices=_PLATFORMS,
        help="what a file of jax runs on (default: cpu cuda tpu)",
    )
    parser.add_argument(
        "--dtype", choices=tuple(_TOLERANCES), default="float32", help="type of the computation (default: float32)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="D",
        help="greatest difference from the model, relative to values above 1 (default: 1e-5; ONNX 1e-4, bfloat16 1e-2)",
    )
    flags = commands.parse_with_overrides(parser, arguments)
    commands.check_model_flags(flags)
    flags.image_size = tuple(dict.fromkeys(map(commands.image_size, flags.image_size or ())))
    if flags.platforms and flags.format == "onnx":
        raise UserError("--platforms is for --format jax: an ONNX file runs wherever its runtime does")
    flags.platforms = tuple(dict.fromkeys(flags.platforms or _DEFAULT_PLATFORMS)) if flags.format == "jax" else ()
    flags.overrides = [f"model.dtype={flags.dtype}", *flags.overrides]
    if flags.tolerance is None:
        flags.tolerance = max(_TOLERANCES[flags.dtype], _ONNX_TOLERANCE if flags.format == "onnx" else 0.0)
    if not flags.tolerance >= 0:
        raise UserError(f"--tolerance must be 0 or more, but is {flags.tolerance}")
    if flags.file.is_dir():
        raise UserError(f"{flags.file} is a folder: give the file to write")
    if flags.file.exists() and not flags.overwrite:
        raise UserError(f"{flags.file} exists: choose another file, or add --overwrite")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Load the model, export it, compare; 1 if the file does not give what the model gives."""
    flags = parse(arguments)
    # Importing jax takes seconds; a mistyped flag is answered before.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    from pvt_jax.prediction.exported import container, onnx_file
    from pvt_jax.prediction.exported.function import function_of
    from pvt_jax.prediction.predictor import Predictor

    trained = Predictor(**commands.source_choices(flags)).trained
    for note in trained.notes:
        _say(f"note: {note}")
    function = function_of(trained, flags.preprocess, flags.outputs)
    sizes = flags.image_size or (trained.task.input_size,)
    flags.file.parent.mkdir(parents=True, exist_ok=True)
    # Kept if it gives what the model gives.
    written = flags.file.with_name(f".{flags.file.name}.tmp")
    try:
        if flags.format == "onnx":
            onnx_file.write(written, function, sizes, _say)
            worst = _check(function, onnx_file.read(written)[1])
        else:
            container.write(written, function, sizes, flags.platforms, _say)
            worst = _check(function, container.read(written)[1]) if _runs_here(flags.platforms) else 0.0
        if worst > flags.tolerance:
            _say(
                f"error: the export differs from the model by {worst:.1e}, more than {flags.tolerance:.0e}: "
                f"{flags.file} is not written; --tolerance accepts more"
            )
            return 1
        os.replace(written, flags.file)
    finally:
        written.unlink(missing_ok=True)
    shapes = " or ".join(f"[b, {height}, {width}, 3]" for height, width in sizes)
    print(
        f"done: {flags.file}, {flags.file.stat().st_size / 1e6:.1f} MB, for {' '.join(flags.platforms) or 'ONNX'}: "
        f"{function.input_dtype.name} images {shapes} to {', '.join(function.outputs)}"
    )
    return 0


def _runs_here(platforms: Sequence[str]) -> bool:
    """Whether this machine has one of the platforms; says so if not."""
    import jax

    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if here not in platforms:
        _say(f"note: nothing was compared: this machine has {here}, and the export is for {', '.join(platforms)}")
    return here in platforms


def _check(function: "Function", programs: "dict[Size, Outputs]") -> float:
    """The greatest difference between the written file and the model; prints a line for each size and batch."""
    import jax

    from pvt_jax.prediction.exported import check

    _say(f"comparing with the model, on {' and '.join(map(str, _BATCHES))} images, for which both are compiled")
    model = partial(jax.jit(function), jax.device_put(function.weights))
    worst = 0.0
    for size, exported in programs.items():
        for batch in _BATCHES:
            found = check.compare(exported, model, function.input(check.photographs(batch, size)))
            objects = "" if found.objects is None else f" ({plural(found.objects, 'object')})"
            print(
                f"{_text(size)}, batch {batch}: difference {found.difference:.1e}{objects}, "
                f"{found.milliseconds:.1f} ms an image, the model {found.model_milliseconds:.1f} ms",
                flush=True,
            )
            worst = max(worst, found.difference)
    return worst


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
