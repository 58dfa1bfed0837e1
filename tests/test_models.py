"""The registry: every model by its name, its size, and the settings and answers that all families share."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax import trace
from pvt_jax.errors import UserError
from pvt_jax.models import create_model, list_models
from tests.helpers import reference
from tests.helpers.running import pictures, quick_jit

# With 1000 classes and for images of 224². PVT v1 and v2: the reference's models; the others: Hugging Face's classes
# (transformers 5.23) with these sizes, whose counts for PVT are the same numbers.
PARAMETERS = {
    "mit_b0": 3_576_392,
    "mit_b1": 13_664_424,
    "mit_b2": 24_709_288,
    "mit_b3": 44_585_128,
    "mit_b4": 61_355_688,
    "mit_b5": 81_956_008,
    "pvt_huge_v2": 304_945_512,
    "pvt_large": 61_369_320,
    "pvt_medium": 44_208_104,
    "pvt_small": 24_485_864,
    "pvt_tiny": 13_229_288,
    "pvt_v2_b0": 3_666_760,
    "pvt_v2_b1": 14_009_000,
    "pvt_v2_b2": 25_362_856,
    "pvt_v2_b2_li": 22_553_512,
    "pvt_v2_b3": 45_238_696,
    "pvt_v2_b4": 62_556_072,
    "pvt_v2_b5": 81_956_008,
    "resnet101": 44_549_160,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vit_base_patch16": 86_567_656,
    "vit_base_patch32": 88_224_232,
    "vit_base_patch4": 88_272_616,
    "vit_small_patch16": 22_050_664,
    "vit_small_patch32": 22_878_952,
    "vit_small_patch4": 22_903_144,
    "vit_tiny_patch16": 5_717_416,
    "vit_tiny_patch32": 6_131_560,
    "vit_tiny_patch4": 6_143_656,
}

# One small model of each family; its last map has these channels.
PYRAMID = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)}
TOYS: dict[str, dict[str, Any]] = {
    "pvt_tiny": PYRAMID,
    "pvt_v2_b0": PYRAMID,
    "pvt_v2_b2_li": PYRAMID,
    "vit_tiny_patch16": {"depth": 1, "dim": 32, "num_heads": 2},
    "resnet18": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
}
FAMILIES = pytest.mark.parametrize("name", TOYS)


def toy(name: str, **settings: Any) -> Any:
    return create_model(name, **{"num_classes": 5, "image_size": 64, **TOYS[name], **settings})


def test_every_model_has_a_known_parameter_count():
    assert list_models() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_exact(name):
    params = reference.deep_variables(create_model(name))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[name]


# One of each family; the goldens' tests hold others to the reference's names and shapes.
@pytest.mark.parametrize("name", ["pvt_medium", "mit_b3", "vit_tiny_patch16", "resnet34", "resnet50"])
def test_blocks_from_the_third_on_are_like_the_second(name):
    model: Any = create_model(name)
    assert reference.deep_variables(model) == trace.abstract_variables(model, 224, 224)


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown model 'pvt_smal': did you mean 'pvt_small'.*pvt_v2_b2_li.*vit_tiny"):
        create_model("pvt_smal")


def test_an_unknown_setting_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="model 'pvt_tiny' has no setting 'drop_path': did you mean 'drop_path_rate'"):
        create_model("pvt_tiny", drop_path=0.1)
    with pytest.raises(UserError, match="no setting 'parents'"):
        create_model("pvt_tiny", parents=None)


@FAMILIES
def test_a_model_has_1000_classes_unless_told(name):
    assert create_model(name).num_classes == 1000  # pyright: ignore
    assert create_model(name, num_classes=3).num_classes == 3  # pyright: ignore


@FAMILIES
def test_a_linear_map_of_the_maxima_over_cells_can_classify(name):
    """``spp_levels``: for every family the last map that the classifier knows, in place of a token or the mean."""
    model, images = toy(name, spp_levels=(1, 2)), pictures(64, 96)
    assert reference.parameter_shapes(model)["head"] == {"linear": {"kernel": (32 * (1 + 4), 5), "bias": (5,)}}
    rng = np.random.default_rng(0)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = {
        collection: jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), tree[collection]) for collection in tree
    }
    variables["params"] = jax.tree.map(
        lambda leaf: 0.2 * rng.standard_normal(leaf.shape).astype(np.float32), tree["params"]
    )
    logits, maps = with_last_map(name, model, variables, images)
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    rows, columns = maps.shape[1:3]
    cells = [maps.max((1, 2))]
    for top, bottom in ((0, -(-rows // 2)), (rows // 2, rows)):
        for left, right in ((0, -(-columns // 2)), (columns // 2, columns)):
            cells.append(maps[:, top:bottom, left:right].max((1, 2)))
    linear = variables["params"]["head"]["linear"]
    expected = np.concatenate(cells, 1) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@FAMILIES
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_the_last_map_can_be_pooled_to_one_vector(name, pool):
    """``pool``: as where there is one cell; transformers then have no class token, so that no patch attends to it."""
    model, images = toy(name, pool=pool), pictures(64, 96)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    assert "cls_token" not in tree["params"]
    assert tree["params"]["head"]["linear"]["kernel"].shape == (32, 5)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), tree)
    variables["params"] = jax.tree.map(
        lambda leaf: 0.2 * rng.standard_normal(leaf.shape).astype(np.float32), tree["params"]
    )
    # Its norm comes after the map.
    both = quick_jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    logits, found = both(variables, images)
    maps = np.asarray(found["c4" if name.startswith("vit") else "c5"], np.float64)
    if name == "pvt_tiny":
        norm = variables["params"]["norm"]
        centred = maps - maps.mean(-1, keepdims=True)
        maps = centred / np.sqrt(maps.var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    linear = variables["params"]["head"]["linear"]
    expected = getattr(maps, pool)((1, 2)) @ linear["kernel"] + linear["bias"]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@FAMILIES
def test_what_a_family_reads_can_be_named(name):
    """The same program as without ``pool``."""
    own = "token" if name.startswith(("pvt_tiny", "vit")) else "mean"
    variables = abstract_variables(toy(name))
    assert abstract_variables(toy(name, pool=own)) == variables
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    programs = {str(jax.make_jaxpr(toy(name, pool=pool).apply)(variables, images)) for pool in ("", own)}
    assert len(programs) == 1


def test_without_a_class_token_the_last_stage_may_reduce():
    model = toy("pvt_tiny", pool="mean", sr_ratios=(8, 4, 2, 2))
    assert abstract_variables(model)["params"]["stage4"]["block0"]["attn"]["sr"]["kernel"].shape == (2, 2, 32, 32)
    with pytest.raises(UserError, match="model.sr_ratios must end in 1, as the last stage holds the class token"):
        abstract_variables(toy("pvt_tiny", sr_ratios=(8, 4, 2, 2)))


def with_last_map(name: str, model: Any, variables: Any, images: np.ndarray) -> tuple[Any, np.ndarray]:
    """Class scores, and the map that the classifier reads."""
    if name == "pvt_tiny":
        # The dense map has neither the class token's influence nor the final norm: what that norm gives is captured.
        capture = {"capture_intermediates": lambda module, _: module.name == "norm", "mutable": "intermediates"}
        logits, state = quick_jit(lambda v, x: model.apply(v, x, **capture))(variables, images)
        return logits, np.asarray(state["intermediates"]["norm"]["__call__"][0][:, 1:]).reshape(2, 2, 3, 32)
    both = quick_jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    logits, maps = both(variables, images)
    return logits, np.asarray(maps["c4" if name.startswith("vit") else "c5"])


# A backbone alone, for dense tasks.


# PVT: the papers' pyramids without their classifiers (arXiv 2102.12122, table 1: 24,485,864 less 513,000 of the linear
# map, 512 of the class token and 1,024 of the final norm; arXiv 2105.15203: 3,576,392 less 257,000).
@pytest.mark.parametrize(("name", "count"), [("pvt_small", 23_971_328), ("mit_b0", 3_319_392)])
def test_a_backbone_alone_has_this_many_parameters(name, count):
    tree = reference.parameter_shapes(create_model(name, num_classes=0), method="features")
    assert sum(math.prod(shape) for shape in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, tuple))) == count


@FAMILIES
def test_a_backbone_alone_is_the_classifier_without_what_classifies(name):
    whole, alone = (abstract_variables(toy(name, num_classes=classes)) for classes in (5, 0))
    gone = {"head", "cls_token", "norm"} if name == "pvt_tiny" else {"head"}
    assert whole["params"].keys() - alone["params"].keys() == gone
    assert alone == {**whole, "params": {part: whole["params"][part] for part in alone["params"]}}


def test_a_backbone_alone_has_the_maps_of_the_classifier():
    """PVT's, whose dense maps have neither the token nor the norm; and attention without a class token behind them."""
    rng, images = np.random.default_rng(0), pictures(32, 64)
    whole, alone = toy("pvt_tiny"), toy("pvt_tiny", num_classes=0)
    tree = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), abstract_variables(whole))
    part = {"params": {name: tree["params"][name] for name in abstract_variables(alone)["params"]}}
    expected = quick_jit(lambda v, x: whole.apply(v, x, method="features"))(tree, images)
    found, attention = quick_jit(
        lambda v, x: (alone.apply(v, x, method="features"), alone.apply(v, x, method="attention_maps"))
    )(part, images)
    for level, maps in found.items():
        np.testing.assert_allclose(maps, expected[level], rtol=1e-4, atol=1e-5)
    shapes = {name: maps.weights.shape for name, maps in attention.items()}
    assert shapes == {f"stage{i + 1}/block0": (2, i + 1, 128 >> 2 * i, 2) for i in range(4)}


def abstract_variables(model: Any) -> Any:
    """Shapes and types; ``features`` is what every backbone can do."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, method="features"), jax.random.key(0), images)


FOUR = "must be four whole numbers above 0, one per stage, but is"
ONE = "must be a whole number above 0, but is"


# Values of another type are another matter: the signatures are checked while testing.
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pvt_tiny", {"dims": (8, 16)}, f"model.dims {FOUR} (8, 16)"),
        ("pvt_tiny", {"sr_ratios": (8, 4, 2, -1)}, f"model.sr_ratios {FOUR} (8, 4, 2, -1)"),
        ("pvt_v2_b0", {"depths": (1, 0, 1, 1)}, f"model.depths {FOUR} (1, 0, 1, 1)"),
        (
            "pvt_v2_b0",
            {"num_heads": (1, 2, 5, 4)},
            "model.dims must be multiples of model.num_heads, but 24 is not a multiple of 5",
        ),
        ("resnet18", {"dims": (8, 16, 24)}, f"model.dims {FOUR} (8, 16, 24)"),
        ("vit_tiny_patch16", {"depth": 0}, f"model.depth {ONE} 0"),
        ("vit_tiny_patch16", {"dim": -8}, f"model.dim {ONE} -8"),
        ("vit_tiny_patch16", {"patch_size": 0}, f"model.patch_size {ONE} 0"),
        (
            "vit_tiny_patch16",
            {"num_heads": 5},
            "model.dim must be a multiple of model.num_heads, 5, but is 32",
        ),
        *(
            (
                name,
                {"spp_levels": (1, 0)},
                "model.spp_levels must be whole numbers above 0, e.g. (1, 2, 4), but is (1, 0)",
            )
            for name in TOYS
        ),
        *(
            (
                name,
                {"pool": "token"},
                "model.pool=token needs a class token, which this model has not: use mean or max",
            )
            for name in ("pvt_v2_b0", "resnet18")
        ),
        *(
            (
                name,
                {"pool": "mean", "spp_levels": (1, 2)},
                "model.pool=mean and model.spp_levels=(1, 2) both say what the classifier reads: leave one of them out",
            )
            for name in TOYS
        ),
    ],
)
def test_impossible_settings_are_named(name, settings, message):
    with pytest.raises(UserError) as error:
        jax.eval_shape(toy(name, **settings).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert str(error.value) == message
