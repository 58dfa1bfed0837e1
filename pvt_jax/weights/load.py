"""Loading variables from whatever holds them: a run, a file of PyTorch, safetensors, or a known name."""

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from orbax.checkpoint import v1 as ocp

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.weights import names
from pvt_jax.weights.entries import StatedClasses, classes_of_config
from pvt_jax.weights.files import model_folder, read_metadata, read_weights
from pvt_jax.weights.known import KNOWN, fetch_known
from pvt_jax.weights.merge import merge
from pvt_jax.weights.places import located
from pvt_jax.weights.processor import FILE, Normalisation, Processor, normalisation, read_processor
from pvt_jax.weights.report import LoadReport

log = logging.getLogger("pvt_jax")

# What a Hugging Face folder holds, whole or in parts.
_FOLDER_FILES = ("model.safetensors*", "pytorch_model.bin*")
# A file may state any image size. Larger ones fit into no machine.
_LARGEST_SIDE = 2**14


@dataclass(frozen=True)
class Source:
    """What a checkpoint holds, before any model is known.

    Attributes:
      tensors: by our paths if ``native``, else by the names of the file.
      described: where they come from, for messages.
      model: arguments of ``create_model`` from the config.json of a run or the table of known weights, with ``head``
        and ``head_settings`` if there is a head; empty if there are none.
      image_size: (height, width) of the images that its position tables are for; None if it does not say.
      notes: lines on what else a file holds.
      classes: that a file of another project names; None if it names none, and for a run, which has them in data.json.
      normalisation: (mean, std) of each channel, in 0..255, of the images it is for; None if it does not say.
      evaluation: keys of a config by dotted name, with which images were evaluated, as ``convert`` writes them into a
        file; of a run they are in its config.
      processor: of a folder of transformers.
    """

    tensors: dict[str, np.ndarray]
    described: str
    native: bool
    model: dict[str, Any]
    image_size: tuple[int, int] | None
    notes: tuple[str, ...] = ()
    classes: StatedClasses | None = None
    normalisation: Normalisation | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    processor: Processor | None = None


def load_variables(
    path: str | Path,
    model: nn.Module,
    *,
    ema: bool = False,
    entry: str = "",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Variables for ``model.apply`` from a checkpoint, every parameter checked against ``model``.

    A classifier of another number of classes is newly initialised, and position tables of another image size are
    resampled. A dense model may take its backbone from a classifier: its neck and head are then newly initialised. What
    was done is logged.

    Args:
      path: a workdir, its ``checkpoints`` folder (of both the newest step is taken), or the folder of one step; a
        ``.pth`` or ``.safetensors`` file with the names of the reference, timm, torchvision, mmsegmentation,
        mmdetection or Hugging Face, below any prefix; the index of a file in parts; a Hugging Face folder, or that of a
        model in its cache; any of these in a bucket, ``gs://…`` or ``s3://…``; ``hf://USER/REPO@REVISION`` of the hub,
        or ``hf://USER/REPO/FILE``; or a name of ``pvt_jax.weights.known.KNOWN``, which is downloaded.
      model: as made by ``pvt_jax.create_model``.
      ema: load the moving average of the parameters instead, which only a run has.
      entry: of a file with several sets of weights the one to take, as ``model_ema``; see ``weights.entries.choose``.
      allow_missing: patterns (``head/*``) of parameters that may be missing; those are newly initialised.
      allow_unexpected: patterns of saved tensors that may stay unused.
      key: for what is initialised; ``jax.random.key(0)`` if not given.

    Returns:
      ``{"params": …}``, with ``batch_stats`` if the model has them; arrays on the default device.

    Raises:
      UserError: there is no checkpoint, it cannot be read, or it does not hold this model.
    """
    variables, report = read_variables(
        path, model, ema=ema, entry=entry, allow_missing=allow_missing, allow_unexpected=allow_unexpected, key=key
    )
    # Warnings show without any logging set-up; nobody should miss that parameters are random.
    log.log(logging.INFO if report.plain else logging.WARNING, report.summary())
    return variables


def read_variables(
    path: str | Path, model: nn.Module, *, ema: bool = False, entry: str = "", **options: Any
) -> tuple[dict[str, Any], LoadReport]:
    """As ``load_variables``, with the report instead of a line in the log."""
    return match_to_model(read_checkpoint(path, ema=ema, entry=entry), model, **options)


def read_checkpoint(path: str | Path, *, ema: bool = False, entry: str = "") -> Source:
    """Read what ``path`` names (see ``load_variables``), whatever the model."""
    place = located(path)
    source = _read_checkpoint(path, place, ema, entry)
    if not paths.scheme(path):
        return source
    # Where it is kept means nothing to anyone.
    named = paths.url(path).rstrip("/")
    if place.parent.name == "checkpoints" and not named.endswith(f"/{place.name}"):
        named = f"{named.removesuffix('/checkpoints')}/checkpoints/{place.name}"
    return replace(source, described=source.described.replace(str(place), named, 1))


def _read_checkpoint(path: str | Path, place: Path, ema: bool, entry: str) -> Source:
    settings: dict[str, Any] = {}
    if str(path) in KNOWN and not place.exists():
        known = KNOWN[str(path)]
        place, settings = fetch_known(str(path)), {"name": known.model, **({"head": known.head} if known.head else {})}
    place = model_folder(place) if place.is_dir() else place
    if place.is_dir() and not any(any(place.glob(pattern)) for pattern in _FOLDER_FILES):
        if entry:
            raise UserError(f"{place} is of a run, which has no entries: leave entry out, or for the average set ema")
        return _open_orbax(step_folder(place), ema)
    if not place.exists():
        near = ", ".join(difflib.get_close_matches(str(path), KNOWN, 3, 0.6))
        raise UserError(
            f"there is no {place}: give a workdir, an Orbax folder, a .pth or .safetensors file, a Hugging Face "
            f"folder, or a known name{f', such as {near}' if near else ''}"
        )
    if ema:
        raise UserError(
            f"{place} has no moving average: only checkpoints of runs do, so leave ema out, or name "
            "the one of a file with init.entry (--entry of a command), as model_ema"
        )
    # Of a Hugging Face folder also one of its files may be named.
    folder = place if place.is_dir() else place.parent
    of_folder = place.is_dir() or any(map(place.match, _FOLDER_FILES))
    config = _read_json(folder / "config.json") if of_folder else {}
    # What this project writes has the keys in its own config.
    is_foreign = of_folder and "task" not in config
    processor = read_processor(_read_json(folder / FILE), str(config.get("model_type"))) if is_foreign else None
    evaluation, found = {}, processor.normalisation if processor else None
    if place.is_dir():
        settings = _model_of(config) if "task" in config else {}
        stated: Any = settings.get("image_size", config.get("image_size"))
        found = found or normalisation(config.get("batch_transform"))
    else:
        metadata = {name: _parse_json(text) for name, text in read_metadata(place).items()}
        stated, found = metadata.get("image_size"), normalisation(metadata) or found
        kept = metadata.get("evaluation")
        evaluation = kept if isinstance(kept, dict) else {}
    weights = read_weights(place, entry)
    described = f"{place}, {entry}" if entry else str(place)
    classes = weights.classes or classes_of_config(config)
    stated = _pair(stated)
    return Source(
        weights.tensors, described, False, settings, stated, weights.notes, classes, found, evaluation, processor
    )


def match_to_model(
    source: Source,
    model: nn.Module,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    key: jax.Array | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """Variables of ``model`` from a checkpoint; for arguments and errors see ``load_variables``."""
    stated = getattr(getattr(model, "backbone", model), "image_size", (224, 224))
    image_size = _pair(stated)
    if image_size is None:
        sides = f"a side or (height, width), each of 1 to {_LARGEST_SIDE} pixels"
        raise UserError(f"the image_size of a model is {sides}, not {stated!r:.80}")
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    # A backbone without classifier computes only feature maps.
    init = partial(model.init, method="features") if getattr(model, "num_classes", None) == 0 else model.init
    expected = jax.eval_shape(init, jax.random.key(0), images)
    leaves, report = merge(
        source.tensors,
        expected,
        source=source.described,
        native=source.native,
        image_size=image_size,
        source_image_size=source.image_size,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
    )
    report = replace(report, notes=source.notes)
    wanted = names.flatten(expected)
    rest = set(wanted) - set(leaves)
    fresh: dict[str, Any] = {}
    if rest:
        # Compiled for these leaves alone: the forward pass and the other leaves are never computed.
        def initial(key: jax.Array) -> dict[str, jax.Array]:
            variables = init(key, jnp.zeros(images.shape, images.dtype))
            return {path: leaf for path, leaf in names.flatten(variables).items() if path in rest}

        fresh = jax.jit(initial)(jax.random.key(0) if key is None else key)
    return names.unflatten({path: jnp.asarray(leaves.get(path, fresh.get(path))) for path in wanted}), report


def compare_shapes(found: Any, expected: Any) -> list[str]:
    """A line for each leaf that is missing, unexpected or of another shape, by its path; empty if all match."""
    have, want = _shapes(found), _shapes(expected)
    problems = []
    for path in sorted(have.keys() | want.keys()):
        if path not in have:
            problems.append(f"{path} is missing")
        elif path not in want:
            problems.append(f"{path} is unexpected")
        elif have[path] != want[path]:
            problems.append(f"{path} is {have[path]}, here {want[path]}")
    return problems


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in names.flatten(tree).items()}


def _open_orbax(step: Path, ema: bool) -> Source:
    items = {"params": "ema_params" if ema else "params", "batch_stats": "batch_stats"}
    items = {collection: item for collection, item in items.items() if (step / item).is_dir()}
    if "params" not in items:
        raise UserError(f"{step} has no {'ema_params' if ema else 'params'}: the run that wrote it kept none")
    try:
        saved: Any = ocp.checkpointables_metadata(str(step.absolute())).metadata
        # Asking for NumPy arrays makes Orbax forget the devices that the checkpoint was saved on.
        wanted = {item: jax.tree.map(lambda a: np.empty(a.shape, a.dtype), saved[item]) for item in items.values()}
        trees: Any = ocp.load_checkpointables(str(step.absolute()), wanted)
    except Exception as error:  # Orbax raises whatever its readers do.
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{step} is damaged or half written: {reason}. Use another step of the run") from error
    tensors = names.flatten({collection: trees[item] for collection, item in items.items()})
    whole = _read_json(step.parent.parent / "config.json")
    config, found = _model_of(whole), normalisation(whole.get("batch_transform"))
    return Source(tensors, str(step), True, config, _pair(config.get("image_size")), normalisation=found)


def _model_of(whole: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``create_model`` from the config of a run; empty for the config of another library."""
    config, head = (whole[key] if isinstance(whole.get(key), dict) else {} for key in ("model", "head"))
    if head.get("name"):
        settings = {key: value for key, value in head.items() if key != "name"}
        config = {**config, "head": head["name"], **({"head_settings": settings} if settings else {})}
    return config


def step_folder(path: Path) -> Path:
    """The newest whole checkpoint of a run, which a workdir, its checkpoints or a step names.

    Raises UserError: there is none.
    """
    if _is_whole(path):
        return path
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    # Orbax may be told to write steps with zeros before them.
    numbered = [folder for folder in root.iterdir() if folder.name.isascii() and folder.name.isdigit()]
    steps = sorted((step for step in numbered if step.is_dir()), key=lambda step: int(step.name))
    if not steps:
        raise UserError(
            f"no checkpoint in {path}: give a workdir, its checkpoints folder, one step's folder, or a Hugging Face "
            "folder with model.safetensors in it"
        )
    whole = [step for step in steps if _is_whole(step)]
    if not whole:
        raise UserError(f"{steps[-1]} has neither params nor ema_params: it is half written, or of no run of pvt_jax")
    for step in steps[steps.index(whole[-1]) + 1 :]:
        log.warning("checkpoint %s is half written and is ignored", step)
    return whole[-1]


def _is_whole(step: Path) -> bool:
    return (step / "params").is_dir() or (step / "ema_params").is_dir()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = _parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    return read if isinstance(read, dict) else {}


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # Numbers of thousands of digits, and lists in lists in lists.
        return None


def _pair(size: Any) -> tuple[int, int] | None:
    """(height, width) from a side or a pair; None for anything else."""
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or len(sides) != 2:
        return None
    height, width = sides
    # JSON's true is an int too.
    if any(type(side) is not int or not 0 < side <= _LARGEST_SIDE for side in sides):
        return None
    return height, width
