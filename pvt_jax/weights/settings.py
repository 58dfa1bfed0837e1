"""Which model a source of weights is of: from what a person states, its config, and its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvt_jax.backbones import FAMILIES
from pvt_jax.errors import UserError
from pvt_jax.weights.load import Source
from pvt_jax.weights.names import compatible
from pvt_jax.weights.signatures import SIGNATURES, recognise


@dataclass(frozen=True)
class Stated:
    """What a person states of a model; the rest is left to the source.

    Attributes:
      model, head: names; a head of "" asks for the backbone as a classifier, None is as the source has it.
      num_classes: of the model; of other numbers than the source's the classifier is a new one.
      image_size: (height, width) of its position tables.
      settings: further ones by name, those of the head as ``head.NAME``.
      backbone_alone: whether a source with a head may be taken for a backbone.
    """

    model: str = ""
    head: str | None = None
    num_classes: int | None = None
    image_size: Sequence[int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    backbone_alone: bool = False


def model_settings(source: Source, stated: Stated) -> dict[str, Any]:
    """Everything for ``create_model``: what is stated, then the run's config, then what the tensors themselves tell.

    Raises UserError: they do not tell the model, or a setting has another type or range.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    recognised = recognise(shapes, native=source.native)
    name = stated.model or source.model.get("name")
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
    _settle_head(stated, source, settings, recognised)
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
    given = {key: getattr(stated, key) for key in ("num_classes", "image_size") if getattr(stated, key) is not None}
    if head and "num_classes" not in given and not has_head:
        raise UserError(
            f"{source.described} has no {head} head: give the number of classes of the new one with --num_classes"
        )
    of_head = {key.removeprefix("head."): value for key, value in stated.settings.items() if key.startswith("head.")}
    of_model = {key: value for key, value in stated.settings.items() if not key.startswith("head.")}
    merged = {**found, **settings, **of_model, **given}
    of_run = settings.get("head_settings")
    if of_head := {**(of_run if isinstance(of_run, dict) else {}), **of_head}:
        merged["head_settings"] = of_head
    classes, rate = merged["num_classes"], merged.get("drop_path_rate", 0.0)
    if type(classes) is not int or classes < 1:
        raise UserError(f"num_classes must be above 0, but is {classes!r:.80}")
    if type(rate) not in (int, float) or not 0 <= rate < 1:
        raise UserError(f"drop_path_rate must be at least 0 and below 1, but is {rate!r:.80}")
    # JSON makes lists of tuples, and the attributes of a module should not change.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in merged.items()}


def _settle_head(stated: Stated, source: Source, settings: dict[str, Any], recognised: Any) -> None:
    """Put the head into ``settings``, or take it out; a dense model becomes a backbone only on request."""
    if stated.head is not None:
        if stated.head != settings.get("head"):
            settings.pop("head_settings", None)
        settings["head"] = stated.head
    if not settings.get("head"):
        settings.pop("head", None)
        settings.pop("head_settings", None)
        if stated.head is None and recognised and recognised.head and not stated.backbone_alone:
            patterns = FAMILIES[recognised.signature.family].weights.classifier
            lacking = " ".join(f"'{pattern}'" for pattern in patterns)
            raise UserError(
                f"{source.described} has a head: give it with --head {recognised.head}, which it looks like. Or load "
                f"the backbone alone, for a new classifier, with --allow_missing {lacking}"
            )
