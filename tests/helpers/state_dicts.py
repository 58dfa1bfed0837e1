"""State dicts of small models with the reference's names, listed here by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import pvt_jax
from tests.helpers import reference

Shapes = dict[str, tuple[int, ...]]

_DEPTHS, _DIMS = (2, 1, 1, 1), (8, 16, 40, 32)
_PYRAMID = {"depths": _DEPTHS, "dims": _DIMS, "num_heads": (1, 2, 5, 4), "num_classes": 5, "image_size": 64}
_RESNET = {"depths": _DEPTHS, "dims": (8, 16, 24, 32), "num_classes": 5, "image_size": 64}

# Family → (name of a registered model, settings that make it small).
TOYS: dict[str, tuple[str, dict]] = {
    "pvt": ("pvt_tiny", _PYRAMID),
    "pvt_v2": ("pvt_v2_b0", _PYRAMID),
    "pvt_v2 linear": ("pvt_v2_b2_li", _PYRAMID),
    "mit": ("mit_b0", _PYRAMID),
    "vit": ("vit_tiny_patch16", {"depth": 2, "dim": 16, "num_heads": 2, "num_classes": 5, "image_size": 64}),
    "resnet basic": ("resnet18", _RESNET),
    "resnet bottleneck": ("resnet50", _RESNET),
}


def toy(family: str, **changes):
    """The small model of a family."""
    name, settings = TOYS[family]
    return pvt_jax.create_model(name, **{**settings, **changes})


@functools.cache
@functools.cache
def expected(model):
    """Shapes and types of a model's variables; nothing is computed."""
    side = model.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, height, width, 3)))


def shapes(family: str) -> Shapes:
    """Names and shapes of the state dict of ``toy(family)`` in the reference's code."""
    if family == "pvt":
        return reference.shapes(_DEPTHS, _DIMS, 5, 64)
    if family == "vit":
        return _vit(16, 2, 16)
    if family.startswith("resnet"):
        return _resnet("bottleneck" in family)
    return _pvt_v2((4, 4, 4, 4) if family == "mit" else (8, 8, 4, 4), "linear" in family)


def weights(names: Shapes) -> dict[str, np.ndarray]:
    """Numbers for a state dict; each tensor's depend on nothing but its name and shape."""
    return {
        name: np.array(len(name), np.int64)
        if name.endswith("num_batches_tracked")
        else reference.reference_weight(name, shape)
        for name, shape in names.items()
    }


def _pvt_v2(mlp_ratios, linear: bool) -> Shapes:
    found: Shapes = {}

    def layer(name: str, *weight: int) -> None:
        found.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    in_dim = 3
    for i, dim in enumerate(_DIMS):
        stage, side = i + 1, 3 if i else 7
        layer(f"patch_embed{stage}.proj", dim, in_dim, side, side)
        layer(f"patch_embed{stage}.norm", dim)
        for j in range(_DEPTHS[i]):
            block, hidden, reduction = f"block{stage}.{j}", mlp_ratios[i] * dim, 1 if linear else (8, 4, 2, 1)[i]
            layer(f"{block}.norm1", dim)
            layer(f"{block}.norm2", dim)
            layer(f"{block}.attn.q", dim, dim)
            layer(f"{block}.attn.kv", 2 * dim, dim)
            layer(f"{block}.attn.proj", dim, dim)
            if linear or reduction > 1:
                layer(f"{block}.attn.sr", dim, dim, reduction, reduction)
                layer(f"{block}.attn.norm", dim)
            layer(f"{block}.mlp.fc1", hidden, dim)
            layer(f"{block}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            layer(f"{block}.mlp.fc2", dim, hidden)
        layer(f"norm{stage}", dim)
        in_dim = dim
    layer("head", 5, in_dim)
    return found


def _vit(dim: int, depth: int, patch: int) -> Shapes:
    found: Shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, (64 // patch) ** 2 + 1, dim)}

    def layer(name: str, *weight: int) -> None:
        found.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    layer("patch_embed.proj", dim, 3, patch, patch)
    for i in range(depth):
        layer(f"blocks.{i}.norm1", dim)
        layer(f"blocks.{i}.attn.qkv", 3 * dim, dim)
        layer(f"blocks.{i}.attn.proj", dim, dim)
        layer(f"blocks.{i}.norm2", dim)
        layer(f"blocks.{i}.mlp.fc1", 4 * dim, dim)
        layer(f"blocks.{i}.mlp.fc2", dim, 4 * dim)
    layer("norm", dim)
    layer("head", 5, dim)
    return found


def _resnet(bottleneck: bool) -> Shapes:
    found: Shapes = {}

    def norm(name: str, dim: int) -> None:
        found.update({f"{name}.{leaf}": (dim,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    found["conv1.weight"] = (8, 3, 7, 7)
    norm("bn1", 8)
    in_dim = 8
    for i, dim in enumerate((8, 16, 24, 32)):
        out_dim = 4 * dim if bottleneck else dim
        for j in range(_DEPTHS[i]):
            block = f"layer{i + 1}.{j}"
            wide = (
                [(dim, in_dim, 1), (dim, dim, 3), (out_dim, dim, 1)]
                if bottleneck
                else [(dim, in_dim, 3), (dim, dim, 3)]
            )
            for k, (out, into, side) in enumerate(wide):
                found[f"{block}.conv{k + 1}.weight"] = (out, into, side, side)
                norm(f"{block}.bn{k + 1}", out)
            if j == 0 and in_dim != out_dim:
                found[f"{block}.downsample.0.weight"] = (out_dim, in_dim, 1, 1)
                norm(f"{block}.downsample.1", out_dim)
            in_dim = out_dim
    found.update({"fc.weight": (5, in_dim), "fc.bias": (5,)})
    return found
