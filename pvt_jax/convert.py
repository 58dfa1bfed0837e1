"""Convert weights, both ways: ``python -m pvt_jax.convert pvt_tiny.pth runs/pvt_tiny --model pvt_tiny``."""

import argparse
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
    from pvt_jax.weights.entries import StatedClasses

_EXAMPLES = """\
SRC is a .pth or .safetensors file (names of the reference, timm, torchvision, mmsegmentation, mmdetection or Hugging
Face), a Hugging Face folder, a name of known weights, or a run's workdir. A DST that ends in .safetensors becomes a
file with the reference's names, or for a model with a head those of mmsegmentation or mmdetection; any other DST
becomes a folder like a run's, for load_variables, init.checkpoint and Orbax alone; with --hub_folder one for the
Hugging Face hub. All keep the names of the classes if SRC has them.

examples:
  python -m pvt_jax.convert pvt_v2_b2.pth weights/pvt_v2_b2 --model pvt_v2_b2
  python -m pvt_jax.convert runs/mine mine.safetensors --model pvt_v2_b2 --ema
  python -m pvt_jax.convert runs/mine for_the_hub --hub_folder --license apache-2.0
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
    parser.add_argument("source", metavar="SRC", type=commands.weights("SRC"), help="what to read")
    parser.add_argument(
        "destination", metavar="DST", type=commands.path("DST"), help="FILE.safetensors, or a new or empty folder"
    )
    commands.add_model_flags(parser)
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="default: that of SRC; another resizes tables"
    )
    for flag, what in (("missing", "parameters that SRC may lack"), ("unexpected", "tensors of SRC to leave out")):
        parser.add_argument(
            f"--allow_{flag}", nargs="+", action="extend", default=[], metavar="PATTERN", help=f"{what}, like 'head/*'"
        )
    parser.add_argument(
        "--hub_folder",
        action="store_true",
        help="make DST a folder to upload to the Hugging Face hub, with a model card",
    )
    parser.add_argument(
        "--license", metavar="NAME", default="", help="of the card, as apache-2.0; default: that of known weights"
    )
    flags = parser.parse_args(arguments)
    commands.check_model_flags(flags)
    if flags.license and not flags.hub_folder:
        raise UserError("--license is for the card of --hub_folder: add that, or leave it out")
    if flags.hub_folder and flags.destination.suffix == ".safetensors":
        raise UserError(f"--hub_folder makes DST a folder, but {flags.destination} is for a file: choose another DST")
    if "image_size" in flags.settings:
        raise UserError("use --image_size instead of --set image_size=…")
    if flags.image_size is not None and min(flags.image_size) < 1:
        raise UserError(f"--image_size must be above 0, but is {flags.image_size}")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Read, match to the model, report, write."""
    flags = parse(arguments)
    _check_destination(flags.destination)

    # Importing jax takes seconds; a mistyped flag is answered before.
    from pvt_jax.models import create_model
    from pvt_jax.prediction.preparation import evaluation_of, run_config
    from pvt_jax.weights import load
    from pvt_jax.weights.settings import Stated, model_settings

    source = load.read_checkpoint(flags.source, ema=flags.ema, entry=flags.entry)
    stated = Stated(
        flags.model or "", flags.head, flags.num_classes, flags.image_size, flags.settings, bool(flags.allow_missing)
    )
    settings = model_settings(source, stated)
    try:
        json.dumps(settings)  # As they are written in the end.
        create_model(**settings)
        evaluation, notes = evaluation_of(source, run_config(flags.source), _task_of(settings))
        size = evaluation.pop("model.image_size", None)
        if flags.image_size is None:
            settings["image_size"] = size or settings["image_size"]
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
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    # A new classifier has learned no classes yet.
    data = None if report.replaced else _classes(flags.source, source.classes, settings)
    if flags.hub_folder:
        _write_hub_folder(flags, variables, settings, data, evaluation)
    elif flags.destination.suffix == ".safetensors":
        _write_file(flags.destination, variables, settings, data, evaluation)
    else:
        _write_folder(flags.destination, variables, settings, data, evaluation)
    upload = f"; upload it with: hf upload USER/REPO {flags.destination}" if flags.hub_folder else ""
    print(f"wrote {flags.destination}: {_described(settings)}{upload}")
    return 0


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


def _task_of(settings: Mapping[str, Any]) -> str:
    from pvt_jax.heads import HEADS

    return HEADS[settings["head"]].model.task if "head" in settings else "classification"


def _classes(source: Path, stated: "StatedClasses | None", settings: Mapping[str, Any]) -> "DataDescription | None":
    """What the source tells of its classes; None if it does not, or the model has others."""
    from pvt_jax.data.description import DataDescription
    from pvt_jax.prediction.class_tables import of_stated
    from pvt_jax.training import workdir

    task, data = _task_of(settings), workdir.data_of_weights(source)
    if data is None and stated is not None:
        classes = of_stated(task, stated.names, stated.palette)
        data = DataDescription(
            task, "", classes.names, palette=classes.palette, category_ids=classes.category_ids, foreign=True
        )
    fits = data and data.task == task and len(data.class_names) == settings["num_classes"]
    return data if fits else None


def _write_file(
    place: Path,
    variables: Any,
    settings: dict[str, Any],
    data: "DataDescription | None",
    evaluation: Mapping[str, Any],
) -> None:
    from pvt_jax.weights.files import write_safetensors
    from pvt_jax.weights.names import to_state_dict

    # "pt" is what readers of PyTorch ask for. The image size tells the grid of position tables that are not square.
    described = {"model": settings["name"], **({"head": settings["head"]} if "head" in settings else {})}
    described |= {"image_size": json.dumps(settings["image_size"]), "format": "pt"}
    evaluation = dict(evaluation)
    for name in ("mean", "std"):
        if f"batch_transform.{name}" in evaluation:
            described[name] = json.dumps(evaluation.pop(f"batch_transform.{name}"))
    described |= {"evaluation": json.dumps(evaluation)} if evaluation else {}
    described |= data.to_metadata() if data else {}
    write_safetensors(place, to_state_dict(variables), described)


def _write_folder(
    place: Path,
    variables: Any,
    settings: dict[str, Any],
    data: "DataDescription | None",
    evaluation: Mapping[str, Any],
) -> None:
    import logging

    from pvt_jax.training import workdir
    from pvt_jax.training.store import CheckpointStore

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs pages of traceback for what it then raises.
    with _whole_or_not_at_all(place) as folder:
        store = CheckpointStore(folder / "checkpoints")
        store.save(0, dict(variables))
        store.close()
        _write_config(folder, _config_of(settings, evaluation))
        if data:
            (folder / workdir.DATA).write_text(data.to_json(), encoding="utf-8")


def _config_of(settings: dict[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config of a run the weights tell."""
    from pvt_jax.prediction.preparation import nested

    config: dict[str, Any] = {"task": _task_of(settings), "model": dict(settings)}
    if head := config["model"].pop("head", None):
        config |= {"head": {"name": head, **config["model"].pop("head_settings", {})}}
    return config | nested(evaluation)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_hub_folder(
    flags: argparse.Namespace,
    variables: Any,
    settings: dict[str, Any],
    data: "DataDescription | None",
    evaluation: Mapping[str, Any],
) -> None:
    from dataclasses import replace

    from pvt_jax import config as config_lib
    from pvt_jax.data.description import SplitDescription
    from pvt_jax.hub.card import model_card
    from pvt_jax.hub.record import record_of
    from pvt_jax.prediction.preparation import nested, processor_file
    from pvt_jax.training import workdir
    from pvt_jax.weights.known import KNOWN
    from pvt_jax.weights.processor import FILE

    record = record_of(flags.source, ema=flags.ema)
    known = KNOWN.get(str(flags.source)) or KNOWN.get(record.initial)
    licence = flags.license or (known.licence if known else "unknown")
    if licence == "unknown":
        print("note: the licence is not known, and the card says so: give it with --license", file=sys.stderr)
    task, own = _task_of(settings), _config_of(settings, {})
    sections = {name: {**record.config.get(name, {}), **values} for name, values in nested(evaluation).items()}
    config = {**record.config, **own, **sections}
    processor = processor_file(config_lib.read(config_lib.resolve(config)))
    with _whole_or_not_at_all(flags.destination) as folder:
        _write_file(folder / "model.safetensors", variables, settings, data, evaluation)
        _write_config(folder, config)
        if processor:
            (folder / FILE).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        if data:
            # Where the images are is left out, as other paths are.
            splits = {name: SplitDescription(getattr(data, name).records) for name in ("train", "eval")}
            (folder / workdir.DATA).write_text(replace(data, **splits).to_json(), encoding="utf-8")
        origin = known.source if known and str(flags.source) in KNOWN else ""
        recipe = config_lib.recipe(dict(record.config)) if record.config else {}
        card = model_card(settings, task, data, record, recipe=recipe, licence=licence, origin=origin)
        (folder / "README.md").write_text(card, encoding="utf-8")


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
