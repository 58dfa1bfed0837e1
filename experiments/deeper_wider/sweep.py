"""Is a deeper or a wider PVT better at equal parameters? PVT paper (arXiv 2102.12122), section 5.4, table 9."""

from experiments.common import DIGITS, TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Column, Curves, Dots, Sweep, Train

_BASE = {"model.depths": (1, 1, 2, 1), "model.dims": (32, 64, 160, 256)}
_DEEPER = {"model.depths": (1, 1, 5, 1), "model.dims": (32, 64, 160, 256)}
_WIDER = {"model.depths": (1, 1, 2, 1), "model.dims": (40, 80, 200, 320)}


def get_sweep(scale: str = "digits") -> Sweep:
    """Scales: digits; imagenet, the paper's own models; toy."""
    one_of(scale, ("digits", "imagenet", "toy"))
    if scale == "imagenet":
        title = "PVT on ImageNet-1k, 300 epochs at 224²"
        # Table 9 has 1.4 times the channels of PVT-Small; heads must divide them.
        wide = {"model.dims": (90, 180, 450, 720)}
        arms = [Train("base", "pvt_small"), Train("deeper", "pvt_medium"), Train("wider", "pvt_small", wide)]
    elif scale == "digits":
        title = "PVT on the handwritten digits at 64², 15 epochs"
        named = {"base": _BASE, "deeper": _DEEPER, "wider": _WIDER}
        arms = [Train(name, "digits", {**DIGITS, **keys}) for name, keys in named.items()]
    else:
        title = "Two steps on the handwritten digits, to see that it runs"
        deep = {**TOY_PVT, "model.depths": (1, 1, 2, 1)}
        arms = [Train("base", "digits", {**TOY, **TOY_PVT}), Train("deeper", "digits", {**TOY, **deep})]
    return Sweep(
        title=title,
        scale=scale,
        arms=arms,
        seeds=(0,) if scale == "toy" else (0, 1, 2),
        metric="top1",
        columns=[
            Column("parameters, M", "values.parameters", ".2f", 1e-6),
            Column("MMACs", "values.backbone_macs", ".1f", 1e-6),
        ],
        figures=[
            Dots(f"top1_{scale}.png", "Deeper or wider", "values.top1", "top-1, %"),
            Curves(f"loss_{scale}.png", "Deeper or wider", "train_loss", "training loss"),
        ],
    )
