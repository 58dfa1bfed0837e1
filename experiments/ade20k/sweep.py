"""ADE20K: does a pyramid of attention segment better than one of convolutions? Every decoder of the three papers."""

from typing import Any

from experiments.common import TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Column, Sweep, Train

_V1, _V2, _CODE = "PVT, table 5", "PVT v2, table 5", "PVT, released code"
# mIoU in %. The paper of PVT trains for 80,000 steps of 16 images, the released code and PVT v2 for 40,000 of 32.
_LONG = {"resnet18": 32.9, "resnet50": 36.7, "resnet101": 38.8}
_LONG |= {"pvt_tiny": 35.7, "pvt_small": 39.8, "pvt_medium": 41.6, "pvt_large": 42.1}
_SHORT = {
    "pvt_tiny": (36.6, _CODE),
    "pvt_small": (41.9, _CODE),
    "pvt_medium": (43.5, _CODE),
    "pvt_large": (43.5, _CODE),
    "pvt_v2_b0": (37.2, _V2),
    "pvt_v2_b1": (42.5, _V2),
    "pvt_v2_b2_li": (45.1, _V2),
    "pvt_v2_b2": (45.2, _V2),
    "pvt_v2_b3": (47.3, _V2),
    "pvt_v2_b4": (47.9, _V2),
    "pvt_v2_b5": (48.7, _V2),
}
# Of the paper, and of the same models with sides that are aligned to 32, as the config evaluates.
_SEGFORMER = {
    "mit_b0": (37.4, 38.1),
    "mit_b1": (42.2, 41.64),
    "mit_b2": (46.5, 46.53),
    "mit_b3": (49.4, 48.46),
    "mit_b4": (50.3, 49.34),
    "mit_b5": (51.0, 50.58),
}
# MiT-B2 by the channels of the decoder, and other encoders under the same one; 40,000 steps.
_CHANNELS = {256: 44.9, 512: 45.0, 768: 45.4, 1024: 45.2, 2048: 45.6}
_ENCODERS = {"resnet50": 34.7, "resnet101": 38.7, "mit_b3": 48.6}

_TITLES = {
    "semantic_fpn": "Semantic FPN on ADE20K, 512²: published beside measured mIoU, %",
    "segformer": "SegFormer on ADE20K, 160,000 steps, 512² (B5: 640²), one scale: published beside measured mIoU, %",
    "segformer_decoder": "SegFormer's decoder on ADE20K, 40,000 steps, 512²: published beside measured mIoU, %",
    "trans2seg": "Trans2Seg on ADE20K, 40,000 steps, 512²: published beside measured mIoU, %",
    "toy": "A toy: two steps on scenes of digits, which show that the sweep runs and nothing else",
}


def get_sweep(scale: str = "semantic_fpn") -> Sweep:
    """``semantic_fpn``, ``segformer``, ``segformer_decoder`` or ``trans2seg``; ``toy``, tiny models on scenes."""
    title = _TITLES[one_of(scale, _TITLES)]
    columns = [
        Column("published in", "facts.source"),
        Column("published", "facts.miou", ".1f"),
        *_MORE.get(scale, []),
        Column("measured", "values.miou"),
        Column("hours", "seconds", ".1f", 1 / 3600),
    ]
    return Sweep(title=title, scale=scale, arms=_ARMS[scale](), seeds=(0,), columns=columns)


def _semantic_fpn() -> list[Train]:
    def facts(source: str, miou: float, schedule: str) -> dict[str, Any]:
        return {"source": source, "miou": miou, "schedule": schedule}

    long = [
        Train(f"{name}_80k", f"semantic_fpn:{name},paper", facts=facts(_V1, miou, "80,000 × 16"))
        for name, miou in _LONG.items()
    ]
    short = [
        Train(name, f"semantic_fpn:{name}", facts=facts(source, miou, "40,000 × 32"))
        for name, (miou, source) in _SHORT.items()
    ]
    return [*long, *short]


def _segformer() -> list[Train]:
    return [
        Train(name, f"segformer:{name}", facts={"source": "SegFormer, table 1a", "miou": paper, "aligned": aligned})
        for name, (paper, aligned) in _SEGFORMER.items()
    ]


def _segformer_decoder() -> list[Train]:
    def arm(name: str, model: str, miou: float, table: str, channels: int) -> Train:
        keys = {"steps": 40_000, "head.channels": channels}
        return Train(name, f"segformer:{model}", keys, facts={"source": f"SegFormer, table {table}", "miou": miou})

    widths = [arm(f"mit_b2_{n}", "mit_b2", miou, "1b", n) for n, miou in _CHANNELS.items()]
    return [*widths, *(arm(name, name, miou, "1d", 768) for name, miou in _ENCODERS.items())]


def _trans2seg() -> list[Train]:
    # Section 5.4: that of Semantic FPN, but 40,000 steps.
    facts = {"source": "PVT, table 7", "miou": 42.6}
    return [Train("pvt_small", "trans2seg:pvt_small", {"steps": 40_000}, facts=facts)]


def _toy() -> list[Train]:
    keys = {**TOY, **TOY_PVT, "batch_size": 4, "evaluation.every_steps": 2}
    return [Train("pvt_tiny", "digits_segmentation", {**keys, "head.channels": 8, "head.neck_channels": 8})]


_MORE = {
    "semantic_fpn": [Column("steps × images", "facts.schedule")],
    "segformer": [Column("published, aligned sides", "facts.aligned", "")],
}
_ARMS = {
    "semantic_fpn": _semantic_fpn,
    "segformer": _segformer,
    "segformer_decoder": _segformer_decoder,
    "trans2seg": _trans2seg,
    "toy": _toy,
}
