"""Convert weights, both ways: ``python -m pvt_jax.convert pvt_tiny.pth runs/pvt_tiny --model pvt_tiny``."""

import argparse
import ast
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvt_jax import commands
from pvt_jax.errors import UserError
from pvt_jax.weights.torch_pickle import one_line

if TYPE_CHECKING:
    from pvt_jax.data.description import DataDescription

_EXAMPLES = """\
SRC is a .pth or .safetensors file (names of the reference, timm, torchvision, mmsegmentation, mmdetection or Hugging
Face), a Hugging Face folder, a name of known weights, or a run's workdir. A DST that ends in .safetensors becomes a
file with the reference's names, or for a model with a head those of mmsegmentation or mmdetection; any other DST
becomes a folder like a run's, for load_variables, init.checkpoint and Orbax alone. Both keep the names of the classes
if SRC has them.

examples:
  python -m pvt_jax.convert pvt_v2_b2.pth weights/pvt_v2_b2 --model pvt_v2_b2
  python -m pvt_jax.convert runs/mine mine.safetensors --model pvt_v2_b2 --ema
  python -m pvt_jax.convert retinanet.pth weights/backbone --model pvt_v2_b2 --allow_missing 'head/*'
  python -m pvt_jax.convert semantic_fpn.pth weights/semantic_fpn --model pvt_small --head semantic_fpn
  python -m pvt_jax.convert mask_rcnn.pth mask_rcnn.safetensors --model pvt_tiny --head mask_rcnn
  python -m pvt_jax.convert weights/vit weights/vit_384 --model vit_small_patch16 --image_size 384 384
  python -m pvt_jax.convert toy.pth weights/toy --model pvt_tiny --set depths=1,1,1,1 --set dims=16,32,80,64
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags; ``settings`` holds what ``--set`` gave as a dict."""
    parser = commands.Parser(prog="python -m pvt_jax.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("source", metavar="SRC", type=commands.path("SRC"), help="what to read")
    parser.add_argument(
        "destination", metavar="DST", type=commands.path("DST"), help="FILE.safetensors, or a new or empty folder"
    )
    parser.add_argument("--model", metavar="NAME", help="such as pvt_tiny; optional for a run, whose config names it")
    parser.add_argument(
        "--head", metavar="NAME", help="of a dense model, such as segformer; '' extracts its backbone as a classifier"
    )
    parser.add_argument(
        "--num_classes", type=int, metavar="N", help="default: that of SRC; another initialises a new classifier"
    )
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="default: that of SRC; another resizes tables"
    )
    parser.add_argument("--ema", action="store_true", help="load the moving average of a run's parameters")
    parser.add_argument(
        "--entry", default="", metavar="KEY", help="of a file with several sets of weights, such as model_ema"
    )
    for flag, what in (("missing", "parameters that SRC may lack"), ("unexpected", "tensors of SRC to leave out")):
        parser.add_argument(
            f"--allow_{flag}", nargs="+", action="extend", default=[], metavar="PATTERN", help=f"{what}, like 'head/*'"
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting of the model, or head.KEY=VALUE of its head; may be repeated",
    )
    flags = parser.parse_args(arguments)
    flags.settings = dict(_setting(text) for text in flags.set)
    for name in ("num_classes", "image_size", "head"):
        value = getattr(flags, name)
        if name in flags.settings:
            raise UserError(f"use --{name} instead of --set {name}=…")
        if name != "head" and value is not None and min(value if isinstance(value, list) else [value]) < 1:
            raise UserError(f"--{name} must be above 0, but is {value}")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Read, match to the model, report, write."""
    flags = parse(arguments)
    _check_destination(flags.destination)

    # Importing jax takes seconds; a mistyped flag is answered before.
    from pvt_jax.models import create_model
    from pvt_jax.weights import load

    source = load.read_checkpoint(flags.source, ema=flags.ema, entry=flags.entry)
    settings = _model_settings(flags, source)
    try:
        json.dumps(settings)  # As they are written in the end.
        model = create_model(**settings)
        variables, report = load.match_to_model(
            source, model, allow_missing=flags.allow_missing, allow_unexpected=flags.allow_unexpected
        )
    # Modules fail on settings of another type in ways that do not matter here.
    except (TypeError, IndexError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise UserError(
            f"a setting of the model is wrong ({reason}): {one_line(_described(settings), 400)}. Change it with --set"
        ) from error
    print(report.summary())
    # A new classifier has learned no classes yet.
    data = None if report.replaced else _classes(flags.source, settings)
    if flags.destination.suffix == ".safetensors":
        _write_file(flags.destination, variables, settings, data)
    else:
        _write_folder(flags.destination, variables, settings, data)
    print(f"wrote {flags.destination}: {_described(settings)}")
    return 0


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"--set takes KEY=VALUE, such as --set depths=2,2,2,2, not {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key, value


def _check_destination(place: Path) -> None:
    if place.name in ("", "..") or place.resolve() == Path.cwd():
        raise UserError(f"{place} is an existing folder, and DST must be new: give it another name")
    if place.suffix in (".pth", ".pt", ".bin", ".ckpt", ".npz"):
        raise UserError(f"cannot write {place.suffix} files: end DST in .safetensors, which PyTorch reads too")
    if place.is_dir():
        if place.suffix == ".safetensors":
            raise UserError(f"{place} is a folder, but .safetensors is for a file: choose another DST")
        if any(place.iterdir()):
            raise UserError(f"{place} is not empty: choose another DST, or remove it first")
    elif place.exists() and (place.suffix != ".safetensors" or place.stat().st_size):
        raise UserError(f"{place} exists: choose another DST, or remove it first")
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{above} is a file: choose another DST than {place}")


def _model_settings(flags: argparse.Namespace, source: Any) -> dict[str, Any]:
    """Everything for ``create_model``: from the flags, then the run's config, then what the tensors themselves tell."""
    from pvt_jax.weights.names import compatible
    from pvt_jax.weights.signatures import SIGNATURES, recognise

    shapes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    recognised = recognise(shapes, native=source.native)
    name = flags.model or source.model.get("name")
    if name is None:
        looks = ""
        if recognised and recognised.signature in SIGNATURES.values():
            head = f" --head {recognised.head}" if recognised.head else ""
            looks = f", such as --model {recognised.signature}{head}, which it looks like"
        elif recognised:
            looks = f" and its sizes with --set: it looks like {recognised}, which has no name here"
        raise UserError(f"give the model that {source.described} is of with --model{looks}")
    if not isinstance(name, str):
        raise UserError(f"the config of {source.described} calls its model {name!r:.80}: give its name with --model")
    settings = dict(source.model) if name == source.model.get("name") else {}
    _settle_head(flags, source, settings, recognised)
    found: dict[str, Any] = {"name": name, "num_classes": 1000, "image_size": [224, 224]}
    head = settings.get("head")
    has_head = bool(recognised and recognised.head and compatible(recognised.head, head))
    if recognised and recognised.num_classes and (recognised.head is None or has_head):
        found["num_classes"] = recognised.num_classes
    size = source.image_size
    if size and recognised and not recognised.may_be_for(size):
        # The stated image size is wrong if the position tables do not match it.
        size = None
        settings.pop("image_size", None)
    if size := size or (recognised and recognised.image_size):
        found["image_size"] = list(size)
    given = {key: getattr(flags, key) for key in ("num_classes", "image_size") if getattr(flags, key) is not None}
    if head and "num_classes" not in given and not has_head:
        raise UserError(
            f"{source.described} has no {head} head: give the number of classes of the new one with --num_classes"
        )
    of_head = {key.removeprefix("head."): value for key, value in flags.settings.items() if key.startswith("head.")}
    of_model = {key: value for key, value in flags.settings.items() if not key.startswith("head.")}
    merged = {**found, **settings, **of_model, **given}
    stated = settings.get("head_settings")
    if of_head := {**(stated if isinstance(stated, dict) else {}), **of_head}:
        merged["head_settings"] = of_head
    classes, rate = merged["num_classes"], merged.get("drop_path_rate", 0.0)
    if type(classes) is not int or classes < 1:
        raise UserError(f"num_classes must be above 0, but is {classes!r:.80}")
    if type(rate) not in (int, float) or not 0 <= rate < 1:
        raise UserError(f"drop_path_rate must be at least 0 and below 1, but is {rate!r:.80}")
    # JSON makes lists of tuples, and the attributes of a module should not change.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in merged.items()}


def _settle_head(flags: argparse.Namespace, source: Any, settings: dict[str, Any], recognised: Any) -> None:
    """Put the head into ``settings``, or take it out; a dense model becomes a backbone only on request."""
    from pvt_jax.backbones import FAMILIES

    if flags.head is not None:
        if flags.head != settings.get("head"):
            settings.pop("head_settings", None)
        settings["head"] = flags.head
    if not settings.get("head"):
        settings.pop("head", None)
        settings.pop("head_settings", None)
        if flags.head is None and recognised and recognised.head and not flags.allow_missing:
            patterns = FAMILIES[recognised.signature.family].weights.classifier
            lacking = " ".join(f"'{pattern}'" for pattern in patterns)
            raise UserError(
                f"{source.described} has a head: give it with --head {recognised.head}, which it looks like. Or load "
                f"the backbone alone, for a new classifier, with --allow_missing {lacking}"
            )


def _task_of(settings: Mapping[str, Any]) -> str:
    from pvt_jax.heads import HEADS

    return HEADS[settings["head"]].model.task if "head" in settings else "classification"


def _classes(source: Path, settings: Mapping[str, Any]) -> "DataDescription | None":
    """What the source tells of its classes; None if it does not, or the model has others."""
    from pvt_jax.training import workdir

    data = workdir.data_of_weights(source)
    fits = data and data.task == _task_of(settings) and len(data.class_names) == settings["num_classes"]
    return data if fits else None


def _write_file(place: Path, variables: Any, settings: dict[str, Any], data: "DataDescription | None") -> None:
    from pvt_jax.weights.files import write_safetensors
    from pvt_jax.weights.names import to_state_dict

    # "pt" is what readers of PyTorch ask for. The image size tells the grid of position tables that are not square.
    described = {"model": settings["name"], **({"head": settings["head"]} if "head" in settings else {})}
    described |= {"image_size": json.dumps(settings["image_size"]), "format": "pt"}
    described |= data.to_metadata() if data else {}
    write_safetensors(place, to_state_dict(variables), described)


def _write_folder(place: Path, variables: Any, settings: dict[str, Any], data: "DataDescription | None") -> None:
    import logging

    from pvt_jax.training import workdir
    from pvt_jax.training.store import CheckpointStore

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs pages of traceback for what it then raises.
    with _whole_or_not_at_all(place) as folder:
        store = CheckpointStore(folder / "checkpoints")
        store.save(0, dict(variables))
        store.close()
        config: dict[str, Any] = {"task": _task_of(settings), "model": dict(settings)}
        if head := config["model"].pop("head", None):
            config |= {"head": {"name": head, **config["model"].pop("head_settings", {})}}
        text = json.dumps(config, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        if data:
            (folder / workdir.DATA).write_text(data.to_json(), encoding="utf-8")


@contextlib.contextmanager
def _whole_or_not_at_all(place: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends well, and is removed when it does not."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        os.replace(folder, place)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _described(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {one_line(str(value))}" for key, value in settings.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
