"""Neck and head written again with ``torch.nn.functional``, and Hugging Face's SegFormer with the same weights as ours.

A test that imports this is skipped without PyTorch. The functions take variables by our paths, as nested dicts of
tensors, and maps [b, c, h, w].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.helpers import reference

torch: Any = pytest.importorskip(
    "torch", reason="PyTorch is not installed: it is an oracle that make test ORACLES=1 installs"
)
functional = torch.nn.functional


def tensors(tree: Any, gradient: bool = False) -> Any:
    """A tree of arrays as one of tensors, by which gradients can be taken if ``gradient``."""
    if isinstance(tree, dict):
        return {name: tensors(branch, gradient) for name, branch in tree.items()}
    return torch.from_numpy(np.array(tree)).requires_grad_(gradient)


def channels_first(maps: Any) -> Any:
    return torch.from_numpy(np.array(maps).transpose(0, 3, 1, 2).copy())


def channels_last(maps: Any) -> np.ndarray:
    return maps.detach().numpy().transpose(0, 2, 3, 1)


def convolved(x: Any, params: dict[str, Any], stride: int = 1) -> Any:
    """A 1×1 convolution where the kernel has two axes, a padded 3×3 one where it has four."""
    kernel = params["kernel"]
    kernel = kernel.T[:, :, None, None] if kernel.ndim == 2 else kernel.permute(3, 2, 0, 1)
    return functional.conv2d(x, kernel, params.get("bias"), stride, padding=kernel.shape[-1] // 2)


def feature_pyramid(maps: dict[str, Any], params: Any, first: int, extra: str) -> dict[str, Any]:
    """FPN as in mmdetection's configs of RetinaNet and Mask R-CNN."""
    top_down = [convolved(maps[f"c{level}"], params[f"lateral_c{level}"]) for level in range(first, 6)]
    for i in reversed(range(len(top_down) - 1)):
        size = top_down[i].shape[2:]
        top_down[i] = top_down[i] + functional.interpolate(top_down[i + 1], size=size, mode="nearest")
    names = [f"p{level}" for level in range(first, 6)]
    pyramid = {name: convolved(x, params[f"output_{name}"]) for name, x in zip(names, top_down, strict=True)}
    if extra == "max_pool":
        pyramid["p6"] = functional.max_pool2d(pyramid["p5"], 1, stride=2)
    if extra == "convolution":
        pyramid["p6"] = convolved(maps["c5"], params["output_p6"], 2)
        pyramid["p7"] = convolved(pyramid["p6"], params["output_p7"], 2)
    return pyramid


def semantic_fpn(maps: dict[str, Any], params: Any, stats: Any, train: bool) -> Any:
    """Class scores of mmsegmentation's FPN head without dropout; training changes ``stats`` in place."""

    def bilinear(x: Any, **to: Any) -> Any:
        return functional.interpolate(x, mode="bilinear", align_corners=False, **to)

    total = None
    for level in (2, 3, 4, 5):
        name, x = f"branch_p{level}", maps[f"p{level}"]
        for j in range(max(1, level - 2)):
            norm, running = params[name][f"norm{j}"], stats[name][f"norm{j}"]
            x = convolved(x, params[name][f"conv{j}"])
            moments = (running["mean"], running["var"])
            x = functional.relu(functional.batch_norm(x, *moments, norm["scale"], norm["bias"], train, 0.1, 1e-5))
            x = x if level == 2 else bilinear(x, scale_factor=2)
        total = x if total is None else total + bilinear(x, size=total.shape[2:])
    return convolved(total, params["classifier"])


def hf_segformer(
    depths: Sequence[int], dims: Sequence[int], num_heads: Sequence[int], num_classes: int, channels: int
) -> tuple[Any, dict[str, Any]]:
    """(whole model in evaluation mode, our variables); without dropout and stochastic depth, for training too."""
    # Imported here, as it skips without transformers.
    from tests.helpers import oracles

    settings = {
        **{"depths": list(depths), "hidden_sizes": list(dims), "num_attention_heads": list(num_heads)},
        **{"num_labels": num_classes, "decoder_hidden_size": channels},
        **{"classifier_dropout_prob": 0.0, "drop_path_rate": 0.0},
    }
    names = oracles._HF_SEGFORMER
    module, weights = oracles._hf("segformer", "SegformerConfig", "SegformerForSemanticSegmentation", names, settings)
    prefix = "decode_head."
    backbone = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
    head = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    norm = {name: head[f"batch_norm.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}

    def linear(name: str) -> dict[str, np.ndarray]:
        kernel = head[f"{name}.weight"]
        return {"kernel": kernel.reshape(kernel.shape[:2]).T, "bias": head[f"{name}.bias"]}

    params = {f"linear_c{i + 2}": linear(f"linear_projections.{i}.proj") for i in range(4)}
    params |= {
        "fuse": {"kernel": head["linear_fuse.weight"][:, :, 0, 0].T},
        "norm": {"scale": norm["weight"], "bias": norm["bias"]},
        "classifier": linear("classifier"),
    }
    count = np.asarray(head["batch_norm.num_batches_tracked"], np.int32)
    stats = {"mean": norm["running_mean"], "var": norm["running_var"], "count": count}
    return module, {
        "params": {"backbone": reference.to_flax(backbone), "head": params},
        "batch_stats": {"head": {"norm": stats}},
    }
