"""Models: image → pyramid → prediction. ``MODELS`` is the registry: one name, one factory."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn

from pvt_jax.errors import UserError
from pvt_jax.models import pvt

MODELS: dict[str, Callable[..., nn.Module]] = {name: partial(pvt.create, name) for name in pvt.VARIANTS}


def list_models() -> list[str]:
    """Names of all models, sorted."""
    return sorted(MODELS)


def create_model(name: str, **settings: Any) -> nn.Module:
    """The model called ``name``; ``settings`` are the attributes of its module, as ``num_classes=1000``.

    Raises:
      UserError: no model has this name, or its module has no such attribute.
    """
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, 1, 0.0)[0]
        raise UserError(f"unknown model {name!r}: did you mean {nearest!r}? The models are {', '.join(list_models())}")
    settings.setdefault("num_classes", 1000)
    try:
        return MODELS[name](**settings)
    except TypeError as error:
        raise UserError(f"model {name!r} does not take these settings: {error}") from error
