"""Models: image → pyramid → prediction. ``MODELS`` is the registry: one name, one factory."""

import dataclasses
import difflib
from functools import partial
from typing import Any

from flax import linen as nn

from pvt_jax.errors import UserError
from pvt_jax.models import pvt, pvt_v2, resnet, vit

MODELS: dict[str, partial[nn.Module]] = {
    **{name: partial(pvt.PyramidVisionTransformer, **sizes) for name, sizes in pvt.VARIANTS.items()},
    **{name: partial(pvt_v2.PyramidVisionTransformerV2, **sizes) for name, sizes in pvt_v2.VARIANTS.items()},
    **{name: partial(vit.VisionTransformer, **sizes) for name, sizes in vit.VARIANTS.items()},
    **{name: partial(resnet.ResNet, **sizes) for name, sizes in resnet.VARIANTS.items()},
}


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
    factory = MODELS[name]
    fields = dataclasses.fields(factory.func)  # pyright: ignore[reportArgumentType]
    known = {field.name: field for field in fields if field.name not in ("parent", "name")}
    for setting, value in settings.items():
        if setting not in known:
            nearest = difflib.get_close_matches(setting, known, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(known)}"
            raise UserError(f"model {name!r} has no setting {setting!r}: {hint}")
        # From a command line any word would be true.
        if isinstance(known[setting].default, bool) and not isinstance(value, bool):
            raise UserError(f"model.{setting} must be True or False, but is {value!r}")
    return factory(**{"num_classes": 1000, **settings})
