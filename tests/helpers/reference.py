"""PVT v1 a second time: plain NumPy in float64 on the reference's state-dict names, with none of the package's code.

Written from the paper and the reference's documented layer order; it follows PyTorch's conventions (weights are
[out, in], images inside are NHWC). Slow and direct on purpose.
"""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

GOLDEN = Path(__file__).parents[1] / "golden"
Weights = dict[str, np.ndarray]


def golden(name: str) -> dict[str, np.ndarray]:
    """Outputs of the reference code for the weights of ``golden_weights`` (tests/golden/NAME.npz)."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def golden_weights(name: str) -> Weights:
    """The weights that the golden values were computed with, by reference name."""
    shapes = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    return {key: reference_weight(key, shape) for key, shape in shapes.items()}


def reference_weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """A float32 array that depends on nothing but its name and shape."""
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return 1 + np.float32(0.1) * x if key.endswith("weight") else np.float32(0.1) * x
    if "pos_embed" in key or "cls_token" in key:
        return np.float32(0.2) * x
    return x / np.sqrt(np.prod(shape[1:])).astype(np.float32)


# (pattern, replacement) from a reference name to a path in the Flax tree, applied in order.
_NAMES = (
    (r"^pos_embed(\d)$", r"stage\1.pos_embed"),
    (r"^patch_embed(\d)\.proj", r"stage\1.patch_embed"),
    (r"^patch_embed(\d)\.norm", r"stage\1.patch_norm"),
    (r"^block(\d)\.(\d+)\.", r"stage\1.block\2."),
    (r"attn\.norm", "attn.sr_norm"),
    (r"^head\.", "head.linear."),
)


def to_flax(weights: Weights) -> dict[str, Any]:
    """Reference weights as the nested dict of ``variables["params"]``."""
    tree: dict[str, Any] = {}
    for key, value in weights.items():
        path, array = key, np.asarray(value, np.float32)
        for pattern, replacement in _NAMES:
            path = re.sub(pattern, replacement, path)
        *folders, leaf = path.split(".")
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    return tree


def shapes(
    depths: Sequence[int],
    dims: Sequence[int],
    num_classes: int,
    table_side: int,
    mlp_ratios: Sequence[int] = (8, 8, 4, 4),
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    patches: Sequence[int] = (4, 2, 2, 2),
) -> dict[str, tuple[int, ...]]:
    """State-dict names and shapes of a reference model of any size."""
    found: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dims[3])}

    def linear(name: str, *weight: int) -> None:
        found.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    in_dim = 3
    for i, dim in enumerate(dims):
        table_side //= patches[i]
        found[f"pos_embed{i + 1}"] = (1, table_side**2 + (i == 3), dim)
        linear(f"patch_embed{i + 1}.proj", dim, in_dim, patches[i], patches[i])
        linear(f"patch_embed{i + 1}.norm", dim)
        for j in range(depths[i]):
            block = f"block{i + 1}.{j}"
            linear(f"{block}.norm1", dim)
            linear(f"{block}.norm2", dim)
            linear(f"{block}.attn.q", dim, dim)
            linear(f"{block}.attn.kv", 2 * dim, dim)
            linear(f"{block}.attn.proj", dim, dim)
            if sr_ratios[i] > 1:
                linear(f"{block}.attn.sr", dim, dim, sr_ratios[i], sr_ratios[i])
                linear(f"{block}.attn.norm", dim)
            linear(f"{block}.mlp.fc1", mlp_ratios[i] * dim, dim)
            linear(f"{block}.mlp.fc2", dim, mlp_ratios[i] * dim)
        in_dim = dim
    linear("norm", dims[3])
    linear("head", num_classes, dims[3])
    return found


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """X W^T + b."""
    return x @ w[f"{name}.weight"].T.astype(np.float64) + w[f"{name}.bias"]


def layer_norm(w: Weights, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    """Normalised over the last axis, biased variance."""
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return normed * w[f"{name}.weight"] + w[f"{name}.bias"]


def convolution(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Convolution with stride = kernel and no padding, output pixel by output pixel."""
    kernel = w[f"{name}.weight"].astype(np.float64)
    k = kernel.shape[-1]
    rows, columns = x.shape[1] // k, x.shape[2] // k
    out = np.empty((x.shape[0], rows, columns, kernel.shape[0]))
    flat = kernel.transpose(0, 2, 3, 1).reshape(kernel.shape[0], -1)
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * k : (i + 1) * k, j * k : (j + 1) * k]
            out[:, i, j] = patch.reshape(len(x), -1) @ flat.T
    return out + w[f"{name}.bias"]


def attention(
    w: Weights, name: str, x: np.ndarray, grid: tuple[int, int], num_heads: int, epsilon: float = 1e-5
) -> np.ndarray:
    """Spatial-reduction attention, head by head; reduced where the weights have a reduction."""
    batch, _, dim = x.shape
    source = x
    if f"{name}.sr.weight" in w:
        reduced = convolution(w, f"{name}.sr", x.reshape(batch, *grid, dim)).reshape(batch, -1, dim)
        source = layer_norm(w, f"{name}.norm", reduced, epsilon)
    query, key_value = linear(w, f"{name}.q", x), linear(w, f"{name}.kv", source)
    size = dim // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = query[..., part], key_value[..., :dim][..., part], key_value[..., dim:][..., part]
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return linear(w, f"{name}.proj", np.concatenate(heads, -1))


def bilinear(grid: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """[h, w, c] → [*target, c] as ``align_corners=False`` without antialiasing, one output pixel at a time."""
    h, w, c = grid.shape
    out = np.empty((*target, c))
    for i in range(target[0]):
        y = max((i + 0.5) * h / target[0] - 0.5, 0.0)
        top = int(y)
        bottom, down = min(top + 1, h - 1), y - top
        for j in range(target[1]):
            x = max((j + 0.5) * w / target[1] - 0.5, 0.0)
            left = int(x)
            right, along = min(left + 1, w - 1), x - left
            upper = grid[top, left] * (1 - along) + grid[top, right] * along
            lower = grid[bottom, left] * (1 - along) + grid[bottom, right] * along
            out[i, j] = upper * (1 - down) + lower * down
    return out


EPSILONS = {"patch": 1e-5, "sr": 1e-5, "block": 1e-6, "final": 1e-6}


def pvt(
    w: Weights,
    images: np.ndarray,
    num_heads: Sequence[int],
    *,
    classify: bool,
    epsilons: dict[str, float] | None = None,
    branch_scales: np.ndarray | None = None,
) -> Any:
    """Class scores, or the maps c2…c5. The sizes are those of ``w``; ``branch_scales`` [depth, 2, b] as in training."""
    epsilon = {**EPSILONS, **(epsilons or {})}
    x, maps, number = images.astype(np.float64), {}, 0
    for stage in range(1, 5):
        x = convolution(w, f"patch_embed{stage}.proj", x)
        batch, *grid, dim = x.shape
        rows, columns = grid
        x = layer_norm(w, f"patch_embed{stage}.norm", x.reshape(batch, -1, dim), epsilon["patch"])
        table = w[f"pos_embed{stage}"][0].astype(np.float64)
        slot, table = (table[:1], table[1:]) if stage == 4 else (table[:0], table)
        side = round(len(table) ** 0.5)
        positions = bilinear(table.reshape(side, side, dim), (rows, columns)).reshape(-1, dim)
        if stage == 4 and classify:
            x = np.concatenate([np.repeat(w["cls_token"], batch, 0), x], 1)
            positions = np.concatenate([slot, positions])
        x = x + positions
        block = 0
        while f"block{stage}.{block}.norm1.weight" in w:
            name = f"block{stage}.{block}"
            scale = np.ones((2, batch)) if branch_scales is None else branch_scales[number]
            normed = layer_norm(w, f"{name}.norm1", x, epsilon["block"])
            branch = attention(w, f"{name}.attn", normed, (rows, columns), num_heads[stage - 1], epsilon["sr"])
            x = x + scale[0][:, None, None] * branch
            hidden = linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x, epsilon["block"]))
            hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
            x = x + scale[1][:, None, None] * linear(w, f"{name}.mlp.fc2", hidden)
            block, number = block + 1, number + 1
        if not (stage == 4 and classify):
            x = maps[f"c{stage + 1}"] = x.reshape(batch, rows, columns, dim)
    if classify:
        return linear(w, "head", layer_norm(w, "norm", x, epsilon["final"])[:, 0])
    return maps


def parameter_shapes(model: Any, height: int = 64, width: int = 64, **options: Any) -> Any:
    """Shapes of ``model``'s parameters, without computing them."""
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    tree = jax.eval_shape(lambda key, x: model.init(key, x, **options), jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def relative_error(found: Any, expected: np.ndarray, rms: float | None = None) -> float:
    """Largest absolute difference over the root mean square of what is expected."""
    rms = float(np.sqrt((np.asarray(expected, np.float64) ** 2).mean())) if rms is None else rms
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / rms)
