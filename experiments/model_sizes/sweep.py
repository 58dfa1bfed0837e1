"""Model sizes: do these models have the published parameters and multiply-accumulates? They are counted, not timed."""

from collections.abc import Mapping

from experiments.common import one_of
from pvt_jax.sweeps import Column, Measure, Sweep

_V1, _V2, _SEGFORMER = "PVT, table {}", "PVT v2, table {}", "SegFormer, table {}"
# (where, parameters in M, GFLOPs); the papers count a multiply-accumulate as one.
_CLASSIFIERS: dict[str, tuple[str, float, float]] = {
    "resnet18": (_V1.format(2), 11.7, 1.8),
    "resnet50": (_V1.format(2), 25.6, 4.1),
    "resnet101": (_V1.format(2), 44.7, 7.9),
    "vit_tiny_patch16": (_V1.format(2), 5.7, 1.3),
    "vit_small_patch16": (_V1.format(2), 22.1, 4.6),
    "vit_base_patch16": (_V1.format(2), 86.6, 17.6),
    "pvt_tiny": (_V1.format(2), 13.2, 1.9),
    "pvt_small": (_V1.format(2), 24.5, 3.8),
    "pvt_medium": (_V1.format(2), 44.2, 6.7),
    "pvt_large": (_V1.format(2), 61.4, 9.8),
    "pvt_v2_b0": (_V2.format(2), 3.4, 0.6),
    "pvt_v2_b1": (_V2.format(2), 13.1, 2.1),
    "pvt_v2_b2_li": (_V2.format(2), 22.6, 3.9),
    "pvt_v2_b2": (_V2.format(2), 25.4, 4.0),
    "pvt_v2_b3": (_V2.format(2), 45.2, 6.9),
    "pvt_v2_b4": (_V2.format(2), 62.6, 10.1),
    "pvt_v2_b5": (_V2.format(2), 82.0, 11.8),
    "mit_b0": (_SEGFORMER.format(7), 3.7, 0.6),
    "mit_b1": (_SEGFORMER.format(7), 14.0, 2.1),
    "mit_b2": (_SEGFORMER.format(7), 25.4, 4.0),
    "mit_b3": (_SEGFORMER.format(7), 45.2, 6.9),
    "mit_b4": (_SEGFORMER.format(7), 62.6, 10.1),
    "mit_b5": (_SEGFORMER.format(7), 82.0, 11.8),
}
_SEMANTIC_FPN = {
    "resnet18": (_V1.format(5), 15.5, 32.2),
    "resnet50": (_V1.format(5), 28.5, 45.6),
    "resnet101": (_V1.format(5), 47.5, 65.1),
    "pvt_tiny": (_V1.format(5), 17.0, 33.2),
    "pvt_small": (_V1.format(5), 28.2, 44.5),
    "pvt_medium": (_V1.format(5), 48.0, 61.0),
    "pvt_large": (_V1.format(5), 65.1, 79.6),
    "pvt_v2_b0": (_V2.format(5), 7.6, 25.0),
    "pvt_v2_b1": (_V2.format(5), 17.8, 34.2),
    "pvt_v2_b2_li": (_V2.format(5), 26.3, 41.0),
    "pvt_v2_b2": (_V2.format(5), 29.1, 45.8),
    "pvt_v2_b3": (_V2.format(5), 49.0, 62.4),
    "pvt_v2_b4": (_V2.format(5), 66.3, 81.3),
    "pvt_v2_b5": (_V2.format(5), 85.7, 91.1),
}
# Encoder and decoder together.
_SEGFORMER_ROWS = {
    "mit_b0": (_SEGFORMER.format("2"), 3.8, 8.4),
    "mit_b1": (_SEGFORMER.format("1a"), 13.7, 15.9),
    "mit_b2": (_SEGFORMER.format("1b"), 27.5, 62.4),
    "mit_b3": (_SEGFORMER.format("1a"), 47.3, 79.0),
    "mit_b4": (_SEGFORMER.format("2"), 64.1, 95.7),
    "mit_b5": (_SEGFORMER.format("2"), 84.7, 183.3),
}
_TRANS2SEG = {"pvt_small": (_V1.format(7), 32.1, 31.6)}
# MiT-B2, by the channels of the decoder.
_DECODERS = {256: (24.7, 25.7), 512: (25.8, 39.8), 768: (27.5, 62.4), 1024: (29.6, 93.6), 2048: (43.4, 304.4)}
_RETINANET = {
    "resnet18": (_V1.format(3), 21.3, None),
    "resnet50": (_V1.format("3, 11"), 37.7, 239.3),
    "resnet101": (_V1.format(3), 56.7, None),
    "pvt_tiny": (_V1.format(3), 23.0, None),
    "pvt_small": (_V1.format("3, 11"), 34.2, 285.8),
    "pvt_medium": (_V1.format(3), 53.9, None),
    "pvt_large": (_V1.format(3), 71.1, None),
    "pvt_v2_b0": (_V2.format(3), 13.0, None),
    "pvt_v2_b1": (_V2.format(3), 23.8, None),
    "pvt_v2_b2_li": (_V2.format("3, 6"), 32.3, 227.4),
    "pvt_v2_b2": (_V2.format("3, 6"), 35.1, 290.7),
    "pvt_v2_b3": (_V2.format(3), 55.0, None),
    "pvt_v2_b4": (_V2.format(3), 72.3, None),
    "pvt_v2_b5": (_V2.format(3), 91.7, None),
}
_MASK_RCNN = {
    "resnet18": (_V1.format(4), 31.2, None),
    "resnet50": (_V1.format(4), 44.2, None),
    "resnet101": (_V1.format(4), 63.2, None),
    "pvt_tiny": (_V1.format(4), 32.9, None),
    "pvt_small": (_V1.format(4), 44.1, None),
    "pvt_medium": (_V1.format(4), 63.9, None),
    "pvt_large": (_V1.format(4), 81.0, None),
    "pvt_v2_b0": (_V2.format(3), 23.5, None),
    "pvt_v2_b1": (_V2.format(3), 33.7, None),
    "pvt_v2_b2_li": (_V2.format(3), 42.2, None),
    "pvt_v2_b2": (_V2.format(3), 45.0, None),
    "pvt_v2_b3": (_V2.format(3), 64.9, None),
    "pvt_v2_b4": (_V2.format(3), 82.2, None),
    "pvt_v2_b5": (_V2.format(3), 101.6, None),
}
_TITLES = {
    "classifiers": "Classifiers at 224², 1,000 classes: published beside counted",
    "semantic_fpn": "Semantic FPN at 512², 150 classes: published beside counted",
    "segformer": "SegFormer at 512² (B5: 640²), 150 classes: published beside counted",
    "trans2seg": "Trans2Seg at 512², 150 classes: published beside counted",
    "retinanet": "RetinaNet at 800×1280, 80 classes: published beside counted",
    "mask_rcnn": "Mask R-CNN, 80 classes: published beside counted",
    "toy": "Two classifiers at 32²: what shows that the sweep runs",
}


def get_sweep(scale: str = "classifiers") -> Sweep:
    """A head, or ``classifiers``; ``toy``, two small counts."""
    return Sweep(
        title=_TITLES[one_of(scale, _TITLES)],
        scale=scale,
        arms=_arms(scale),
        columns=[
            Column("published in", "facts.source"),
            Column("published parameters, M", "facts.parameters", ".1f"),
            Column("counted parameters, M", "values.parameters", ".2f", 1e-6),
            Column("published GFLOPs", "facts.gflops", ".1f"),
            Column("counted GMACs", "values.macs", ".2f", 1e-9),
            *(
                []
                if scale in ("classifiers", "toy")
                else [
                    Column("of the backbone", "values.backbone_macs", ".2f", 1e-9),
                    Column("parameters of neck and head, M", "values.head_parameters", ".2f", 1e-6),
                ]
            ),
        ],
    )


def _arms(scale: str) -> list[Measure]:
    if scale in ("classifiers", "toy"):
        rows = _CLASSIFIERS if scale == "classifiers" else {"pvt_tiny": None, "resnet18": None}
        size = () if scale == "classifiers" else ("--image_size", "32")
        return [
            Measure(name, "pvt_jax.summary", (name, "--json", *size), facts=_facts(row)) for name, row in rows.items()
        ]
    heads = {"semantic_fpn": _SEMANTIC_FPN, "segformer": _SEGFORMER_ROWS, "trans2seg": _TRANS2SEG}
    if scale in heads:
        large = ("--image_size", "640", "640")
        arms = [_dense(n, n, scale, row, *(large if n == "mit_b5" else ())) for n, row in heads[scale].items()]
        return [*arms, *_decoders()] if scale == "segformer" else arms
    rows = _RETINANET if scale == "retinanet" else _MASK_RCNN
    flags = ("--image_size", "800", "1280", "--num_classes", "80")
    return [_dense(name, name, scale, row, *flags) for name, row in rows.items()]


def _decoders() -> list[Measure]:
    return [
        _dense(f"mit_b2_{n}", "mit_b2", "segformer", (_SEGFORMER.format("1b"), *row), "--channels", str(n))
        for n, row in _DECODERS.items()
    ]


def _dense(name: str, model: str, head: str, row: tuple[str, float, float | None], *more: str) -> Measure:
    return Measure(name, "count.py", (model, head, *more), facts=_facts(row))


def _facts(row: tuple[str, float, float | None] | None) -> Mapping[str, object]:
    if row is None:
        return {}
    source, parameters, gflops = row
    return {"source": source, "parameters": parameters} | ({} if gflops is None else {"gflops": gflops})
