"""Whole pipelines of Hugging Face: a processor and a model with random weights in a folder that ``Predictor`` opens."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.helpers.oracles import torch

Pictures = list[np.ndarray]
_STAGES: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 32, 40, 64],
    "num_attention_heads": [1, 2, 5, 8],
}
_OURS = {"depths": (1, 1, 1, 1), "dims": (16, 32, 40, 64), "num_heads": (1, 2, 5, 8)}
_VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192}


class Pipeline(NamedTuple):
    """One model: its class and processor in transformers, and how ``Predictor`` is told of it.

    ``side`` is that of the square that the processor resizes every image to.
    """

    family: str
    model: str
    processor: str
    settings: dict[str, Any]
    predictor: dict[str, Any]
    side: int = 224


PIPELINES = {
    "pvt": Pipeline(
        *("pvt", "PvtForImageClassification", "pvt.image_processing_pil_pvt.PvtImageProcessorPil"),
        {**_STAGES, "image_size": 224},
        {"model": "pvt_tiny", "settings": _OURS},
    ),
    "pvt_v2": Pipeline(
        *("pvt_v2", "PvtV2ForImageClassification", "pvt.image_processing_pil_pvt.PvtImageProcessorPil"),
        _STAGES,
        {"model": "pvt_v2_b0", "settings": _OURS},
    ),
    "segformer": Pipeline(
        *("segformer", "SegformerForImageClassification"),
        "segformer.image_processing_pil_segformer.SegformerImageProcessorPil",
        _STAGES,
        {"model": "mit_b0", "settings": _OURS},
        512,
    ),
    "segformer_semantic": Pipeline(
        *("segformer", "SegformerForSemanticSegmentation"),
        "segformer.image_processing_pil_segformer.SegformerImageProcessorPil",
        {**_STAGES, "decoder_hidden_size": 32},
        {"model": "mit_b0", "head": "segformer", "settings": {**_OURS, "head.channels": 32}},
        512,
    ),
    "vit": Pipeline(
        *("vit", "ViTForImageClassification", "vit.image_processing_pil_vit.ViTImageProcessorPil"),
        {**_VIT, "layer_norm_eps": 1e-6},
        {"model": "vit_tiny_patch16", "settings": {"depth": 2, "dim": 48, "num_heads": 3}},
    ),
}
LABELS = [f"thing {number}" for number in range(7)]


class HuggingFace:
    """The processor and the model of a ``Pipeline``, saved in ``folder``."""

    def __init__(self, pipeline: Pipeline, folder: Path):
        self.folder, package = folder, "transformers.models"
        home = importlib.import_module(f"{package}.{pipeline.family}.modeling_{pipeline.family}")
        kind = getattr(home, pipeline.model)
        labels = {"num_labels": len(LABELS), "id2label": dict(enumerate(LABELS))}
        config = kind.config_class(**pipeline.settings, **labels)
        torch.manual_seed(0)
        self.model = kind(config).eval()
        for name, parameter in self.model.named_parameters():
            # Initial weights are so small that all logits are alike.
            if parameter.ndim > 1:
                parameter.data *= 4 if "token" not in name else 1
        self.model.save_pretrained(folder)
        module, _, name = f"{package}.{pipeline.processor}".rpartition(".")
        self.processor = getattr(importlib.import_module(module), name)()
        self.processor.save_pretrained(folder)

    def pixels(self, images: Pictures, **options: Any) -> np.ndarray:
        """[b, h, w, 3], normalised."""
        found = self.processor([Image.fromarray(image) for image in images], return_tensors="pt", **options)
        return found["pixel_values"].numpy().transpose(0, 2, 3, 1)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Of normalised images [b, h, w, 3]: [b, k], or maps [b, k, h / 4, w / 4]."""
        with torch.no_grad():
            return self.model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).logits.numpy()
