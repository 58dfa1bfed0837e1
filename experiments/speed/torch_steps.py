"""One step of a model's baseline in eager PyTorch, Hugging Face's or torchvision's, for ``compare_pytorch.py``."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.speed.cases import (
    CLASSIFIERS,
    DETECTORS,
    IMAGE_CLASSES,
    OBJECT_CLASSES,
    OBJECTS,
    PIXEL_CLASSES,
    SEGMENTERS,
)


def torch_step(arguments: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any]]:
    """As ``jax_step``, for the baseline; with the fastest AdamW implementation on this machine."""
    make = detector if arguments.model in DETECTORS else transformer
    model, predict, loss, version = make(arguments)
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": f"torch {torch.__version__} ({torch.get_num_threads()} threads), {version}",
        "compile_seconds": 0.0,
    }
    if arguments.mode == "infer":
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                predict()

        return forward, facts

    model.train()

    def seconds_of_update(form: str) -> float:
        options: dict[str, Any] = {form: True}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, **options)
        optimizer.step()
        start = time.perf_counter()
        for _ in range(3):
            optimizer.step()
        return time.perf_counter() - start

    loss().backward()
    form = min(("foreach", "fused"), key=seconds_of_update)
    facts["versions"] += f", {form} AdamW"
    options: dict[str, Any] = {form: True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, **options)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step, facts


def transformer(arguments: argparse.Namespace) -> tuple[Any, Callable[[], Any], Callable[[], Any], str]:
    """Hugging Face's model, functions that predict a batch and compute its loss, and the library's version."""
    import transformers  # pyright: ignore[reportMissingImports]

    model = peer(transformers, arguments.model, arguments.image_size[0])
    images = torch.randn(arguments.batch_size, 3, *arguments.image_size)
    version = f"transformers {transformers.__version__}"
    if arguments.model in SEGMENTERS:
        labels = torch.randint(0, PIXEL_CLASSES, (arguments.batch_size, *arguments.image_size))
        return model, lambda: model(images), lambda: model(images, labels=labels).loss, version
    labels = torch.randint(0, IMAGE_CLASSES, (arguments.batch_size,))
    cross_entropy = torch.nn.functional.cross_entropy
    return model, lambda: model(images), lambda: cross_entropy(model(images).logits, labels), version


def peer(transformers: Any, name: str, image_size: int) -> Any:
    """Hugging Face's model of this name, or SegFormer-B0 for a segmenter; random weights, no dropout.

    The reference's epsilon is 1e-6 in blocks and 1e-5 after embeddings; here it is one value, at no effect on time.
    """
    if name in SEGMENTERS:
        dropped = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "drop_path_rate")
        config = transformers.SegformerConfig(num_labels=PIXEL_CLASSES, **dict.fromkeys(dropped, 0.0))
        return transformers.SegformerForSemanticSegmentation(config)
    depths, dims = CLASSIFIERS[name]
    common = {
        "image_size": image_size,
        "depths": depths,
        "hidden_sizes": dims,
        "num_attention_heads": (1, 2, 5, 8),
        "mlp_ratios": (8, 8, 4, 4),
        "num_labels": IMAGE_CLASSES,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }
    if name.startswith("pvt_v2"):
        return transformers.PvtV2ForImageClassification(transformers.PvtV2Config(sr_ratios=(8, 4, 2, 1), **common))
    steps = {"sequence_reduction_ratios": (8, 4, 2, 1), "patch_sizes": (4, 2, 2, 2), "strides": (4, 2, 2, 2)}
    return transformers.PvtForImageClassification(transformers.PvtConfig(**steps, **common))


def detector(arguments: argparse.Namespace) -> tuple[Any, Callable[[], Any], Callable[[], Any], str]:
    """As ``transformer``, for torchvision's detector of this name, with our settings."""
    import torchvision  # pyright: ignore[reportMissingImports]
    from torchvision.models import detection  # pyright: ignore[reportMissingImports]

    height, width = arguments.image_size
    if arguments.model == "resnet50+retinanet":
        # torchvision's own builder takes P6 from P5, the recipe from C5.
        backbone = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=torch.nn.BatchNorm2d,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelP6P7(2048, 256),
        )
        model = detection.RetinaNet(backbone, OBJECT_CLASSES, detections_per_img=100)
    else:
        model = detection.maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=OBJECT_CLASSES + 1, rpn_post_nms_top_n_train=1000
        )
    model.transform = as_given(detection)
    images = list(torch.randn(arguments.batch_size, 3, height, width))
    targets = []
    for _ in images:
        scale = torch.tensor([width, height])
        corners, sides = torch.rand(OBJECTS, 2) * 0.6 * scale, (0.1 + torch.rand(OBJECTS, 2) * 0.25) * scale
        boxes = torch.cat([corners, corners + sides], dim=1)
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        # Class 0 of torchvision's Mask R-CNN is the background.
        targets.append({"boxes": boxes, "labels": torch.randint(1, OBJECT_CLASSES, (OBJECTS,)), "masks": masks})

    def loss() -> Any:
        return sum(model(images, targets).values())

    return model, lambda: model(images), loss, f"torchvision {torchvision.__version__}"


def as_given(detection: Any) -> Any:
    """Replaces torchvision's transform: no normalisation, no resizing, no pasting of masks."""

    class AsGiven(torch.nn.Module):
        def forward(self, images: list[Any], targets: Any) -> tuple[Any, Any]:
            sizes = [tuple(image.shape[-2:]) for image in images]
            return detection.image_list.ImageList(torch.stack(images), sizes), targets

        def postprocess(self, found: Any, sizes: Any, original_sizes: Any) -> Any:
            return found

    return AsGiven()
