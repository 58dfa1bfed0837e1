"""Predict: ``python -m pvt_jax.predict runs/digits pictures/ --output predictions``."""

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvt_jax import commands
from pvt_jax.errors import UserError
from pvt_jax.huge_pages import restart_with_huge_pages
from pvt_jax.messages import escaped, plural, waiting

if TYPE_CHECKING:
    from pvt_jax.prediction.images import Chosen
    from pvt_jax.prediction.output import Output
    from pvt_jax.prediction.predictor import Predictor

_EXAMPLES = """\
SOURCE is the workdir of a run, a file or folder of weights (also in a bucket, gs:// or s3://), hf://USER/REPO@REVISION,
or a name of known weights, as pvt_tiny. PATH is an image, a folder of images or a glob. OUT gets predictions.jsonl, a
line of JSON an image; predictions.csv of a classifier; label_map/ with the label maps of a segmentation; pictures/ with
what was found drawn into the images; and with --attention, attention/ with the attention weights of a stage. Images
that cannot be read are named, the others done, and the exit code is then 1.

examples:
  python -m pvt_jax.predict runs/digits photos/ --output predictions
  python -m pvt_jax.predict runs/mask_rcnn 'photos/**/*.jpg' --output predictions --step best --min_score 0.5
  python -m pvt_jax.predict segformer.pth a.png b.png --model mit_b0 --head segformer --output predictions --tta
"""
# Seconds between lines on the progress where there is no terminal.
_SILENCE = 15


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags, with ``--config.KEY=VALUE`` collected in ``overrides``."""
    parser = commands.Parser(prog="python -m pvt_jax.predict", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    commands.add_source_flags(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images")
    parser.add_argument("--output", metavar="OUT", required=True, type=commands.path("--output"), help="a new folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the predictions in OUT")
    parser.add_argument(
        "--image_size", type=int, nargs="+", metavar="SIDE", help="one side, or height and width; default: the run's"
    )
    parser.add_argument("--tta", action="store_true", help="average several views of each image")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="images at a time (default: 8)")
    parser.add_argument("--top_k", type=int, default=5, metavar="K", help="labels of an image (default: 5)")
    parser.add_argument(
        "--min_score",
        type=float,
        default=0.3,
        metavar="S",
        help="least score that is drawn of objects (default: 0.3)",
    )
    parser.add_argument("--no_pictures", action="store_true", help="write no pictures of what was found")
    parser.add_argument(
        "--attention", default="", metavar="STAGE", help="draw the attention of a stage, as stage4, or of a block"
    )
    flags = commands.parse_with_overrides(parser, arguments)
    commands.check_model_flags(flags)
    if flags.image_size is not None:
        flags.image_size = commands.image_size(flags.image_size)
    for name in ("batch_size", "top_k"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} must be 1 or more, but is {getattr(flags, name)}")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Load the model, predict, write; 1 if an image could not be read."""
    flags = parse(arguments)
    from pvt_jax.prediction.images import choose

    chosen = choose(flags.paths)
    # Importing jax takes seconds; a mistyped path is answered before.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("pvt_jax").addHandler(logging.StreamHandler(sys.stderr))
    with waiting("loading JAX", commands.say):
        from pvt_jax.compilation import trim_after_compiling
        from pvt_jax.prediction import output
        from pvt_jax.prediction.predictor import Predictor

    trim_after_compiling()
    with waiting(f"loading {flags.source}", commands.say):
        predictor = Predictor(
            **commands.source_choices(flags),
            image_size=flags.image_size,
            tta=flags.tta,
            batch_size=flags.batch_size,
        )
    for note in (*predictor.trained.notes, *chosen.notes):
        commands.say(f"note: {note}")
    # A mistyped stage leaves no folder behind.
    block = predictor.attention_block(flags.attention) if flags.attention else ""
    presentation = predictor.presentation(top_k=flags.top_k, min_score=flags.min_score)
    with output.Output(flags.output, presentation.columns, overwrite=flags.overwrite) as written:
        unread = _predict(predictor, presentation, chosen, written, not flags.no_pictures, block)
    done = len(chosen.paths) - unread
    lost = f"; {plural(unread, 'image')} could not be read" if unread else ""
    print(f"done: {plural(done, 'prediction')} in {flags.output} ({', '.join(_written(flags.output))}){lost}")
    return 1 if unread else 0


def _predict(
    predictor: "Predictor", presentation: Any, chosen: "Chosen", written: "Output", pictures: bool, block: str
) -> int:
    """The number of images that could not be read."""
    source, found = predictor.stream(chosen.paths, chosen.paths, block)
    progress = _Progress(len(chosen.paths))
    found = iter(found)
    with waiting("compiling for the size of the first images", commands.say):
        first = list(itertools.islice(found, 1))
    for index, prediction, attention in itertools.chain(first, found):
        path, stem = chosen.paths[index], chosen.stems[index]
        height, width = size = tuple(source.sizes()[index].tolist())
        fields = {"height": height, "width": width, **presentation.fields(prediction, size)}
        for name, content in presentation.files(prediction, size).items():
            fields[name] = f"{name}/{stem}.png"
            written.file(fields[name], content)
        if pictures:
            written.picture(f"pictures/{stem}.jpg", presentation.picture(source.image(index), prediction))
        if attention is not None:
            written.picture(f"attention/{stem}.jpg", attention.picture())
        written.add(index, path, fields, presentation.row(fields))
        progress.advance()
    for index, reason in sorted(source.failures.items()):
        commands.say(f"cannot read {escaped(chosen.paths[index])}: {reason}")
        written.add(index, chosen.paths[index], {"error": reason}, ("",) * len(presentation.columns))
    return len(source.failures)


def _written(folder: Path) -> list[str]:
    return sorted(f"{part.name}/" if part.is_dir() else part.name for part in folder.iterdir())


class _Progress:
    """A line now and then, at most every fifteen seconds."""

    def __init__(self, total: int):
        self._total, self._done, self._start = total, 0, time.monotonic()
        self._last = self._start

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._last > _SILENCE and self._done < self._total:
            self._last = now
            left = (now - self._start) / self._done * (self._total - self._done)
            commands.say(f"{self._done:,} of {self._total:,} images, {left:,.0f} s left")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.exit(main())
