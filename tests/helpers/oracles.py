"""Models of Hugging Face and timm that hold the same weights as ours; a test that imports this is skipped without them.

Each function here gives (module, weights): the module in evaluation mode, and its weights by the reference's names.
"""

import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import reference

REASON = "{} is not installed: it is an oracle that make test ORACLES=1 installs"
torch: Any = pytest.importorskip("torch", reason=REASON.format("PyTorch"))
pytest.importorskip("transformers", reason=REASON.format("transformers"))

# Tests run in several processes, on as many cores.
torch.set_num_threads(1)

Names = Sequence[tuple[str, str]]

# (pattern, replacement) from a name of Hugging Face's or timm's state dict to the reference's, applied in order. Stages
# are counted from 1 by then. A name that ends in [i/n] is the i-th of n equal parts of the reference's rows.
_HF_PVT: Names = (
    (r"^pvt\.encoder\.", ""),
    (r"^patch_embeddings\.(\d)\.position_embeddings", r"pos_embed\1"),
    (r"^patch_embeddings\.\d\.cls_token", "cls_token"),
    (r"^patch_embeddings\.(\d)\.projection", r"patch_embed\1.proj"),
    (r"^patch_embeddings\.(\d)\.layer_norm", r"patch_embed\1.norm"),
    (r"^block\.(\d)", r"block\1"),
    (r"attention\.self\.", "attn."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attn\.query\.(\w+)", r"attn.q.\1"),
    (r"attn\.key\.(\w+)", r"attn.kv.\1[0/2]"),
    (r"attn\.value\.(\w+)", r"attn.kv.\1[1/2]"),
    (r"sequence_reduction", "sr"),
    (r"attn\.layer_norm", "attn.norm"),
    (r"layer_norm_(\d)", r"norm\1"),
    (r"mlp\.dense", "mlp.fc"),
    (r"^layer_norm", "norm"),
    (r"^classifier", "head"),
)
_HF_PVT_V2: Names = (
    (r"^pvt_v2\.encoder\.", ""),
    (r"^layers\.(\d)\.patch_embedding\.proj", r"patch_embed\1.proj"),
    (r"^layers\.(\d)\.patch_embedding\.layer_norm", r"patch_embed\1.norm"),
    (r"^layers\.(\d)\.blocks", r"block\1"),
    (r"^layers\.(\d)\.layer_norm", r"norm\1"),
    (r"attention\.query\.(\w+)", r"attn.q.\1"),
    (r"attention\.key\.(\w+)", r"attn.kv.\1[0/2]"),
    (r"attention\.value\.(\w+)", r"attn.kv.\1[1/2]"),
    (r"attention\.proj", "attn.proj"),
    (r"attention\.spatial_reduction", "attn.sr"),
    (r"attention\.layer_norm", "attn.norm"),
    (r"layer_norm_(\d)", r"norm\1"),
    (r"mlp\.dense", "mlp.fc"),
    (r"^classifier", "head"),
)
_HF_SEGFORMER: Names = (
    (r"^segformer\.", ""),
    (r"^stages\.(\d)\.patch_embeddings\.proj", r"patch_embed\1.proj"),
    (r"^stages\.(\d)\.patch_embeddings\.layer_norm", r"patch_embed\1.norm"),
    (r"^stages\.(\d)\.blocks", r"block\1"),
    (r"^stages\.(\d)\.layer_norm", r"norm\1"),
    (r"attention\.q_proj\.(\w+)", r"attn.q.\1"),
    (r"attention\.k_proj\.(\w+)", r"attn.kv.\1[0/2]"),
    (r"attention\.v_proj\.(\w+)", r"attn.kv.\1[1/2]"),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.sequence_reduction\.sequence_reduction", "attn.sr"),
    (r"attention\.sequence_reduction\.layer_norm", "attn.norm"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"^classifier", "head"),
)
_HF_VIT: Names = (
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^layers", "blocks"),
    (r"attention\.q_proj\.(\w+)", r"attn.qkv.\1[0/3]"),
    (r"attention\.k_proj\.(\w+)", r"attn.qkv.\1[1/3]"),
    (r"attention\.v_proj\.(\w+)", r"attn.qkv.\1[2/3]"),
    (r"attention\.o_proj", "attn.proj"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"^layernorm", "norm"),
    (r"^classifier", "head"),
)
_HF_RESNET: Names = (
    (r"^resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"^resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"^resnet\.encoder\.stages\.(\d)\.layers", r"layer\1"),
    (r"layer\.(\d)\.convolution", r"conv\1"),
    (r"layer\.(\d)\.normalization", r"bn\1"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"^classifier\.1", "fc"),
)
_TIMM_PVT_V2: Names = (
    (r"^patch_embed\.", "patch_embed1."),
    (r"^stages\.(\d)\.downsample", r"patch_embed\1"),
    (r"^stages\.(\d)\.blocks", r"block\1"),
    (r"^stages\.(\d)\.norm", r"norm\1"),
    (r"mlp\.dwconv", "mlp.dwconv.dwconv"),
)
# These count from 0.
_COUNTED = (
    r"(?<=\bpatch_embeddings\.)\d+|(?<=\bblock\.)\d+|(?<=\bstages\.)\d+|(?<=\blayer\.)\d+|(?<=encoder\.layers\.)\d+"
)


def reference_name(name: str, names: Names) -> tuple[str, int, int]:
    """(the reference's name, which of its parts, of how many)."""
    name = re.sub(_COUNTED, lambda found: str(int(found[0]) + 1), name)
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    whole, _, part = name.removesuffix("]").partition("[")
    index, _, parts = part.partition("/")
    return whole, int(index or 0), int(parts or 1)


def reference_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.asarray(3)
    value = reference.reference_weight(name, shape)
    return np.exp(5 * value) if name.endswith("running_var") else value


def filled(module: Any, names: Names) -> tuple[Any, reference.Weights]:
    """``module`` with the weights that the reference's names stand for, and these."""
    weights: reference.Weights = {}
    state = {}
    for key, tensor in module.state_dict().items():
        name, index, parts = reference_name(key, names)
        shape = tuple(tensor.shape)
        if name not in weights:
            weights[name] = reference_weight(name, (parts * shape[0], *shape[1:]) if shape else ())
        state[key] = torch.from_numpy(np.array(weights[name] if parts == 1 else np.split(weights[name], parts)[index]))
    module.load_state_dict(state)
    return module.eval(), weights


def with_reference_epsilons(module: Any, names: Names) -> Any:
    """Hugging Face has one epsilon for all norms; the reference 1e-5 for those of patches and reductions, 1e-6 else."""
    for key, norm in module.named_modules():
        if isinstance(norm, torch.nn.LayerNorm):
            name, _, _ = reference_name(f"{key}.weight", names)
            norm.eps = 1e-5 if re.search(r"^patch_embed|attn\.norm", name) else 1e-6
    return module


def _hf(family: str, config: str, model: str, names: Names, settings: dict[str, Any]) -> tuple[Any, reference.Weights]:
    package = f"transformers.models.{family}"
    configuration = getattr(importlib.import_module(f"{package}.configuration_{family}"), config)(**settings)
    # Attention weights are handed out by this implementation alone.
    configuration._attn_implementation = "eager"
    module = getattr(importlib.import_module(f"{package}.modeling_{family}"), model)(configuration)
    return filled(with_reference_epsilons(module, names), names)


def hf_pvt(
    depths: Sequence[int], dims: Sequence[int], num_heads: Sequence[int], num_classes: int, image_size: int = 224
) -> tuple[Any, reference.Weights]:
    """Its position tables must be of the image's own size: it resizes others wrongly."""
    settings = {
        **{"depths": list(depths), "hidden_sizes": list(dims), "num_attention_heads": list(num_heads)},
        **{"num_labels": num_classes, "image_size": image_size, "mlp_ratios": [8, 8, 4, 4]},
        **{"patch_sizes": [4, 2, 2, 2], "strides": [4, 2, 2, 2], "sequence_reduction_ratios": [8, 4, 2, 1]},
    }
    return _hf("pvt", "PvtConfig", "PvtForImageClassification", _HF_PVT, settings)


def hf_pvt_v2(
    depths: Sequence[int],
    dims: Sequence[int],
    num_heads: Sequence[int],
    num_classes: int,
    linear_attention: bool = False,
) -> tuple[Any, reference.Weights]:
    settings = {
        **{"depths": list(depths), "hidden_sizes": list(dims), "num_attention_heads": list(num_heads)},
        **{"num_labels": num_classes, "mlp_ratios": [8, 8, 4, 4], "sr_ratios": [8, 4, 2, 1]},
        **{"linear_attention": linear_attention},
    }
    return _hf("pvt_v2", "PvtV2Config", "PvtV2ForImageClassification", _HF_PVT_V2, settings)


def hf_segformer(
    depths: Sequence[int], dims: Sequence[int], num_heads: Sequence[int], num_classes: int
) -> tuple[Any, reference.Weights]:
    """The encoder with its classifier."""
    settings = {
        **{"depths": list(depths), "hidden_sizes": list(dims), "num_attention_heads": list(num_heads)},
        **{"num_labels": num_classes, "mlp_ratios": [4, 4, 4, 4], "sr_ratios": [8, 4, 2, 1]},
    }
    return _hf("segformer", "SegformerConfig", "SegformerForImageClassification", _HF_SEGFORMER, settings)


def hf_vit(depth: int, dim: int, num_heads: int, patch_size: int, num_classes: int) -> tuple[Any, reference.Weights]:
    settings = {
        **{"num_hidden_layers": depth, "hidden_size": dim, "num_attention_heads": num_heads},
        **{"intermediate_size": 4 * dim, "patch_size": patch_size, "num_labels": num_classes, "layer_norm_eps": 1e-6},
    }
    return _hf("vit", "ViTConfig", "ViTForImageClassification", _HF_VIT, settings)


def hf_resnet(
    depths: Sequence[int], dims: Sequence[int], block: str, num_classes: int
) -> tuple[Any, reference.Weights]:
    widening = {"basic": 1, "bottleneck": 4}[block]
    settings = {
        **{"depths": list(depths), "hidden_sizes": [widening * dim for dim in dims], "embedding_size": dims[0]},
        **{"layer_type": block, "num_labels": num_classes},
    }
    return _hf("resnet", "ResNetConfig", "ResNetForImageClassification", _HF_RESNET, settings)


def timm_pvt_v2(
    depths: Sequence[int],
    dims: Sequence[int],
    num_heads: Sequence[int],
    num_classes: int,
    linear_attention: bool = False,
) -> tuple[Any, reference.Weights]:
    """Its epsilons are its own: they are the reference's."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip(REASON.format("timm"))
    with _without_torchvision(Path(spec.origin).parent):
        module = importlib.import_module("timm.models.pvt_v2").PyramidVisionTransformerV2(
            num_classes=num_classes,
            depths=tuple(depths),
            embed_dims=tuple(dims),
            num_heads=tuple(num_heads),
            sr_ratios=(8, 4, 2, 1),
            mlp_ratios=(8, 8, 4, 4),
            linear=linear_attention,
        )
    return filled(module, _TIMM_PVT_V2)


@contextmanager
def _without_torchvision(timm: Path) -> Iterator[None]:
    """timm's model files can be imported: torchvision, which does not load beside PyTorch for CPU, has stand-ins.

    So have the packages whose own files would import every model and every transform.
    """

    def package(name: str, **members: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__path__ = [str(timm.joinpath(*name.split(".")[1:]))]
        module.__dict__.update(members)
        return module

    def ours(name: str) -> bool:
        return name.partition(".")[0] in ("timm", "torchvision")

    before = {name: module for name, module in sys.modules.items() if ours(name)}
    for name in before:
        del sys.modules[name]
    never: dict[str, Callable[..., Any]] = {
        name: lambda *_: None for name in ("create_feature_extractor", "get_graph_node_names")
    }
    stand_ins = [
        package("timm", __version__="0"),
        package("timm.models"),
        package("timm.data", IMAGENET_DEFAULT_MEAN=(0.0,) * 3, IMAGENET_DEFAULT_STD=(1.0,) * 3),
        package("torchvision"),
        package("torchvision.ops"),
        package("torchvision.ops.misc", FrozenBatchNorm2d=torch.nn.BatchNorm2d),
        package("torchvision.models"),
        package("torchvision.models.feature_extraction", **never),
    ]
    sys.modules.update({module.__name__: module for module in stand_ins})
    try:
        yield
    finally:
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _images(images: np.ndarray) -> Any:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _map(tensor: Any) -> np.ndarray:
    return tensor.permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def run(module: Any, images: np.ndarray, **options: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Class scores, and the map that each stage hands on; of Hugging Face's models."""
    found = module(_images(images), output_hidden_states=True, **options)
    return found.logits.numpy(), [_map(state) for state in found.hidden_states if state.ndim == 4][-4:]


@torch.no_grad()
def run_pvt(module: Any, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """As ``run``; without the last stage's map, in which the class token took part."""
    found = module(_images(images), output_hidden_states=True)
    maps, block = [], 0
    for stage, depth in enumerate(module.config.depths[:3]):
        block += depth
        rows, columns = (side >> (stage + 2) for side in images.shape[1:3])
        maps.append(found.hidden_states[block - 1].numpy().reshape(len(images), rows, columns, -1))
    return found.logits.numpy(), maps


@torch.no_grad()
def run_vit(module: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class scores, and the last map after the final norm."""
    found = module.vit(_images(images), interpolate_pos_encoding=True).last_hidden_state
    patch = module.config.patch_size
    rows, columns = (side // patch for side in images.shape[1:3])
    logits = module(_images(images), interpolate_pos_encoding=True).logits
    return logits.numpy(), found[:, 1:].numpy().reshape(len(images), rows, columns, -1)


@torch.no_grad()
def run_timm(module: Any, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    logits, maps = module(_images(images)), []
    x = module.patch_embed(_images(images))
    for stage in module.stages:
        x = stage(x)
        maps.append(_map(x))
    return logits.numpy(), maps


@torch.no_grad()
def hf_attention(module: Any, images: np.ndarray) -> list[np.ndarray]:
    """Attention weights of all blocks, in order."""
    found = module(_images(images), output_attentions=True).attentions
    flat = [one for stage in found for one in (stage if isinstance(stage, tuple) else (stage,))]
    return [one.numpy() for one in flat]
