"""Every family against PyTorch implementations by others, both with the same random weights, at several sizes.

They run where these are installed (``make test ORACLES=1``). The golden files hold the reference's own outputs.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from pvt_jax.models import create_model
from tests.helpers import oracles, reference
from tests.helpers.running import pictures, quick_jit

# Divisible by 32 and not; of a model with a position table also the size that the table is for.
SIZES = pytest.mark.parametrize(("height", "width"), [(96, 160), (70, 101)])
SIZES_AND_THE_TABLE_S = pytest.mark.parametrize(("height", "width"), [(224, 224), (96, 160), (70, 101)])
NUM_CLASSES = 11
TOLERANCE = 2e-5

SMALL: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (16, 32, 40, 64), "num_heads": (1, 2, 5, 8)}
NARROW: dict[str, Any] = {"depths": (2, 2, 2, 2), "dims": (32, 64, 160, 256), "num_heads": (1, 2, 5, 8)}
WIDE: dict[str, Any] = {"depths": (2, 2, 2, 2), "dims": (64, 128, 320, 512), "num_heads": (1, 2, 5, 8)}


@functools.cache
def prepared(oracle: str, name: str, **settings: Any) -> tuple[Any, Any, Any]:
    """(the other's module, our variables, our program): the same weights in both."""
    module, weights = getattr(oracles, oracle)(**settings, num_classes=NUM_CLASSES)
    model: Any = create_model(name, **settings, num_classes=NUM_CLASSES)
    variables = reference.variables(weights)
    assert reference.parameter_shapes(model) == jax.tree.map(np.shape, variables["params"])
    both = quick_jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    return module, variables, both


def assert_parity(found: tuple[Any, Any], logits: np.ndarray, maps: Sequence[np.ndarray]) -> None:
    assert found[0].shape == logits.shape == (len(logits), NUM_CLASSES)
    errors = {"logits": reference.relative_error(found[0], logits)}
    for level, wanted in zip(("c2", "c3", "c4", "c5"), maps, strict=False):
        assert found[1][level].shape == wanted.shape
        errors[level] = reference.relative_error(found[1][level], wanted)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("side", [224, 96])
def test_pvt_tiny_is_hugging_face_s(side):
    module, variables, both = prepared("hf_pvt", "pvt_tiny", **WIDE, image_size=side)
    images = pictures(side, side, batch=1)
    logits, maps = oracles.run_pvt(module, images)
    assert len(maps) == 3
    assert_parity(both(variables, images), logits, maps)


@SIZES
@pytest.mark.parametrize(
    ("oracle", "name", "settings"),
    [
        ("hf_pvt_v2", "pvt_v2_b0", NARROW),
        ("hf_pvt_v2", "pvt_v2_b2_li", {**SMALL, "linear_attention": True}),
        ("hf_segformer", "mit_b0", NARROW),
        ("hf_resnet", "resnet18", {"depths": (2, 2, 2, 2), "dims": (64, 128, 256, 512), "block": "basic"}),
        ("hf_resnet", "resnet50", {"depths": (1, 2, 1, 1), "dims": (16, 24, 32, 48), "block": "bottleneck"}),
    ],
    ids=["pvt_v2_b0", "linear", "mit_b0", "resnet18", "bottleneck"],
)
def test_pyramids_are_hugging_face_s(oracle, name, settings, height, width):
    module, variables, both = prepared(oracle, name, **settings)
    images = pictures(height, width, batch=1)
    logits, maps = oracles.run(module, images)
    assert len(maps) == 4
    assert_parity(both(variables, images), logits, maps)


@SIZES_AND_THE_TABLE_S
def test_vit_tiny_is_hugging_face_s(height, width):
    module, variables, both = prepared("hf_vit", "vit_tiny_patch16", depth=3, dim=192, num_heads=3, patch_size=16)
    images = pictures(height, width, batch=1)
    logits, last = oracles.run_vit(module, images)
    found = both(variables, images)
    # The level whose stride is the patch: the map itself.
    assert_parity((found[0], {"c2": found[1]["c4"]}), logits, [last])


@SIZES
@pytest.mark.parametrize(
    ("name", "settings"),
    [("pvt_v2_b1", WIDE), ("pvt_v2_b2_li", {**SMALL, "linear_attention": True})],
    ids=["pvt_v2_b1", "linear"],
)
def test_pvt_v2_is_timm_s(name, settings, height, width):
    module, variables, both = prepared("timm_pvt_v2", name, **settings)
    images = pictures(height, width, batch=1)
    logits, maps = oracles.run_timm(module, images)
    assert len(maps) == 4
    assert_parity(both(variables, images), logits, maps)
