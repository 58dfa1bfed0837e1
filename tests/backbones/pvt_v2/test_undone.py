"""PVT v2 with its changes to v1 undone one by one: the same numbers as v1, as NumPy, and as each image alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.backbones.pvt import model as v1
from pvt_jax.backbones.pvt_v2 import model as v2
from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.weights.merge import merge
from pvt_jax.weights.names import flatten, kind_of, to_state_dict
from tests.helpers import numpy_models, reference, running
from tests.helpers.running import pictures, quick_jit

HEADS, DIMS = (1, 2, 3, 4), (8, 16, 24, 32)
SIZES: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": DIMS, "num_classes": 7}
# Together they are v1, but for the norm after each stage and what the classifier reads.
UNDONE: dict[str, Any] = {"overlapping": False, "depthwise": False, "position_tables": True}
# v1's strides and those for small images; an odd stride makes tables of odd sides, which round up or down.
CASES: dict[str, dict[str, Any]] = {
    "no overlap": {"overlapping": False},
    "no depthwise": {"depthwise": False, "linear_attention": True},
    "tables": {"position_tables": True, "patch_sizes": (3, 2, 2, 2)},
    "all undone, small": {**UNDONE, "patch_sizes": (1, 2, 2, 2), "sr_ratios": (4, 2, 1, 1)},
    "small": {"patch_sizes": (1, 2, 2, 2)},
}
ALL = pytest.mark.parametrize("case", CASES)


def toy(case: str, **settings: Any) -> Any:
    return create_model("pvt_v2_b0", **SIZES, num_heads=HEADS, **{"image_size": 64, **CASES[case], **settings})


@functools.cache
def weights(case: str) -> reference.Weights:
    """By the reference's names; tables have v1's."""
    settings = CASES[case]
    known = {key: settings[key] for key in ("linear_attention", "sr_ratios") if key in settings}
    shapes, rows = reference.shapes_v2(**SIZES, **known), 64
    for i, stride in enumerate(settings.get("patch_sizes", (4, 2, 2, 2))):
        name, overlapping = f"patch_embed{i + 1}.proj.weight", settings.get("overlapping", True)
        side = max(2 * stride - 1, 3) if overlapping else stride
        shapes[name] = (*shapes[name][:2], side, side)
        rows = -(-rows // stride) if overlapping else rows // stride
        if settings.get("position_tables"):
            shapes[f"pos_embed{i + 1}"] = (1, rows**2, DIMS[i])
    if not settings.get("depthwise", True):
        shapes = {name: shape for name, shape in shapes.items() if "dwconv" not in name}
    return running.drawn(shapes)


def variables(case: str) -> Any:
    return {"params": {name: renamed(part) for name, part in reference.to_flax(weights(case)).items()}}


def renamed(stage: Any) -> Any:
    return {("position_table" if name == "pos_embed" else name): part for name, part in stage.items()}


def oracle(case: str, images: np.ndarray, classify: bool) -> Any:
    strides = CASES[case].get("patch_sizes", (4, 2, 2, 2))
    return numpy_models.pvt_v2(weights(case), images, HEADS, classify=classify, strides=strides)


@ALL
def test_every_change_agrees_with_numpy(case):
    assert reference.parameter_shapes(toy(case)) == jax.tree.map(np.shape, variables(case)["params"])
    model, images = toy(case), pictures(*((50, 41) if "small" in case else (70, 101)))
    logits = quick_jit(model.apply)(variables(case), images)
    assert reference.relative_error(logits, oracle(case, images, classify=True)) < 2e-5


@ALL
def test_padding_has_no_influence(case):
    """Maps of padded images are those of each image alone, and 0 beyond, at strides of 1, 2, 4 and 8 too."""
    images, unit = pictures(96, 96), 24 if case == "tables" else 32
    sizes = np.asarray([(2 * unit, 3 * unit), (unit, 2 * unit)], np.int32)
    alone = [images[i : i + 1, : size[0], : size[1]].copy() for i, size in enumerate(sizes)]
    for image, (height, width) in zip(images, sizes, strict=True):
        image[height:] = image[:, width:] = np.nan
    maps = quick_jit(functools.partial(toy(case).apply, method="features"))(variables(case), images, sizes=sizes)
    for i, size in enumerate(sizes):
        expected = oracle(case, alone[i], classify=False)
        for (level, found), stride in zip(maps.items(), toy(case).strides, strict=True):
            rows, columns = size // stride
            assert expected[level].shape[1:3] == (rows, columns)
            assert reference.relative_error(found[i, :rows, :columns], expected[level][0]) < 2e-5, level
            assert not np.any(found[i, rows:]) and not np.any(found[i, :, columns:])


def test_all_undone_is_the_first_generation():
    """Stage 1 of v1 on an image of another size than its table's, then the norm that v2 has after a stage."""
    first: Any = create_model("pvt_tiny", **SIZES, num_heads=HEADS, image_size=64)
    second: Any = create_model("pvt_v2_b0", **SIZES, num_heads=HEADS, image_size=64, **UNDONE)
    drawn = reference.to_flax(running.drawn(reference.shapes(**SIZES, table_side=64)))
    given = {name: part for name, part in drawn.items() if name not in ("cls_token", "norm")}
    for i, dim in enumerate(DIMS):
        stage = renamed(given[f"stage{i + 1}"])
        stage["position_table"] = stage["position_table"][:, int(i == 3) :]
        given[f"stage{i + 1}"] = {**stage, "norm": {"scale": np.ones(dim), "bias": np.zeros(dim)}}
    assert reference.parameter_shapes(second) == jax.tree.map(np.shape, given)
    images = pictures(96, 64)
    expected = np.asarray(quick_jit(functools.partial(first.apply, method="features"))({"params": drawn}, images)["c2"])
    found = quick_jit(functools.partial(second.apply, method="features"))({"params": given}, images)["c2"]
    centred = expected - expected.mean(-1, keepdims=True)
    np.testing.assert_allclose(found, centred / np.sqrt(expected.var(-1, keepdims=True) + 1e-6), rtol=1e-4, atol=1e-5)


def test_a_stage_between_is_a_stage_of_the_first_generation():
    shared = {"depth": 2, "dim": 16, "num_heads": 2, "mlp_ratio": 3, "sr_ratio": 2, "patch": 2, "table_grid": (8, 6)}
    run = {"dtype": jnp.float32, "remat": False, "scan": False}
    one = v1.Stage(**shared, extra_tokens=0, **run)
    other = v2.Stage(**shared, linear_attention=False, overlapping=False, depthwise=False, **run)
    maps = np.random.default_rng(0).standard_normal((2, 20, 12, 5)).astype(np.float32)
    drawn = running.quick_jit(one.init)(jax.random.key(0), maps, None, None)["params"]
    given = {**renamed(drawn), "norm": {"scale": np.ones(16), "bias": np.zeros(16)}}
    expected, grid = quick_jit(one.apply)({"params": drawn}, maps, None, None)
    expected = np.asarray(expected).reshape(2, *map(int, grid), 16)
    found = quick_jit(other.apply)({"params": given}, maps, None, None)
    centred = expected - expected.mean(-1, keepdims=True)
    np.testing.assert_allclose(found, centred / np.sqrt(expected.var(-1, keepdims=True) + 1e-6), rtol=1e-4, atol=1e-5)


def test_initial_values_stay_those_of_the_second_generation():
    """Only the change that is undone differs: convolutions start from N(0, 2 / fan_out), tables from N(0, 0.02²)."""
    initial = running.initial_values(create_model("pvt_v2_b0", **SIZES, num_heads=HEADS, image_size=64, **UNDONE), 32)
    convolutions = [name for name in initial if name.endswith(("patch_embed.kernel", "sr.kernel"))]
    assert len(convolutions) == 4 + 3
    for name in convolutions:
        side, _, _, dim = initial[name].shape
        running.assert_normal(initial, [name], (2 / (side * side * dim)) ** 0.5)
        assert not initial[name.replace("kernel", "bias")].any()
    tables = [name for name in initial if name.endswith("position_table")]
    assert [initial[name].shape[1] for name in tables] == [16**2, 8**2, 4**2, 2**2]
    running.assert_normal(initial, tables, 0.02)


@pytest.mark.parametrize(
    ("settings", "side", "message"),
    [
        ({"patch_sizes": (4, 2, 2)}, 64, "model.patch_sizes must be four whole numbers above 0, one per stage, but is"),
        ({"overlapping": False}, 31, "stage 1 has stride 4 and reduces its map by 8 for attention, so both sides must"),
        ({"overlapping": False, "linear_attention": True}, 31, "both sides must be at least 32"),
        ({"position_tables": True, "image_size": 16}, 64, "model.image_size must be a side of at least 32, or"),
    ],
)
def test_impossible_settings_are_named(settings, side, message):
    model = create_model("pvt_v2_b0", **{"image_size": 64, **settings})
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


# Weights.


@ALL
def test_trees_are_known_whatever_is_undone(case):
    paths = flatten(variables(case))
    assert kind_of(paths).family == "pvt_v2"
    leaves, report = merge(paths, variables(case), source="run", native=True, image_size=(64, 64))
    assert leaves.keys() == paths.keys() and report.plain


@pytest.mark.parametrize("case", ["tables", "all undone, small"])
def test_tables_are_resampled_for_another_image_size(case):
    """From tables of 64×64, square or not, to those of 96×48: what the forward pass does with the same numbers."""
    model = toy(case, image_size=(96, 48))
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 96, 48, 3)))
    sizes = {"image_size": (96, 48), "source_image_size": (64, 64)}
    leaves, report = merge(flatten(variables(case)), expected, source="run", native=True, **sizes)
    rows = {"tables": (22, 32, 16), "all undone, small": (64, 96, 48)}[case]
    assert report.resized[0] == ("params/stage1/position_table", (rows[0],) * 2, rows[1:])
    for stage, dim in enumerate(DIMS):
        table, (path, side, target) = weights(case)[f"pos_embed{stage + 1}"], report.resized[stage]
        resampled = numpy_models.bilinear(table.reshape(*side, dim), target).reshape(1, -1, dim)
        np.testing.assert_allclose(leaves[path], resampled, rtol=1e-5, atol=1e-6)


def test_files_have_the_reference_s_names_where_it_has_some():
    tensors = to_state_dict(variables("no depthwise"))
    assert tensors.keys() == weights("no depthwise").keys()
    leaves, _ = merge(tensors, variables("no depthwise"), source="file", image_size=(64, 64))
    np.testing.assert_array_equal(
        leaves["params/stage2/block0/mlp/fc1/kernel"],
        variables("no depthwise")["params"]["stage2"]["block0"]["mlp"]["fc1"]["kernel"],
    )
    with pytest.raises(UserError, match="the reference has no name for params/stage1/position_table: .* Write a fold"):
        to_state_dict(variables("tables"))


def test_weights_of_the_whole_model_are_refused():
    whole = to_state_dict({"params": reference.to_flax(running.drawn(reference.shapes_v2(**SIZES)))})
    with pytest.raises(UserError, match=r"4 missing|8 unexpected|block1\.0\.mlp\.dwconv\.dwconv"):
        merge(whole, variables("no depthwise"), source="file", image_size=(64, 64))
