"""The reference's outputs, names and weights, and how near to them a result is.

Weights are by the names of the reference's state dicts, in PyTorch's layouts ([out, in], [out, in, height, width]).
"""

import functools
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


# (pattern, replacement) from a reference name to a path in the Flax tree, applied in order: the names of the PVTs,
# which MiT shares, of timm's ViT, and of torchvision's ResNet.
_NAMES = (
    (r"^pos_embed(\d)$", r"stage\1.pos_embed"),
    (r"^patch_embed(\d?)\.proj", r"stage\1.patch_embed"),
    (r"^patch_embed(\d)\.norm", r"stage\1.patch_norm"),
    (r"^block(\d)\.(\d+)\.", r"stage\1.block\2."),
    (r"attn\.norm", "attn.sr_norm"),
    (r"dwconv\.dwconv", "dwconv"),
    (r"^norm(\d)", r"stage\1.norm"),
    (r"^stage\.", ""),
    (r"^blocks\.(\d+)\.", r"block\1."),
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)\.(\d+)\.", r"stage\1.block\2."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"downsample\.0", "shortcut_conv"),
    (r"downsample\.1", "shortcut_norm"),
    (r"^(head|fc)\.", "head.linear."),
)
_STATISTICS = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}


def to_flax(weights: Weights) -> dict[str, Any]:
    """Reference weights as the nested dict of ``variables["params"]``."""
    return variables(weights)["params"]


def variables(weights: Weights) -> dict[str, Any]:
    """Reference weights as a model's variables."""
    tree: dict[str, Any] = {}

    def place(path: str, array: np.ndarray) -> None:
        *folders, leaf = path.split(".")
        collection = "batch_stats" if leaf in _STATISTICS else "params"
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        node = tree
        for folder in [collection, *folders]:
            node = node.setdefault(folder, {})
        node[_STATISTICS.get(leaf, leaf)] = array

    for key, value in weights.items():
        path, array = key, np.asarray(value, np.int32 if np.ndim(value) == 0 else np.float32)
        for pattern, replacement in _NAMES:
            path = re.sub(pattern, replacement, path)
        if ".qkv." in path:  # Rows are queries, then keys, then values.
            dim = len(array) // 3
            place(path.replace("qkv", "q"), array[:dim])
            place(path.replace("qkv", "kv"), array[dim:])
        else:
            place(path, array)
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
    """State-dict names and shapes of a PVT v1 of any size."""
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


def shapes_v2(
    depths: Sequence[int],
    dims: Sequence[int],
    num_classes: int,
    mlp_ratios: Sequence[int] = (8, 8, 4, 4),
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    linear_attention: bool = False,
) -> dict[str, tuple[int, ...]]:
    """State-dict names and shapes of a PVT v2 of any size: what v1 has, without tables and tokens."""
    ratios = (1, 1, 1, 1) if linear_attention else sr_ratios
    found = shapes(depths, dims, num_classes, 224, mlp_ratios, ratios)
    for i, dim in enumerate(dims):
        side = 7 if i == 0 else 3
        found[f"patch_embed{i + 1}.proj.weight"] = (dim, dims[i - 1] if i else 3, side, side)
        found.update({f"norm{i + 1}.{leaf}": (dim,) for leaf in ("weight", "bias")})
        for j in range(depths[i]):
            block, hidden = f"block{i + 1}.{j}", mlp_ratios[i] * dim
            found |= {
                f"{block}.mlp.dwconv.dwconv.weight": (hidden, 1, 3, 3),
                f"{block}.mlp.dwconv.dwconv.bias": (hidden,),
            }
            if linear_attention:
                found |= {f"{block}.attn.sr.weight": (dim, dim, 1, 1), f"{block}.attn.sr.bias": (dim,)}
                found |= {f"{block}.attn.norm.{leaf}": (dim,) for leaf in ("weight", "bias")}
    return {name: shape for name, shape in found.items() if not name.startswith(("pos_embed", "cls_token", "norm."))}


def vit_shapes(depth: int, dim: int, patch: int, table_side: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """State-dict names and shapes of timm's ViT of any size, for square images."""
    found = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + (table_side // patch) ** 2, dim)}
    found |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for block in (f"blocks.{i}" for i in range(depth)):
        found |= {f"{block}.{norm}.{leaf}": (dim,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
        sizes = {
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "mlp.fc1": (4 * dim, dim),
            "mlp.fc2": (dim, 4 * dim),
        }
        found |= {f"{block}.{name}.weight": shape for name, shape in sizes.items()}
        found |= {f"{block}.{name}.bias": shape[:1] for name, shape in sizes.items()}
    found |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    return {**found, "head.weight": (num_classes, dim), "head.bias": (num_classes,)}


def parameter_shapes(model: Any, height: int = 64, width: int = 64, **options: Any) -> Any:
    """Shapes of ``model``'s parameters, without computing them."""
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    tree = jax.eval_shape(lambda key, x: model.init(key, x, **options), jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def deep_variables(model: Any) -> Any:
    """Shapes of the variables of a backbone, or of a model on one.

    Blocks from the third on are like the second, and models that differ in depth alone are traced once.
    """
    backbone = getattr(model, "backbone", model)
    if hasattr(backbone, "depth"):
        stages = {"": backbone.depth}
        shallow = backbone.clone(depth=2, scan=False)
    else:
        stages = {f"stage{i + 1}": depth for i, depth in enumerate(backbone.depths)}
        shallow = backbone.clone(depths=(2,) * len(stages), scan=False)
    if backbone is model:
        return {collection: _deepened(tree, stages) for collection, tree in _variables(shallow, "features").items()}
    return {
        collection: {**tree, **({"backbone": _deepened(tree["backbone"], stages)} if "backbone" in tree else {})}
        for collection, tree in _variables(model.clone(backbone=shallow), "__call__").items()
    }


@functools.cache
def _variables(model: Any, method: str) -> Any:
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, method=method), jax.random.key(0), images)


def _deepened(tree: dict[str, Any], stages: dict[str, int]) -> dict[str, Any]:
    for stage, depth in stages.items():
        blocks = tree[stage] if stage else tree
        deep = {**blocks, **{f"block{i}": blocks["block1"] for i in range(2, depth)}}
        tree = {**tree, stage: deep} if stage else deep
    return tree


def relative_error(found: Any, expected: np.ndarray, rms: float | None = None) -> float:
    """Largest absolute difference over the root mean square of what is expected."""
    rms = float(np.sqrt((np.asarray(expected, np.float64) ** 2).mean())) if rms is None else rms
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / rms)
