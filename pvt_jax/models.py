"""Models by name, from the registries of backbones and heads: image → pyramid → prediction."""

import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn

from pvt_jax.backbones import FAMILIES
from pvt_jax.backbones.base import Backbone
from pvt_jax.errors import UserError
from pvt_jax.fields import checked, types_of
from pvt_jax.heads import HEADS

MODELS: dict[str, partial[Backbone]] = {
    name: partial(family.module, **sizes) for family in FAMILIES.values() for name, sizes in family.variants.items()
}


def list_models() -> list[str]:
    """Names of all models, sorted."""
    return sorted(MODELS)


def list_heads() -> list[str]:
    """Names of all heads, sorted."""
    return sorted(HEADS)


def create_model(
    name: str, head: str = "", head_settings: Mapping[str, Any] | None = None, **settings: Any
) -> nn.Module:
    """The model called ``name``; ``settings`` are attributes of its module, such as ``num_classes=1000``.

    With a ``head`` it is a dense model on the backbone ``name``: ``num_classes`` is then the head's, and
    ``head_settings`` are attributes of the head's module, and ``neck_channels`` if it has a neck.

    Raises:
      UserError: no model or head has this name, or its module has no such attribute.
    """
    _check_name("model", name, MODELS)
    factory = MODELS[name]
    settings = checked(f"model {name!r}", "model", settings, types_of(factory.func))
    if not head:
        if head_settings:
            raise UserError(f"settings of a head without a head: name one of {', '.join(list_heads())}")
        return factory(**{"num_classes": 1000, **settings})

    _check_name("head", head, HEADS)
    for setting in ("spp_levels", "pool"):
        if settings.get(setting):
            raise UserError(f"model.{setting} is for the classifier, which a dense model does not have: leave it out")
    row = HEADS[head]
    fields = types_of(row.head)
    known = {name: kind for name, kind in fields.items() if name not in ("num_classes", "dtype")}
    chosen = {**row.settings, **row.by_backbone.get(name, {}), **(head_settings or {})}
    chosen = checked(f"head {head!r}", "head", chosen, known if row.neck is None else {**known, "neck_channels": int})
    of_neck = {"channels": chosen.pop("neck_channels")} if "neck_channels" in chosen else {}
    shared = {"dtype": settings["dtype"]} if "dtype" in settings else {}
    if "num_classes" in fields:
        chosen["num_classes"] = settings.get("num_classes", row.num_classes)
    return row.model(
        backbone=factory(**{**settings, "num_classes": 0}),
        head=row.head(**shared, **chosen),
        neck=None if row.neck is None else row.neck(**shared, **of_neck),
    )


def _check_name(kind: str, name: str, registry: Iterable[str]) -> None:
    if name not in registry:
        nearest = difflib.get_close_matches(name, registry, 1, 0.0)[0]
        raise UserError(
            f"unknown {kind} {name!r}: did you mean {nearest!r}? The {kind}s are {', '.join(sorted(registry))}"
        )
