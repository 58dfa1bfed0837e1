"""The steps of a model's baseline in PyTorch, Hugging Face's, timm's or torchvision's, for ``turns.py``."""

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
    Case,
    Side,
)
from experiments.speed.turns import resident_peak


class TorchSteps:
    """A baseline with the fastest AdamW implementation on this machine.

    bfloat16: ``infer`` has weights in it; ``train`` keeps them in float32 and has autocast, as ours does. float32: on a
    GPU products are in TF32, as XLA's are by default.
    """

    def __init__(self, case: Case, side: Side):
        self.case = case
        if case.device == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True  # XLA times convolutions, too.
        make = detector if case.model in DETECTORS else by_timm if side.library == "timm" else transformer
        with torch.device(case.device):
            model, predict, loss, version = make(case, side)
        device = torch.cuda.get_device_name() if case.device == "cuda" else f"{torch.get_num_threads()} threads"
        how = "torch.compile" if side.compiled else "eager"
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "versions": f"torch {torch.__version__} ({device}), {version}, {how}",
            "compile_seconds": 0.0,
        }
        self.start = self.inference(model, predict) if case.mode == "infer" else self.training(model, loss)
        if side.compiled:
            start = time.perf_counter()
            self.start()  # torch.compile compiles when it is called.
            self.wait()
            self.facts["compile_seconds"] = time.perf_counter() - start

    def inference(self, model: Any, predict: Callable[[], Any]) -> Callable[[], Any]:
        """A function that predicts a batch."""
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                predict()

        return forward

    def training(self, model: Any, loss: Callable[[], Any]) -> Callable[[], Any]:
        """A function that makes an update."""
        model.train()

        def backward() -> None:
            with torch.autocast(self.case.device, torch.bfloat16, enabled=self.case.dtype == "bfloat16"):
                value = loss()
            value.backward()

        def seconds_of_update(form: str) -> float:
            options: dict[str, Any] = {form: True}
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, **options)
            optimizer.step()
            self.wait()
            start = time.perf_counter()
            for _ in range(3):
                optimizer.step()
            self.wait()
            return time.perf_counter() - start

        backward()
        form = min(("foreach", "fused"), key=seconds_of_update)
        self.facts["versions"] += f", {form} AdamW"
        options: dict[str, Any] = {form: True}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, **options)

        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step

    def wait(self) -> None:
        """Wait for what is under way on a GPU."""
        if self.case.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self) -> int:
        """Of the GPU, or of the process on a CPU."""
        return torch.cuda.max_memory_allocated() if self.case.device == "cuda" else resident_peak()


# Makers: (model, functions that predict a batch and compute its loss, the library's version). The model of ``side`` may
# be compiled; its parameters are those of the model that is returned.
Made = tuple[Any, Callable[[], Any], Callable[[], Any], str]


def by_timm(case: Case, side: Side) -> Made:
    """timm's classifier of this name; random weights, no dropout."""
    import timm  # pyright: ignore[reportMissingImports]

    model = timm.create_model(case.model, num_classes=IMAGE_CLASSES, drop_path_rate=0.0)
    forward, images = prepared(model, case, side)
    return model, *classifier(lambda: forward(images), case), f"timm {timm.__version__}"


def prepared(model: Any, case: Case, side: Side) -> tuple[Any, Any]:
    """The model to call, and random images."""
    images = torch.randn(case.batch_size, 3, *case.image_size)
    if case.mode == "infer" and case.dtype == "bfloat16":
        model.to(torch.bfloat16)
        images = images.to(torch.bfloat16)
    return (torch.compile(model) if side.compiled else model), images


def classifier(logits: Callable[[], Any], case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Functions that predict a batch and compute its loss."""
    labels = torch.randint(0, IMAGE_CLASSES, (case.batch_size,))
    return logits, lambda: torch.nn.functional.cross_entropy(logits(), labels)


def transformer(case: Case, side: Side) -> Made:
    """Hugging Face's model."""
    import transformers  # pyright: ignore[reportMissingImports]

    model = peer(transformers, case.model, case.image_size[0])
    forward, images = prepared(model, case, side)
    version = f"transformers {transformers.__version__}"
    if case.model in SEGMENTERS:
        labels = torch.randint(0, PIXEL_CLASSES, (case.batch_size, *case.image_size))
        return model, lambda: forward(images), lambda: forward(images, labels=labels).loss, version
    return model, *classifier(lambda: forward(images).logits, case), version


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


def detector(case: Case, side: Side) -> Made:
    """torchvision's detector of this name, with our settings."""
    import torchvision  # pyright: ignore[reportMissingImports]
    from torchvision.models import detection  # pyright: ignore[reportMissingImports]

    height, width = case.image_size
    if case.model == "resnet50+retinanet":
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
    images = list(torch.randn(case.batch_size, 3, height, width))
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

    called = torch.compile(model) if side.compiled else model

    def loss() -> Any:
        return sum(called(images, targets).values())

    return model, lambda: called(images), loss, f"torchvision {torchvision.__version__}"


def as_given(detection: Any) -> Any:
    """Replaces torchvision's transform: no normalisation, no resizing, no pasting of masks."""

    class AsGiven(torch.nn.Module):
        def forward(self, images: list[Any], targets: Any) -> tuple[Any, Any]:
            sizes = [tuple(image.shape[-2:]) for image in images]
            return detection.image_list.ImageList(torch.stack(images), sizes), targets

        def postprocess(self, found: Any, sizes: Any, original_sizes: Any) -> Any:
            return found

    return AsGiven()
