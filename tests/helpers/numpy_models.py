"""PVT v1, v2 and ViT a second time: NumPy in float64 on the reference's state-dict names, none of the package's code.

Written from the papers and the references' documented layer order; images are NHWC. Slow and direct on purpose.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import erf

from tests.helpers.reference import Weights


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


def overlapping_convolution(w: Weights, name: str, x: np.ndarray, stride: int) -> np.ndarray:
    """Convolution padded with zeros by half its kernel; depthwise where the kernel has one input channel for many."""
    kernel = w[f"{name}.weight"].astype(np.float64)
    side = kernel.shape[-1]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))[:, ::stride, ::stride]
    summed = "byxoij,ocij->byxo" if kernel.shape[1] == 1 else "byxcij,ocij->byxo"
    return np.einsum(summed, windows, kernel, optimize=True) + w[f"{name}.bias"]


def adaptive_average(x: np.ndarray, side: int) -> np.ndarray:
    """[b, h, w, c] → [b, side, side, c]: means over bins from floor(i n / side) to ceil((i + 1) n / side)."""
    spans = [[(i * n // side, math.ceil((i + 1) * n / side)) for i in range(side)] for n in x.shape[1:3]]
    rows = [[x[:, top:bottom, left:right].mean((1, 2)) for left, right in spans[1]] for top, bottom in spans[0]]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def attention(
    w: Weights,
    name: str,
    x: np.ndarray,
    grid: tuple[int, int],
    num_heads: int,
    epsilon: float = 1e-5,
    kept: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Spatial-reduction attention, head by head; reduced where the weights have a reduction.

    A reduction of 1×1 is the linear attention's, after pooling to 7×7. The attention weights are appended to ``kept``.
    """
    batch, _, dim = x.shape
    source = x
    if f"{name}.sr.weight" in w:
        maps = x.reshape(batch, *grid, dim)
        pooled = w[f"{name}.sr.weight"].shape[-1] == 1
        reduced = convolution(w, f"{name}.sr", adaptive_average(maps, 7) if pooled else maps).reshape(batch, -1, dim)
        source = layer_norm(w, f"{name}.norm", reduced, epsilon)
        source = gelu(source) if pooled else source
    query, key_value = linear(w, f"{name}.q", x), linear(w, f"{name}.kv", source)
    size = dim // num_heads
    heads, probabilities = [], []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = query[..., part], key_value[..., :dim][..., part], key_value[..., dim:][..., part]
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        probabilities.append(weights / weights.sum(-1, keepdims=True))
        heads.append(probabilities[-1] @ v)
    if kept is not None:
        kept.append(np.stack(probabilities, 1))
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


def bicubic(grid: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """As ``bilinear``, by cubic convolution with PyTorch's a; positions outside of the grid repeat its border."""
    a = -0.75

    def kernel(distance: float) -> float:
        x = abs(distance)
        return 1 - x * x * (a + 3 - (a + 2) * x) if x <= 1 else a * (x - 1) * (x - 2) ** 2

    h, w, c = grid.shape
    out = np.zeros((*target, c))
    for i in range(target[0]):
        y = (i + 0.5) * h / target[0] - 0.5
        for j in range(target[1]):
            x = (j + 0.5) * w / target[1] - 0.5
            for row in range(math.floor(y) - 1, math.floor(y) + 3):
                for column in range(math.floor(x) - 1, math.floor(x) + 3):
                    inside = grid[min(max(row, 0), h - 1), min(max(column, 0), w - 1)]
                    out[i, j] += kernel(y - row) * kernel(x - column) * inside
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
    kept: list[np.ndarray] | None = None,
) -> Any:
    """Class scores, or the maps c2…c5. The sizes are those of ``w``; ``branch_scales`` [depth, 2, b] as in training.

    The attention weights of every block are appended to ``kept``.
    """
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
            branch = attention(w, f"{name}.attn", normed, (rows, columns), num_heads[stage - 1], epsilon["sr"], kept)
            x = x + scale[0][:, None, None] * branch
            hidden = gelu(linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x, epsilon["block"])))
            x = x + scale[1][:, None, None] * linear(w, f"{name}.mlp.fc2", hidden)
            block, number = block + 1, number + 1
        if not (stage == 4 and classify):
            x = maps[f"c{stage + 1}"] = x.reshape(batch, rows, columns, dim)
    if classify:
        return linear(w, "head", layer_norm(w, "norm", x, epsilon["final"])[:, 0])
    return maps


def pvt_v2(
    w: Weights,
    images: np.ndarray,
    num_heads: Sequence[int],
    *,
    classify: bool,
    epsilons: dict[str, float] | None = None,
    branch_scales: np.ndarray | None = None,
    kept: list[np.ndarray] | None = None,
    strides: Sequence[int] = (4, 2, 2, 2),
) -> Any:
    """As ``pvt``: class scores, or the maps c2…c5, of a PVT v2 or MiT.

    Also of one between v1 and v2: kernels as large as their stride do not overlap, a table is added where there is one,
    and the feed-forward has a depthwise convolution where the weights have.
    """
    epsilon = {**EPSILONS, **(epsilons or {})}
    x, maps, number = images.astype(np.float64), {}, 0
    for stage in range(1, 5):
        name, stride = f"patch_embed{stage}.proj", strides[stage - 1]
        overlapping = w[f"{name}.weight"].shape[-1] != stride
        x = overlapping_convolution(w, name, x, stride) if overlapping else convolution(w, name, x)
        batch, rows, columns, dim = x.shape
        x = layer_norm(w, f"patch_embed{stage}.norm", x.reshape(batch, -1, dim), epsilon["patch"])
        if f"pos_embed{stage}" in w:
            table = w[f"pos_embed{stage}"][0].astype(np.float64)
            side = round(len(table) ** 0.5)
            x = x + bilinear(table.reshape(side, side, dim), (rows, columns)).reshape(-1, dim)
        block = 0
        while f"block{stage}.{block}.norm1.weight" in w:
            name = f"block{stage}.{block}"
            scale = np.ones((2, batch)) if branch_scales is None else branch_scales[number]
            normed = layer_norm(w, f"{name}.norm1", x, epsilon["block"])
            branch = attention(w, f"{name}.attn", normed, (rows, columns), num_heads[stage - 1], epsilon["sr"], kept)
            x = x + scale[0][:, None, None] * branch
            hidden = linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x, epsilon["block"]))
            depthwise = f"{name}.mlp.dwconv.dwconv"
            if f"{depthwise}.weight" in w:
                if w.get(f"{name}.attn.sr.weight", np.empty(0)).shape[-1] == 1:
                    hidden = np.maximum(hidden, 0)
                hidden = hidden.reshape(batch, rows, columns, -1)
                hidden = overlapping_convolution(w, depthwise, hidden, 1).reshape(batch, x.shape[1], -1)
            x = x + scale[1][:, None, None] * linear(w, f"{name}.mlp.fc2", gelu(hidden))
            block, number = block + 1, number + 1
        x = layer_norm(w, f"norm{stage}", x, epsilon["final"])
        x = maps[f"c{stage + 1}"] = x.reshape(batch, rows, columns, dim)
    return linear(w, "head", x.mean((1, 2))) if classify else maps


def vit(
    w: Weights,
    images: np.ndarray,
    num_heads: int,
    *,
    epsilons: dict[str, float] | None = None,
    branch_scales: np.ndarray | None = None,
    kept: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Class scores, and the last block's map after the final norm [b, rows, columns, c], of a ViT."""
    epsilon = {**EPSILONS, **(epsilons or {})}
    x = convolution(w, "patch_embed.proj", images.astype(np.float64))
    batch, rows, columns, dim = x.shape
    table = w["pos_embed"][0].astype(np.float64)
    side = round((len(table) - 1) ** 0.5)
    positions = bicubic(table[1:].reshape(side, side, dim), (rows, columns)).reshape(-1, dim)
    x = np.concatenate([np.repeat(w["cls_token"] + table[:1], batch, 0), x.reshape(batch, -1, dim) + positions], 1)
    block = 0
    while (name := f"blocks.{block}") + ".norm1.weight" in w:
        scale = np.ones((2, batch)) if branch_scales is None else branch_scales[block]
        parts = {f"attn.{key}": w[f"{name}.attn.{key}"] for key in ("proj.weight", "proj.bias")}
        for leaf in ("weight", "bias"):
            parts[f"attn.q.{leaf}"], parts[f"attn.kv.{leaf}"] = np.split(w[f"{name}.attn.qkv.{leaf}"], [dim])
        normed = layer_norm(w, f"{name}.norm1", x, epsilon["block"])
        x = x + scale[0][:, None, None] * attention(parts, "attn", normed, (rows, columns), num_heads, kept=kept)
        hidden = gelu(linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x, epsilon["block"])))
        x = x + scale[1][:, None, None] * linear(w, f"{name}.mlp.fc2", hidden)
        block += 1
    x = layer_norm(w, "norm", x, epsilon["final"])
    return linear(w, "head", x[:, 0]), x[:, 1:].reshape(batch, rows, columns, dim)
