"""Settings that no model can use, and ways to call a model that the trainer does not take."""

import functools
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.fields import types_of
from pvt_jax.heads import HEADS
from pvt_jax.models import create_model, list_heads

PYRAMID: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 5}
TRANSFORMER: dict[str, Any] = {**PYRAMID, "num_heads": (1, 2, 3, 4)}
TOYS: dict[str, dict[str, Any]] = {
    "pvt_tiny": {**TRANSFORMER, "image_size": 64},
    "pvt_v2_b0": TRANSFORMER,
    "pvt_v2_b2_li": TRANSFORMER,
    "vit_tiny_patch16": {"depth": 1, "dim": 24, "num_heads": 3, "num_classes": 5, "image_size": 64},
    "resnet50": PYRAMID,
}
# Side of the smallest images that have a position in every table.
LEAST = {"pvt_tiny": 32, "vit_tiny_patch16": 16}


@functools.cache
def toy(name: str) -> tuple[Any, Any]:
    model = create_model(name, **TOYS[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return model, jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)


def output_of(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_models_export_with_a_batch_of_any_size():
    """One exported program serves every batch. In a process of its own: the signatures' check knows no symbols."""
    script = f"""
import jax, jax.numpy as jnp, numpy as np
from jax import export
from pvt_jax.models import create_model
rng = np.random.default_rng(0)
images = rng.standard_normal((3, 64, 64, 3)).astype(np.float32)
(batch,) = export.symbolic_shape("b")
for name, settings in {TOYS!r}.items():
    model = create_model(name, **settings)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.2, leaf.shape).astype(leaf.dtype), shapes)
    apply = jax.jit(model.apply)
    program = export.export(apply)(variables, jax.ShapeDtypeStruct((batch, 64, 64, 3), jnp.float32))
    np.testing.assert_allclose(program.call(variables, images), apply(variables, images), rtol=1e-4, atol=1e-5)
    print(name)
"""
    assert output_of(script) == list(TOYS)


@pytest.mark.parametrize("name", TOYS)
def test_an_empty_batch_has_no_scores(name):
    model, variables = toy(name)
    assert jax.eval_shape(model.apply, variables, jnp.zeros((0, 64, 64, 3))).shape == (0, 5)


def test_settings_of_another_type_are_named():
    """As a command line gives them. In a process of its own: here the signatures' check would be first to complain."""
    cases = [(name, "spp_levels", levels) for name in TOYS for levels in (4, 0, True, "124", (1, 2.0))]
    cases += [(name, "pool", pool) for name in TOYS for pool in ("avg", 1)]
    cases += [("pvt_v2_b0", "overlapping", 0), ("pvt_v2_b0", "depthwise", "False")]
    cases += [(name, "image_size", size) for name in ("pvt_tiny", "vit_tiny_patch16") for size in ((64.0, 64), ("64",))]
    script = f"""
from pvt_jax.errors import UserError
from pvt_jax.models import create_model
for name, setting, value in {cases!r}:
    try:
        create_model(name, **{{**{TOYS!r}[name], setting: value}})
        print("accepted")
    except UserError as error:
        print(error)
"""
    words = {
        "spp_levels": "whole numbers, as (1, 2)",
        "pool": "one of empty, token, mean, max",
        "overlapping": "True or False",
        "depthwise": "True or False",
        "image_size": "a whole number, or whole numbers, as (1, 2)",
    }
    assert output_of(script) == [
        f"model.{setting} must be {words[setting]}, but is {value!r}" for _, setting, value in cases
    ]


def every_setting_of_heads():
    """(head, setting, its type) of all heads."""
    for head in list_heads():
        for setting, kind in types_of(HEADS[head].head).items():
            if setting not in ("num_classes", "dtype"):
                yield head, setting, kind


@pytest.mark.parametrize("value", ["abc", None, True, 0.5, (), ("a",), float("inf"), (float("inf"),)])
def test_settings_of_heads_have_the_types_of_their_fields(value):
    """A value is taken as it is or refused by one line, whatever the setting is."""
    fits = {
        "abc": [str],
        None: [],
        True: [bool],
        0.5: [float],
        (): [Sequence[int], Sequence[float], Sequence[int | float], int | Sequence[int]],
    }.get(value, [])
    for head, setting, kind in every_setting_of_heads():
        if kind in fits:
            create_model("pvt_tiny", head=head, head_settings={setting: value})
        else:
            with pytest.raises(UserError) as error:
                create_model("pvt_tiny", head=head, head_settings={setting: value})
            assert str(error.value).startswith(f"head.{setting} must be ")
            assert str(error.value).endswith(f", but is {value!r}") and "\n" not in str(error.value)


def test_numbers_of_numpy_are_taken():
    model: Any = create_model(
        "resnet18",
        head="retinanet",
        num_classes=np.int64(3),
        head_settings={
            "channels": np.int32(8),
            "score_threshold": np.float32(0.5),
            "ratios": [np.float64(1), 2.0],
        },
    )
    assert (model.num_classes, model.head.channels, model.head.ratios) == (3, 8, (1, 2))
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(
    ("head", "setting", "value", "words"),
    [
        ("retinanet", "score_threshold", "abc", "a number"),
        ("retinanet", "ratios", 0.5, "numbers, as (0.5, 1)"),
        ("retinanet", "max_detections", True, "a whole number"),
        ("mask_rcnn", "box_std", (0.1, 0.1), "4 numbers"),
        ("trans2seg", "image_size", 512.0, "a whole number, or whole numbers, as (1, 2)"),
    ],
)
def test_types_are_said_in_words(head, setting, value, words):
    with pytest.raises(UserError) as error:
        create_model("pvt_tiny", head=head, head_settings={setting: value})
    assert str(error.value) == f"head.{setting} must be {words}, but is {value!r}"


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (
            "num_classes",
            0,
            'a backbone without classifier (num_classes=0) has no logits: call it with method="features"',
        ),
        ("num_classes", -1, "model.num_classes must be above 0, but is -1"),
        ("drop_path_rate", 1.0, "model.drop_path_rate must be at least 0 and below 1, but is 1.0"),
        ("drop_path_rate", -0.1, "model.drop_path_rate must be at least 0 and below 1, but is -0.1"),
    ],
)
def test_numbers_that_are_impossible_are_named(name, setting, value, message):
    model = create_model(name, **{**TOYS[name], setting: value})
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda keys, x: model.init(keys, x, train=True), keys, jnp.zeros((2, 64, 64, 3)))
    assert str(error.value) == message


def test_the_stage_of_the_class_token_is_not_reduced():
    model = create_model("pvt_tiny", **TOYS["pvt_tiny"], sr_ratios=(8, 4, 2, 2))
    with pytest.raises(UserError, match=r"model.sr_ratios must end in 1, as the last stage holds the class token"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("image_size", [8, (64,), (64, 8), (64, 64, 3)])
def test_tables_for_images_without_a_position_are_refused(name, image_size):
    model = create_model(name, **{**TOYS[name], "image_size": image_size})
    with pytest.raises(UserError) as error:
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    expected = f"model.image_size must be a side of at least {LEAST[name]}, or (height, width), but is {image_size}"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18", {"frozen_norm": "no"}, "model.frozen_norm must be True or False, but is 'no'"),
        ("pvt_v2_b0", {"linear_attention": 1}, "model.linear_attention must be True or False, but is 1"),
        ("pvt_tiny", {"depht": 3}, "model 'pvt_tiny' has no setting 'depht': did you mean 'depths'?"),
    ],
)
def test_a_setting_that_is_none_is_named(name, settings, message):
    with pytest.raises(UserError) as error:
        create_model(name, **settings)
    assert str(error.value) == message


def test_a_setting_like_no_other_lists_what_there_is():
    with pytest.raises(UserError, match=r"'pvt_tiny' has no setting 'frozen_norm': it has num_classes, image_size, "):
        create_model("pvt_tiny", frozen_norm=True)
