"""ImageNet-1k: do these recipes reach the published accuracies? Every classifier of the three papers."""

from experiments.common import TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Column, Sweep, Train

# Top-1 in %, by config.
_PVT = {"pvt_tiny": 75.1, "pvt_small": 79.8, "pvt_medium": 81.2, "pvt_large": 81.7}
_PVT_V2 = {"b0": 70.5, "b1": 78.7, "b2": 82.0, "b2_li": 82.1, "b3": 83.1, "b4": 83.6, "b5": 83.8}
_MIT = {"b0": 70.5, "b1": 78.7, "b2": 81.6, "b3": 83.1, "b4": 83.6, "b5": 83.8}
# By PVT's recipe, and by their own, as the PVT paper has them.
_RESNET = {"18": (68.5, 69.8), "50": (78.5, 76.1), "101": (79.8, 77.4)}
_VIT = {"tiny_patch16": 72.2, "small_patch16": 79.9, "base_patch16": 81.8}
# The published weights, evaluated by timm.
_TIMM = {"b0": 70.65, "b1": 78.70, "b2": 82.06, "b2_li": 82.20, "b3": 83.12, "b4": 83.71, "b5": 83.76}

_TABLE = "PVT, table 2"
_TITLES = {
    "imagenet": "ImageNet-1k, 300 epochs, 224²: published beside measured, %",
    "toy": "A toy: two steps on the handwritten digits, which show that the sweep runs and nothing else",
}


def get_sweep(scale: str = "imagenet") -> Sweep:
    """``imagenet``, the whole recipe; ``toy``, two tiny models on the digits."""
    if one_of(scale, ("imagenet", "toy")) == "toy":
        title, arms = (
            "A toy: two steps on the handwritten digits, which show that the sweep runs and nothing else",
            _toy(),
        )
    else:
        title, arms = "ImageNet-1k, 300 epochs, 224²: published beside measured, %", _imagenet()
    return Sweep(
        title=title,
        scale=scale,
        arms=arms,
        seeds=(0,),
        columns=[
            Column("published in", "facts.source"),
            Column("published top-1", "facts.top1", ".1f"),
            Column("published top-1, own recipe", "facts.own_recipe", ".1f"),
            Column("published weights in timm, top-1", "facts.timm", ".2f"),
            Column("measured top-1", "values.top1"),
            Column("measured top-5", "values.top5"),
            Column("hours", "seconds", ".1f", 1 / 3600),
        ],
    )


def _imagenet() -> list[Train]:
    def facts(top1: float, source: str, **more: float) -> dict:
        return {"source": source, "top1": top1, **more}

    return [
        *(Train(f"resnet{n}", f"resnet:{n}", facts=facts(a, _TABLE, own_recipe=b)) for n, (a, b) in _RESNET.items()),
        *(Train(f"vit_{size}", f"vit:{size}", facts=facts(top1, _TABLE)) for size, top1 in _VIT.items()),
        *(Train(name, name, facts=facts(top1, _TABLE)) for name, top1 in _PVT.items()),
        *(
            Train(f"pvt_v2_{size}", f"pvt_v2:{size}", facts=facts(top1, "PVT v2, table 2", timm=_TIMM[size]))
            for size, top1 in _PVT_V2.items()
        ),
        *(Train(f"mit_{size}", f"mit:{size}", facts=facts(top1, "SegFormer, table 7")) for size, top1 in _MIT.items()),
    ]


def _toy() -> list[Train]:
    keys = {**TOY, **TOY_PVT}
    return [Train("pvt_tiny", "digits", keys), Train("pvt_v2_b0", "digits", {"model.name": "pvt_v2_b0", **keys})]
