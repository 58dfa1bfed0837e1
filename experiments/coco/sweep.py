"""COCO: does a pyramid of attention detect better than one of convolutions? Every detector of PVT v1 and v2."""

from typing import Any

from experiments.common import TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Column, Sweep, Train

_V2 = "PVT v2, table 3"
# Box AP, or box and mask AP, by scale and model.
_RETINANET = {
    "resnet18": (31.8, "PVT, table 3"),
    "resnet50": (36.3, "PVT, table 3"),
    "resnet101": (38.5, "PVT, table 3"),
    "pvt_tiny": (36.7, "PVT, table 3"),
    "pvt_small": (40.4, "PVT, table 3"),
    "pvt_medium": (41.9, "PVT, table 3"),
    "pvt_large": (42.6, "PVT, table 3"),
    "pvt_v2_b0": (37.2, _V2),
    "pvt_v2_b1": (41.2, _V2),
    "pvt_v2_b2_li": (43.6, _V2),
    "pvt_v2_b2": (44.6, _V2),
    "pvt_v2_b3": (45.9, _V2),
    "pvt_v2_b4": (46.1, _V2),
    "pvt_v2_b5": (46.2, _V2),
}
_RETINANET_3X = {
    "resnet18": 35.4,
    "resnet50": 39.0,
    "resnet101": 40.9,
    "pvt_tiny": 39.4,
    "pvt_small": 42.2,
    "pvt_medium": 43.2,
    "pvt_large": 43.4,
}
_MASK_RCNN = {
    "resnet18": (34.0, 31.2, "PVT, table 4"),
    "resnet50": (38.0, 34.4, "PVT, table 4"),
    "resnet101": (40.4, 36.4, "PVT, table 4"),
    "pvt_tiny": (36.7, 35.1, "PVT, table 4"),
    "pvt_small": (40.4, 37.8, "PVT, table 4"),
    "pvt_medium": (42.0, 39.0, "PVT, table 4"),
    "pvt_large": (42.9, 39.5, "PVT, table 4"),
    "pvt_v2_b0": (38.2, 36.2, _V2),
    "pvt_v2_b1": (41.8, 38.8, _V2),
    "pvt_v2_b2_li": (44.1, 40.5, _V2),
    "pvt_v2_b2": (45.3, 41.2, _V2),
    "pvt_v2_b3": (47.0, 42.5, _V2),
    "pvt_v2_b4": (47.5, 42.7, _V2),
    "pvt_v2_b5": (47.4, 42.5, _V2),
}
_MASK_RCNN_3X = {
    "resnet18": (36.9, 33.6, "PVT, table 4"),
    "resnet50": (41.0, 37.1, "PVT, table 4"),
    "resnet101": (42.8, 38.5, "PVT, table 4"),
    "pvt_tiny": (39.8, 37.4, "PVT, table 4"),
    "pvt_small": (43.0, 39.9, "PVT, table 4"),
    "pvt_medium": (44.2, 40.5, "PVT, table 4"),
    "pvt_large": (44.5, 40.7, "PVT, table 4"),
    # Of the released code; the paper has none.
    "pvt_v2_b2": (47.8, 43.1, "PVT v2, released code"),
}
_DETR = {"resnet50": 32.3, "pvt_small": 34.7}

_TITLES = {
    "retinanet": "RetinaNet on COCO val2017, 1x: 12 epochs, shorter side 800, or 640: published beside measured",
    "retinanet_3x": "RetinaNet on COCO val2017, 3x: 36 epochs at many scales: published beside measured",
    "mask_rcnn": "Mask R-CNN on COCO val2017, 1x: 12 epochs, shorter side 800: published beside measured",
    "mask_rcnn_3x": "Mask R-CNN on COCO val2017, 3x: 36 epochs at many scales: published beside measured",
    "detr": "DETR on COCO val2017, 50 epochs, shorter sides of 640 to 800: published beside measured",
    "toy": "A toy: two steps on scenes of digits, which show that the sweep runs and nothing else",
}


def get_sweep(scale: str = "retinanet") -> Sweep:
    """``retinanet``, ``retinanet_3x``, ``mask_rcnn``, ``mask_rcnn_3x`` or ``detr``; ``toy``, tiny models on scenes."""
    title = _TITLES[one_of(scale, _TITLES)]
    masks = scale.startswith("mask_rcnn")
    columns = [
        Column("published in", "facts.source"),
        Column("published box AP", "facts.AP", ".1f"),
        *([Column("published mask AP", "facts.mask_AP", ".1f")] if masks else []),
        Column("measured box AP", "values.AP", ".1f"),
        Column("measured AP50", "values.AP50", ".1f"),
        *([Column("measured mask AP", "values.mask_AP", ".1f")] if masks else []),
        Column("hours", "seconds", ".1f", 1 / 3600),
    ]
    return Sweep(title=title, scale=scale, arms=_ARMS[scale](), seeds=(0,), columns=columns)


def _facts(source: str, box: float, mask: float | None = None) -> dict[str, Any]:
    return {"source": source, "AP": box, **({} if mask is None else {"mask_AP": mask})}


def _retinanet() -> list[Train]:
    arms = [Train(name, f"retinanet:{name}", facts=_facts(source, ap)) for name, (ap, source) in _RETINANET.items()]
    return [*arms, Train("pvt_small_640", "retinanet:pvt_small,640", facts=_facts("PVT, table 11", 38.7))]


def _retinanet_3x() -> list[Train]:
    return [Train(name, f"retinanet:{name},3x", facts=_facts("PVT, table 3", ap)) for name, ap in _RETINANET_3X.items()]


def _mask_rcnn() -> list[Train]:
    return [
        Train(name, f"mask_rcnn:{name}", facts=_facts(source, box, mask))
        for name, (box, mask, source) in _MASK_RCNN.items()
    ]


def _mask_rcnn_3x() -> list[Train]:
    return [
        Train(name, f"mask_rcnn:{name},3x", facts=_facts(source, box, mask))
        for name, (box, mask, source) in _MASK_RCNN_3X.items()
    ]


def _detr() -> list[Train]:
    return [Train(name, f"detr:{name}", facts=_facts("PVT, table 6", ap)) for name, ap in _DETR.items()]


def _toy() -> list[Train]:
    keys = {**TOY, **TOY_PVT, "batch_size": 4, "evaluation.every_steps": 2, "init.checkpoint": ""}
    small = {"head.channels": 8, "head.neck_channels": 8}
    return [Train("pvt_tiny", "digits_detection:retinanet", {**keys, **small, "head.num_convs": 1})]


_ARMS = {
    "retinanet": _retinanet,
    "retinanet_3x": _retinanet_3x,
    "mask_rcnn": _mask_rcnn,
    "mask_rcnn_3x": _mask_rcnn_3x,
    "detr": _detr,
    "toy": _toy,
}
