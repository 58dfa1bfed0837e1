"""State dicts of small dense models with the names of mmsegmentation and mmdetection, by hand, and the models."""

from functools import partial

import numpy as np

import pvt_jax
from tests.helpers import detection_names, state_dicts

Shapes = state_dicts.Shapes
_DIMS = {"pvt": (8, 16, 40, 32), "mit": (8, 16, 40, 32), "resnet basic": (8, 16, 24, 32), "vit": (16, 16, 16, 16)}
_CLASSIFIER = {
    "pvt": ("norm.", "head.", "cls_token"),
    "mit": ("head.",),
    "vit": ("head.",),
    "resnet basic": ("fc.",),
}
# Head → (settings that make it small, channels of neck and head).
SETTINGS = {
    "semantic_fpn": ({"channels": 12, "neck_channels": 24}, 12),
    "segformer": ({"channels": 20}, 20),
    "retinanet": ({"channels": 12, "neck_channels": 24, "num_convs": 2}, 12),
    "mask_rcnn": ({"channels": 12, "neck_channels": 24, "hidden_dim": 20}, 20),
    "faster_rcnn": ({"channels": 12, "neck_channels": 24, "hidden_dim": 20}, 20),
    "vit_frcnn": ({"channels": 12, "neck_channels": 24, "hidden_dim": 20, "anchor_scales": (2, 4)}, 20),
    "detr": (
        {"dim": 16, "num_heads": 2, "hidden_dim": 20, "encoder_depth": 2, "decoder_depth": 2, "num_queries": 5},
        16,
    ),
}


def toy(family: str, head: str, num_classes: int = 7, head_settings: dict | None = None, **changes):
    """A small dense model."""
    name, settings = state_dicts.TOYS[family]
    settings = {**settings, **changes, "num_classes": num_classes}
    return pvt_jax.create_model(
        name, head=head, head_settings=SETTINGS[head][0] if head_settings is None else head_settings, **settings
    )


def backbone_shapes(family: str) -> Shapes:
    """The classifier's names that a dense backbone keeps, under ``backbone.``."""
    return {
        f"backbone.{name}": shape
        for name, shape in state_dicts.shapes(family).items()
        if not name.startswith(_CLASSIFIER[family])
    }


def shapes(family: str, head: str, num_classes: int = 7) -> Shapes:
    """Names and shapes of the state dict of mmsegmentation's or mmdetection's ``toy(family, head)``."""
    head_shapes = {
        "semantic_fpn": _semantic_fpn,
        "segformer": _segformer,
        "retinanet": partial(detection_names.retinanet, neck=24, channels=12, convs=2),
        "mask_rcnn": partial(detection_names.mask_rcnn, neck=24, channels=12, hidden=20),
        "faster_rcnn": partial(detection_names.faster_rcnn, neck=24, channels=12, hidden=20),
        "vit_frcnn": lambda dims, n: detection_names.faster_rcnn(dims[2:3], n, 24, 12, 20, anchors=6),
        "detr": partial(detection_names.detr, dim=16, hidden=20, layers=2, queries=5),
    }[head]
    return {**backbone_shapes(family), **head_shapes(_DIMS[family], num_classes)}


def _norm(name: str, dim: int) -> Shapes:
    vectors = {f"{name}.{leaf}": (dim,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def _semantic_fpn(dims: tuple[int, ...], num_classes: int) -> Shapes:
    found: Shapes = {}
    for level, dim in enumerate(dims):
        found |= {f"neck.lateral_convs.{level}.conv.weight": (24, dim, 1, 1)}
        found |= {f"neck.lateral_convs.{level}.conv.bias": (24,)}
        found |= {f"neck.fpn_convs.{level}.conv.weight": (24, 24, 3, 3), f"neck.fpn_convs.{level}.conv.bias": (24,)}
    # The places between are those of upsamplings.
    for place, in_dim in (("0.0", 24), ("1.0", 24), ("2.0", 24), ("2.2", 12), ("3.0", 24), ("3.2", 12), ("3.4", 12)):
        found |= {f"decode_head.scale_heads.{place}.conv.weight": (12, in_dim, 3, 3)}
        found |= _norm(f"decode_head.scale_heads.{place}.bn", 12)
    return found | {"decode_head.conv_seg.weight": (num_classes, 12, 1, 1), "decode_head.conv_seg.bias": (num_classes,)}


def _segformer(dims: tuple[int, ...], num_classes: int) -> Shapes:
    found: Shapes = {}
    for level, dim in enumerate(dims, start=1):
        found |= {
            f"decode_head.linear_c{level}.proj.weight": (20, dim),
            f"decode_head.linear_c{level}.proj.bias": (20,),
        }
    found |= {"decode_head.linear_fuse.conv.weight": (20, 80, 1, 1), **_norm("decode_head.linear_fuse.bn", 20)}
    found["decode_head.linear_pred.weight"] = (num_classes, 20, 1, 1)
    return {**found, "decode_head.linear_pred.bias": (num_classes,)}


def weights(family: str, head: str, num_classes: int = 7) -> dict[str, np.ndarray]:
    """Numbers for ``shapes``."""
    return state_dicts.weights(shapes(family, head, num_classes))


def to_hugging_face(tensors: dict[str, np.ndarray], encoder: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A SegFormer's head as transformers writes it to files, beside an encoder with its names."""
    found = {name: tensor for name, tensor in encoder.items() if not name.startswith("classifier")}
    for name, tensor in tensors.items():
        for old, new in (
            *((f"linear_c{level}.", f"linear_c.{level - 1}.") for level in (1, 2, 3, 4)),
            ("linear_fuse.conv", "linear_fuse"),
            ("linear_fuse.bn", "batch_norm"),
            ("linear_pred", "classifier"),
        ):
            name = name.replace(f"decode_head.{old}", f"decode_head.{new}")
        if name.startswith("decode_head."):
            found[name] = tensor
    return found
