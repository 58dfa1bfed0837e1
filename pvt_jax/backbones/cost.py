"""Multiply-accumulates of every model in closed form, from the papers' formulas; ``trace.py`` counts them again.

Counted are the multiplications of matrix products and convolutions, zero padding included, and nothing else: no bias,
norm, activation, softmax or pooling, and no resampling by fixed matrices. This is the convention of the PVT papers'
tables, plus the attention's own products, which those leave out. Twice the number is about the FLOPs.
"""

from flax import linen as nn

from pvt_jax.backbones import FAMILIES
from pvt_jax.backbones.formulas import Cost


def multiply_accumulates(model: nn.Module, height: int, width: int) -> dict[str, Cost]:
    """Cost of the classifier by part, in the order of computation, for one image of a size that ``model`` takes.

    The parts are those of the model's family: stages and ``head``, say.

    Raises:
      TypeError: there is no formula for this model.
    """
    for family in FAMILIES.values():
        if isinstance(model, family.module):
            return family.cost(model, height, width)
    raise TypeError(f"no formula for the multiply-accumulates of {type(model).__name__}")
