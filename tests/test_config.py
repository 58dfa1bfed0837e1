"""Configs: every file, every key, every way to set one, and every mistake's line."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from pvt_jax import config as config_lib
from pvt_jax import fields
from pvt_jax.errors import UserError
from pvt_jax.models import list_models
from pvt_jax.tasks import TASKS, TaskRow
from pvt_jax.tasks.classification.options import ClassificationConfig
from pvt_jax.training.options import MeshOptions

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name != "common.py")


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


DEFAULTS = leaves(config_lib.defaults().to_dict())


def override(*overrides: str, config: str = "digits") -> ConfigDict:
    return config_lib.load(str(ROOT / "configs" / f"{config}.py"), overrides)


def message(*overrides: str, config: str = "digits") -> str:
    with pytest.raises(UserError) as error:
        override(*overrides, config=config)
    return str(error.value)


@pytest.fixture
def file(tmp_path):
    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with two classes of images, three of pixels and two of boxes, enough for configs that count them."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            (tmp_path / "images" / split / name / "1.jpg").write_bytes(b"image")
    (tmp_path / "images" / "classes.txt").write_text("sky\nroad\ncar\n")
    boxes = {
        "images": [{"id": 1, "file_name": "cat/1.jpg", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 4]}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    (tmp_path / "images" / "train.json").write_text(json.dumps(boxes))
    return tmp_path / "images"


# The files.

# Configs that take a size.
SIZES = {
    "mit": ("b0", "b1", "b2", "b3", "b4", "b5"),
    "pvt_v2": ("b0", "b1", "b2", "b2_li", "b3", "b4", "b5"),
    "resnet": ("18", "34", "50", "101"),
    "vit": tuple(f"{size}_patch{patch}" for size in ("tiny", "small", "base") for patch in (4, 16, 32)),
}


# Configs that take a model, and the variants that may follow it.
DENSE = {
    "semantic_fpn": ("pvt_small", "paper"),
    "segformer": ("mit_b0", "cityscapes"),
    "trans2seg": ("pvt_small", ""),
    "retinanet": ("pvt_small", "640"),
    "mask_rcnn": ("pvt_small", "3x"),
    "faster_rcnn": ("pvt_small", "640"),
    "detr": ("pvt_small", ""),
}
# Configs that take a folder, and the source that reads it.
FOLDERS = {"folder": "folder", "finetune": "folder", "segmentation_folder": "label_folder", "detection_folder": "coco"}


def model_of(stem: str, size: str) -> str:
    return f"{stem}{size}" if stem == "resnet" else f"{stem}_{size}"


def spec_of(path: Path, images: Path) -> str:
    if path.stem in SIZES:
        return f"{path}:{SIZES[path.stem][0]}"
    if path.stem in DENSE:
        return f"{path}:{DENSE[path.stem][0]}"
    return f"{path}:{images}" if path.stem in FOLDERS else str(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_loads_and_is_complete(path, images):
    for spec in [f"{path}:{size}" for size in SIZES.get(path.stem, ())] or [spec_of(path, images)]:
        config = config_lib.load(spec)
        assert leaves(config.to_dict()).keys() >= DEFAULTS.keys()
        json.loads(config_lib.to_json(config))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_says_how_to_run_it_and_what_it_reaches(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python -m pvt_jax.main --config configs/{path.name}" in docstring
    assert "--workdir" in docstring and "Metric:" in docstring


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_arguments_are_used_or_refused(path, images):
    if path.stem in SIZES:
        for size in SIZES[path.stem]:
            assert config_lib.load(f"{path}:{size}").model.name == model_of(path.stem, size)
        names = ", ".join(SIZES[path.stem])
        example = f"--config configs/{path.name}:{SIZES[path.stem][0]}$"
        for spec, said in ((f"{path}:surprise", "knows no 'surprise'"), (str(path), "needs a size")):
            with pytest.raises(UserError, match=f"configs/{path.name} {said}: give one of {names}, as {example}"):
                config_lib.load(spec)
    elif path.stem in DENSE:
        model, variant = DENSE[path.stem]
        assert config_lib.load(f"{path}:pvt_v2_b1").model.name == "pvt_v2_b1"
        if variant:
            plain, varied = (
                leaves(config_lib.load(f"{path}:{arg}").to_dict()) for arg in (model, f"{model},{variant}")
            )
            assert plain != varied and varied["model.name"] == model
        with pytest.raises(UserError, match=f"needs a model: .* as --config configs/{path.name}:{model}$"):
            config_lib.load(str(path))
        with pytest.raises(UserError, match=f"configs/{path.name} knows no 'surprise'"):
            config_lib.load(f"{path}:{model},surprise")
    elif path.stem in (*FOLDERS, "cifar10"):
        config = config_lib.load(f"{path}:{images}")
        assert config.data.source == FOLDERS.get(path.stem, "folder")
        assert config.data.root == str(images)
    elif path.stem == "digits_detection":
        assert config_lib.load(str(path)).head.name == "retinanet"
        for head in ("retinanet", "mask_rcnn", "faster_rcnn", "detr"):
            assert config_lib.load(f"{path}:{head}").head.name == head
        with pytest.raises(UserError, match="knows no 'surprise': give one of retinanet, mask_rcnn, faster_rcnn, detr"):
            config_lib.load(f"{path}:surprise")
    else:
        with pytest.raises(UserError, match=f"configs/{path.name} takes no argument, but got 'surprise'"):
            config_lib.load(f"{path}:surprise")


@pytest.mark.parametrize("name", ["folder", "finetune", "detection_folder"])
def test_configs_of_a_folder_count_classes_and_want_a_folder(images, name):
    config = config_lib.load(f"{ROOT}/configs/{name}.py:{images}")
    assert config.model.num_classes == 2
    with pytest.raises(UserError, match=f"configs/{name}.py:FOLDER"):
        config_lib.load(f"{ROOT}/configs/{name}.py")
    with pytest.raises(UserError, match="nowhere"):
        config_lib.load(f"{ROOT}/configs/{name}.py:/nowhere")


@pytest.mark.parametrize("name", ["folder", "finetune"])
def test_classes_are_counted_in_the_split_that_keys_name(tmp_path, name):
    for split in ("fit/part", "check"):
        for label in "abc":
            (tmp_path / split / label).mkdir(parents=True)
    keys = ["data.train_split=fit/part", "data.eval_split=check"]
    assert config_lib.load(f"{ROOT}/configs/{name}.py:{tmp_path}", keys).model.num_classes == 3
    assert (
        config_lib.load(f"{ROOT}/configs/{name}.py:{tmp_path}", [*keys, "model.num_classes=7"]).model.num_classes == 7
    )
    with pytest.raises(UserError, match="no training images in .*, or set data.train_split$"):
        config_lib.load(f"{ROOT}/configs/{name}.py:{tmp_path}")
    (tmp_path / "fit" / "part").rename(tmp_path / "train")
    moved = [f"data.root={tmp_path}"]
    assert config_lib.load(f"{ROOT}/configs/{name}.py:/nowhere", moved).model.num_classes == 3


def test_classes_of_a_segmentation_folder_may_be_named_by_a_key(tmp_path):
    path = f"{ROOT}/configs/segmentation_folder.py:{tmp_path}"
    assert config_lib.load(path, ["segmentation.class_names=('a', 'b')"]).model.num_classes == 2
    assert config_lib.load(path, ["model.num_classes=5"]).model.num_classes == 5


def test_the_config_of_a_segmentation_folder_counts_names_or_is_told(images):
    path = f"{ROOT}/configs/segmentation_folder.py"
    assert config_lib.load(f"{path}:{images}").model.num_classes == 3
    assert config_lib.load(f"{path}:{images / 'train'},11").model.num_classes == 11
    with pytest.raises(
        UserError, match=r"^no classes.txt in .*/train: write one, .*segmentation_folder.py:.*/train,11$"
    ):
        config_lib.load(f"{path}:{images / 'train'}")
    with pytest.raises(
        UserError, match=r"^configs/segmentation_folder.py needs the folder of your images, as --config .*:FOLDER$"
    ):
        config_lib.load(path)
    with pytest.raises(UserError, match="^/nowhere is not a folder"):
        config_lib.load(f"{path}:/nowhere")


# The numbers of the paper's recipe, at its global batch of 1024. Written out, not imported: this is the reference.
IMAGENET = {
    "task": "classification",
    "epochs": 300.0,
    "steps": None,
    "batch_size": 1024,
    "accumulation_steps": 1,
    "ema_decay": 0.0,
    "model.num_classes": 1000,
    "model.image_size": (224, 224),
    "data.source": "tfds",
    "data.name": "imagenet2012",
    "data.repeats": 3,
    "transform.crop": "resized",
    "transform.crop_scale": (0.08, 1.0),
    "transform.crop_ratio": (3 / 4, 4 / 3),
    "transform.flip_probability": 0.5,
    "transform.policy": "rand-m9-mstd0.5-inc1",
    "transform.eval_crop_fraction": 224 / 256,
    "batch_transform.mixup_alpha": 0.8,
    "batch_transform.cutmix_alpha": 1.0,
    "batch_transform.mix_probability": 1.0,
    "batch_transform.switch_probability": 0.5,
    "batch_transform.label_smoothing": 0.1,
    "batch_transform.erase_probability": 0.25,
    "batch_transform.mean": (123.675, 116.28, 103.53),
    "batch_transform.std": (58.395, 57.12, 57.375),
    "optimizer.learning_rate": 1e-3,
    "optimizer.base_batch_size": 1024,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.05,
    "optimizer.warmup_epochs": 5.0,
    "optimizer.warmup_learning_rate": 1e-6,
    "optimizer.final_learning_rate": 1e-5,
    "optimizer.layer_decay": 1.0,
    "optimizer.frozen": "",
    "init.checkpoint": "",
}


@pytest.mark.parametrize(
    ("spec", "drop_path_rate", "clip_norm"),
    [
        *[("pvt_tiny.py", 0.1, 0.0), ("pvt_small.py", 0.1, 0.0), ("pvt_medium.py", 0.3, 1.0)],
        *[("pvt_large.py", 0.3, 1.0), ("pvt_v2.py:b0", 0.1, 0.0), ("pvt_v2.py:b1", 0.1, 0.0)],
        *[("pvt_v2.py:b2", 0.1, 0.0), ("pvt_v2.py:b2_li", 0.1, 0.0), ("pvt_v2.py:b3", 0.3, 1.0)],
        *[("pvt_v2.py:b4", 0.3, 1.0), ("pvt_v2.py:b5", 0.3, 1.0), ("mit.py:b0", 0.1, 0.0), ("mit.py:b5", 0.1, 0.0)],
        *[("vit.py:tiny_patch16", 0.1, 0.0), ("vit.py:base_patch32", 0.1, 0.0), ("resnet.py:50", 0.0, 0.0)],
    ],
)
def test_imagenet_configs_are_the_recipe(spec, drop_path_rate, clip_norm):
    found = leaves(config_lib.load(str(ROOT / "configs" / spec)).to_dict())
    expected = {
        **IMAGENET,
        "model.name": model_of(*spec.split(".py:")) if ":" in spec else spec.removesuffix(".py"),
        "model.drop_path_rate": drop_path_rate,
        "optimizer.clip_norm": clip_norm,
    }
    assert {key: found[key] for key in expected} == expected
    # Mixed precision.
    assert found["model.dtype"] == "bfloat16"


# Of MMSegmentation's configs in the published code of PVT, PVT v2 and SegFormer; written out, not imported.
ADE20K = {
    "task": "segmentation",
    "accumulation_steps": 1,
    "model.num_classes": 150,
    "model.image_size": (224, 224),
    "model.drop_path_rate": 0.1,
    "data.source": "ade20k",
    "transform.flip_probability": 0.5,
    "batch_transform.mean": (123.675, 116.28, 103.53),
    "batch_transform.std": (58.395, 57.12, 57.375),
    "segmentation.scale": (2048, 512),
    "segmentation.scale_range": (0.5, 2.0),
    "segmentation.crop_size": (512, 512),
    "segmentation.largest_share": 0.75,
    "segmentation.photometric": True,
    "segmentation.loss_average": "all",
    "segmentation.test_mode": "whole",
    "segmentation.test_ratios": (1.0,),
    "segmentation.test_flip": False,
    "optimizer.schedule": "poly",
    "optimizer.final_learning_rate": 0.0,
    "optimizer.clip_norm": 0.0,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.backbone_multiplier": 1.0,
    "optimizer.layer_decay": 1.0,
    "optimizer.frozen": "",
}
SEMANTIC_FPN = {
    "head.name": "semantic_fpn",
    "optimizer.learning_rate": 2e-4,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decayed": "all",
    "optimizer.head_multiplier": 1.0,
    "optimizer.power": 0.9,
    "optimizer.warmup_steps": 0,
}
SEGFORMER = {
    "head.name": "segformer",
    "batch_size": 16,
    "steps": 160_000,
    "optimizer.base_batch_size": 16,
    "optimizer.learning_rate": 6e-5,
    "optimizer.weight_decay": 0.01,
    "optimizer.decayed": "all_but_backbone_norms",
    "optimizer.head_multiplier": 10.0,
    "optimizer.power": 1.0,
    "optimizer.warmup_steps": 1500,
    # LinearLR(start_factor=1e-6) on a rate of 6e-5.
    "optimizer.warmup_learning_rate": 6e-11,
}


@pytest.mark.parametrize(
    ("spec", "recipe"),
    [
        (
            "semantic_fpn.py:pvt_large",
            {**SEMANTIC_FPN, "batch_size": 32, "optimizer.base_batch_size": 32, "steps": 40_000},
        ),
        (
            "semantic_fpn.py:pvt_tiny,paper",
            {**SEMANTIC_FPN, "batch_size": 16, "optimizer.base_batch_size": 16, "steps": 80_000},
        ),
        ("segformer.py:mit_b4", SEGFORMER),
        ("segformer.py:mit_b5", {**SEGFORMER, "segmentation.scale": (2048, 640), "segmentation.crop_size": (640, 640)}),
        (
            "segformer.py:mit_b0,cityscapes",
            {
                **SEGFORMER,
                "batch_size": 8,
                "optimizer.base_batch_size": 8,
                "model.num_classes": 19,
                "data.source": "cityscapes",
                "segmentation.scale": (2048, 1024),
                "segmentation.crop_size": (1024, 1024),
                "segmentation.test_mode": "slide",
                "segmentation.window": (1024, 1024),
                "segmentation.window_stride": (768, 768),
            },
        ),
    ],
)
def test_segmentation_configs_are_the_recipes(spec, recipe):
    found = leaves(config_lib.load(str(ROOT / "configs" / spec)).to_dict())
    model = re.split("[:,]", spec)[1]
    expected = {**ADE20K, "model.name": model, "init.checkpoint": model, **recipe}
    assert {key: found[key] for key in expected} == expected
    assert found["model.dtype"] == "bfloat16"


def test_the_sizes_of_configs_are_models():
    for stem, sizes in SIZES.items():
        assert {model_of(stem, size) for size in sizes} == {
            n for n in list_models() if n.startswith(model_of(stem, ""))
        }


def test_configs_import_no_jax(images):
    """Commands answer a wrong key before the seconds that importing jax takes."""
    code = (
        "import sys\n"
        "from pvt_jax import config\n"
        f"for spec in {[spec_of(path, images) for path in FILES]!r}:\n"
        "    config.load(spec)\n"
        "print(sorted({'jax', 'flax', 'optax', 'grain', 'cv2', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_configs_share_code_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_lib.load(str(ROOT / "configs" / "pvt_tiny.py")).model.name == "pvt_tiny"


# Values.


def test_defaults_are_complete_and_pass_the_check():
    config_lib.read(config_lib.defaults())
    steps = {"steps", "optimizer.warmup_steps", "evaluation.every_steps", "evaluation.batch_size"}
    assert {key for key, value in DEFAULTS.items() if value is None} == steps


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("batch_size=32", "batch_size", 32),
        ("epochs=3", "epochs", 3.0),
        ("epochs=0.5", "epochs", 0.5),
        ("steps=100", "steps", 100),
        ("steps=None", "steps", None),
        ("steps=none", "steps", None),
        ("optimizer.learning_rate=3e-4", "optimizer.learning_rate", 3e-4),
        ("optimizer.clip_norm=1", "optimizer.clip_norm", 1.0),
        ("model.name=pvt_small", "model.name", "pvt_small"),
        ("model.scan=true", "model.scan", True),
        ("model.scan=False", "model.scan", False),
        ("model.image_size=64", "model.image_size", (64, 64)),
        ("model.image_size=(64,96)", "model.image_size", (64, 96)),
        ("model.image_size=[64, 96]", "model.image_size", (64, 96)),
        ("transform.crop_scale=(0.5, 1.0)", "transform.crop_scale", (0.5, 1.0)),
        ("data.root=/a/b=c d", "data.root", "/a/b=c d"),
        ("data.root=", "data.root", ""),
        ("data.root=123", "data.root", "123"),
        ("data.name=None", "data.name", "None"),
        ("init.checkpoint=pvt_v2_b0", "init.checkpoint", "pvt_v2_b0"),
        ("init.ema=true", "init.ema", True),
        ("init.allow_missing=('head/*', 'norm/*')", "init.allow_missing", ("head/*", "norm/*")),
        ("init.allow_unexpected=['neck.*']", "init.allow_unexpected", ("neck.*",)),
        ("optimizer.layer_decay=1", "optimizer.layer_decay", 1.0),
        ("optimizer.layer_decay=0.75", "optimizer.layer_decay", 0.75),
        ("optimizer.frozen=backbone", "optimizer.frozen", "backbone"),
        ("optimizer.frozen=", "optimizer.frozen", ""),
        # Settings of the model's own module are open.
        ("model.depths=(1, 1, 1, 1)", "model.depths", (1, 1, 1, 1)),
        ("model.mode=linear", "model.mode", "linear"),
    ],
)
def test_overrides_are_read_as_the_type_of_their_key(text, key, expected):
    found = config_lib.get(override(text), key)
    assert found == expected and type(found) is type(expected)


def test_the_last_of_several_overrides_wins():
    config = override("batch_size=1", "epochs=2", "batch_size=3")
    assert (config.batch_size, config.epochs) == (3, 2.0)


@settings(max_examples=60)
@given(
    st.integers(1, 2**40),
    st.floats(1e-12, 1e6),
    st.tuples(st.integers(32, 4096), st.integers(32, 4096)),
    # A path that begins with ~ is in the home folder.
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=20).filter(lambda t: t[:1] != "~"),
)
def test_written_values_are_read_back(batch_size, rate, size, root):
    config = config_lib.defaults()
    for key, value in {
        "batch_size": batch_size,
        "optimizer.learning_rate": rate,
        "model.image_size": size,
        "data.root": root,
    }.items():
        config_lib.override(config, f"{key}={value}")
        assert config_lib.get(config, key) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batchsize=3", "unknown config key 'batchsize': did you mean 'batch_size'?"),
        ("optimizer.lr=3", "unknown config key 'optimizer.lr': did you mean "),
        ("optimizer.learning_rat=3", "did you mean 'optimizer.learning_rate'?"),
        ("optimiser.learning_rate=3", "did you mean 'optimizer.learning_rate'?"),
        ("batch_size.x=3", "unknown config key 'batch_size.x'"),
        ("model.depths.x=3", "unknown config key 'model.depths.x'"),
        ("optimizer=3", "config key 'optimizer' is a section: set one of its keys, "),
        ("model={}", "config key 'model' is a section"),
        ("batch_size=many", "batch_size must be a whole number above 0, but is 'many'"),
        ("batch_size=1.5", "batch_size must be a whole number above 0, but is 1.5"),
        ("batch_size=None", "batch_size must be a whole number above 0, but is None"),
        ("epochs=long", "epochs must be a number of at least 0, but is 'long'"),
        ("transform.crop_scale=0.5", "transform.crop_scale must be 2 numbers of at least 0, but is 0.5"),
        ("model.scan=2", "model.scan must be True or False, but is 2"),
        ("batch_size", "--config.batch_size needs a value: write --config.batch_size=VALUE"),
        ("batch_size=0", "batch_size must be a whole number above 0, but is 0"),
        ("steps=0", "steps must be a whole number above 0, or None, but is 0"),
        ("epochs=-1", "epochs must be a number of at least 0, but is -1.0"),
        ("epochs=0", "epochs must be a number above 0, but is 0.0"),
        ("model.drop_path_rate=1", "model.drop_path_rate must be a number of at least 0 and below 1, but is 1.0"),
        ("ema_decay=-0.1", "ema_decay must be a number of at least 0 and below 1, but is -0.1"),
        (
            "batch_transform.label_smoothing=1.1",
            "batch_transform.label_smoothing must be a number of at least 0 and below 1, but is 1.1",
        ),
        ("seed=-1", "seed must be a whole number of at least 0, but is -1"),
        ("optimizer.clip_norm=-1.0", "optimizer.clip_norm must be a number of at least 0, but is -1.0"),
        ("evaluation.every_epochs=1e999", "evaluation.every_epochs must be a number above 0, but is inf"),
        ("batch_transform.mean=(1.0,2.0)", "batch_transform.mean must be 3 numbers from 0 to 255, but is (1.0, 2.0)"),
        ("model.image_size=(32.5,32)", "model.image_size must be 2 whole numbers of at least 0, but is (32.5, 32)"),
        ("model.dtype=float64", "model.dtype must be one of float32, bfloat16, but is 'float64'"),
        ("data.on_corrupt=ignore", "data.on_corrupt must be one of error, skip, but is 'ignore'"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay must be a number above 0 and at most 1, but is 0.0"),
        ("optimizer.layer_decay=1.01", "optimizer.layer_decay must be a number above 0 and at most 1, but is 1.01"),
        ("optimizer.frozen=stage9", "optimizer.frozen must be one of empty, backbone, stage1, but is 'stage9'"),
        ("optimizer.frozen=stage1", "for a backbone whose norms are frozen, too: add --config.model.frozen_norm=True"),
        ("init.allow_missing=head/*", "init.allow_missing must be names, as ('a', 'b'), but is 'head/*'"),
        ("optimizer.schedule=linear", "optimizer.schedule must be one of cosine, poly, step, but is 'linear'"),
        (
            "optimizer.decayed=none",
            "optimizer.decayed must be one of matrices, all_but_norms, all_but_backbone_norms, all, but is 'none'",
        ),
        (
            "optimizer.warmup_steps=-1",
            "optimizer.warmup_steps must be a whole number of at least 0, or None, but is -1",
        ),
        ("evaluation.every_steps=0", "evaluation.every_steps must be a whole number above 0, or None, but is 0"),
        ("segmentation.crop_size=(512.0,512)", "segmentation.crop_size must be 2 whole numbers of at least 0, but is "),
        (
            "optimizer.schedule=step",
            "optimizer.schedule=step needs to know where the learning rate drops: set optimizer.drop_epochs, as "
            '"(8, 11)", or optimizer.drop_steps',
        ),
        ("task=pose", "unknown task 'pose': the tasks are classification, segmentation, detection"),
        ("task=segmentation", "is not read by task 'segmentation': leave it out"),
        ("head.name=semantic_fpn", "head.name is not read by task 'classification': leave it out, or set the task"),
        ("segmentation.photometric=False", "segmentation.photometric is not read by task 'classification'"),
        ("init.allow_missing=(1,)", "init.allow_missing must be names, as ('a', 'b'), but is (1,)"),
    ],
)
def test_mistakes_are_answered_in_one_line(text, expected):
    found = message(text)
    assert expected in found and "\n" not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("segmentation.test_ratios=()", "segmentation.test_ratios must be one or more numbers above 0, as (0.5, 1)"),
        ("segmentation.test_ratios=(1, 0)", "as (0.5, 1), but is (1, 0)"),
        (
            "detection.long_side=40",
            "detection.long_side is 40, below a shorter side of 96: set it to 96 or more, or "
            "detection.short_sides and detection.test_short_side lower",
        ),
        ("detection.crop_range=(600,384)", "must be (least, largest), from 1 pixel on, but is (600, 384)"),
        ("detection.crop_range=(0,384)", "detection.crop_range must be 2 whole numbers of at least 1, but is (0, 384)"),
        ("detection.short_sides=()", "detection.short_sides must be one or more whole numbers above 0, as (1, 2)"),
    ],
)
def test_mistakes_of_dense_tasks_are_answered_in_one_line(text, expected):
    found = message(text, config=f"digits_{text.partition('.')[0]}")
    assert expected in found and "\n" not in found


def test_a_dense_task_needs_a_head():
    config = config_lib.defaults()
    config.task = "segmentation"
    with pytest.raises(UserError, match="^task 'segmentation' needs a head: set head.name, as --config.head.name="):
        config_lib.read(config)


def test_epochs_do_not_matter_where_steps_are_given():
    assert override("steps=5", "epochs=0").steps == 5


def test_unknown_keys_in_a_file_are_answered_with_the_nearest(file):
    path = file("def get_config(arg=''):\n    return {'optimizer': {'weight_deca': 0.1}}\n")
    with pytest.raises(UserError, match=r"unknown config key 'optimizer.weight_deca': did you mean 'optimizer.weight_"):
        config_lib.load(path)


def test_a_missing_file_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no config file .*pvt_tny.py: did you mean .*configs/pvt_tiny.py\?$"):
        config_lib.load(str(ROOT / "configs" / "pvt_tny.py"))
    with pytest.raises(UserError, match=r"^no home folder is known for ~nobody-here/x.py: write the whole path, or "):
        config_lib.load("~nobody-here/x.py")
    with pytest.raises(UserError, match=r"^no config file /nowhere/at/all.py$"):
        config_lib.load("/nowhere/at/all.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("x = 1\n", "AttributeError: .*get_config"),
        ("def get_config(arg=''):\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def get_config():\n    return {}\n", "TypeError"),
    ],
)
def test_a_broken_file_is_named(file, text, expected):
    path = file(text)
    with pytest.raises(UserError, match=f"config file {path} failed: {expected}"):
        config_lib.load(f"{path}:argument")
    assert str(Path(path).parent.parent) not in sys.path


def test_a_file_may_return_plain_dicts(file):
    path = file("def get_config(arg='5'):\n    return {'batch_size': int(arg), 'model': {'image_size': 40}}\n")
    config = config_lib.load(path)
    assert (config.batch_size, config.model.image_size, config.epochs) == (5, (40, 40), 300.0)
    assert config_lib.load(f"{path}:9").batch_size == 9


# Resuming.


def test_differences_name_each_key_that_matters():
    old = json.loads(config_lib.to_json(config_lib.defaults()))
    assert config_lib.differences(old, old) == []
    new = json.loads(config_lib.to_json(override("model.depths=(1, 1, 1, 1)")))
    found = config_lib.differences(old, new)
    assert "batch_size: 1024 → 64" in found and "model.depths: absent → [1, 1, 1, 1]" in found
    assert found == sorted(found)
    assert "model.depths: [1, 1, 1, 1] → absent" in config_lib.differences(new, old)


def test_a_key_that_is_younger_than_the_run_had_its_default():
    old = json.loads(config_lib.to_json(config_lib.defaults()))
    del old["init"], old["optimizer"]["layer_decay"]
    assert config_lib.differences(old, json.loads(config_lib.to_json(config_lib.defaults()))) == []
    new = json.loads(config_lib.to_json(override("optimizer.layer_decay=0.5")))
    assert "optimizer.layer_decay: 1.0 → 0.5" in config_lib.differences(old, new)


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_every_key_is_free_or_fixed_on_resume(key):
    free = {
        "accumulation_steps",
        "log_every_steps",
        "mesh.fsdp",
        "evaluation.batch_size",
        "evaluation.every_epochs",
        "evaluation.every_steps",
        "evaluation.pictures",
        "early_stopping.patience",
        "init.checkpoint",
        "model.remat",
        "kernels",
        "model.scan",
        "profile_steps",
        "tracking",
        "tracking_project",
        "transform.test_flip",
    }
    free |= {"checkpoint.every_steps", "checkpoint.keep", "checkpoint.keep_best"}
    free |= {"data.check", "data.on_corrupt", "data.root", "data.threads", "data.workers"}
    free |= {f"segmentation.{name}" for name in ("test_flip", "test_mode", "test_ratios", "test_shapes")}
    free |= {"segmentation.test_squash", "segmentation.test_interpolation"}
    free |= {"segmentation.window", "segmentation.window_stride", "detection.test_shapes", "detection.test_short_side"}
    old, new = config_lib.defaults().to_dict(), config_lib.defaults().to_dict()
    *sections, last = key.split(".")
    section = new
    for name in sections:
        section = section[name]
    section[last] = "other"
    expected = [] if key in free else [f"{key}: {'empty' if DEFAULTS[key] == '' else DEFAULTS[key]} → other"]
    assert config_lib.differences(old, new) == expected


# What stands in one place.


def test_every_key_and_section_is_documented():
    rows = {row.key: row for row in config_lib.documented()}
    assert {name for name, row in rows.items() if row.kind} == DEFAULTS.keys()
    assert {name for name, row in rows.items() if not row.kind} == {key.rpartition(".")[0] for key in DEFAULTS} - {""}
    for row in rows.values():
        assert row.text.endswith((".", ")")) and "\n" not in row.text, row.key
    assert rows["optimizer.layer_decay"][1:3] == ("a number above 0 and at most 1", 1.0)
    assert rows["optimizer.frozen"].kind == "one of empty, backbone, stage1"
    assert rows["segmentation.palette"].kind == "tuples, as ((0, 0, 0), (255, 0, 0))"
    assert rows["mesh.fsdp"].free and not rows["batch_size"].free


def test_tasks_agree_on_the_keys_that_they_share():
    for task in TASKS.values():
        for name, key in fields.keys_of(task.config).items():
            assert all(other == key for row in TASKS.values() if (other := fields.keys_of(row.config).get(name))), name
        assert all(any(f"{key}.".startswith(f"{name}.") for key in DEFAULTS) for name in task.config.unread)


def test_a_key_is_one_field(monkeypatch):
    """With it come its default, its type and limits, its documentation, and the typed value for the task."""

    @dataclass(frozen=True)
    class Mesh(MeshOptions):
        tensor: int = fields.key(1, "Devices along a third axis.", above=0)

    @dataclass(frozen=True)
    class Task(ClassificationConfig):
        mesh: Mesh = fields.section(Mesh, free=True)

    monkeypatch.setattr(config_lib, "TASKS", {"classification": TaskRow(Task, "")})
    for cached in ("_keys", "_open_sections"):
        monkeypatch.setattr(config_lib, cached, getattr(config_lib, cached).__wrapped__)
    found: Any = config_lib.read(override("mesh.tensor=2"))
    assert (found.mesh.tensor, found.mesh.fsdp) == (2, 1)
    assert message("mesh.tensor=0") == "mesh.tensor must be a whole number above 0, but is 0"
    assert ("mesh.tensor", "a whole number above 0", 1, "Devices along a third axis.", True) in config_lib.documented()
    assert config_lib.differences(override().to_dict(), override("mesh.tensor=2").to_dict()) == []


# Keys and the code that reads them.

# The sections by the names of their classes.
SECTIONS = {
    base.__name__: name
    for task in TASKS.values()
    for name, kind in fields.sections_of(task.config).items()
    for base in kind.__mro__[:-2]
}


def keys_read(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Dotted keys that one function reads: from what it calls ``config`` or ``_config``, an alias or a section."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id in SECTIONS:
            aliases[node.arg] = SECTIONS[node.annotation.id]

    def key_of(node: ast.AST) -> str | None:
        """The dotted key that an expression stands for; "" for the config itself, None for anything else."""
        if isinstance(node, ast.Name):
            return "" if node.id == "config" else aliases.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        if isinstance(node.value, ast.Name) and node.value.id in ("jax", "fsspec"):
            return None  # Their own configs.
        if node.attr in ("config", "_config"):
            return ""
        # What a task asks a format for: a section of the task.
        if isinstance(node.value, ast.Name) and f"{node.value.id}.{node.attr}" == "request.options":
            return "request"
        base = key_of(node.value)
        # A property, as config.model.settings, reads the whole section.
        return None if base is None else f"{base}.{node.attr}".lstrip(".")

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets, values = node.targets[0] if isinstance(node, ast.Assign) else node.target, node.value
            pairs = [(targets, values)]
            both = isinstance(targets, ast.Tuple) and isinstance(values, ast.Tuple)
            if both and not any(isinstance(part, ast.Starred) for part in (*targets.elts, *values.elts)):
                pairs = list(zip(targets.elts, values.elts, strict=True))
            for target, value in pairs:
                if isinstance(target, ast.Name) and key_of(value):
                    aliases[target.id] = key_of(value) or ""
    for node in ast.walk(tree):
        key = key_of(node) if isinstance(node, ast.Attribute) else None
        if key and key.endswith(".settings"):
            yield from (k for k in known if k.startswith(key.removesuffix("settings")))
        elif key and key.startswith("request."):
            yield from known & {key.replace("request", name) for name in ("segmentation", "detection")}
        elif key and key != "request":
            yield key


def all_keys_read() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "pvt_jax").rglob("*.py"):
        if path.name in ("config.py", "options.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                found |= set(keys_read(node, set(DEFAULTS)))
    return found


def test_every_key_is_read_by_the_code():
    assert sorted(set(DEFAULTS) - all_keys_read()) == []


def test_the_code_reads_no_key_that_does_not_exist():
    sections = {key.rsplit(".", depth)[0] for key in DEFAULTS for depth in (1, 2)}
    besides = ("to_dict", "load", "read", "differences", "to_json", "get", "settings", "attributes")
    # What a section has besides its keys.
    besides += ("num_classes", "with_masks", "best_metric", "in_steps", "total_steps", "hub_task", "processor")
    besides += ("faster_loading",)
    unknown = {key for key in all_keys_read() - set(DEFAULTS) - sections if key.split(".")[-1] not in besides}
    assert sorted(unknown) == []


def test_the_scan_notices_keys():
    """The scan itself: through aliases, whole sections, and not by bare words."""
    code = ast.parse(
        "def f(self, config, other, rest: MeshOptions):\n"
        "    options, n = self.config.optimizer, config.batch_size\n"
        "    use(rest.fsdp, options.eps, config.model.settings, other.weight_decay)\n"
    )
    found = set(keys_read(code.body[0], set(DEFAULTS)))
    assert {"optimizer.eps", "batch_size", "model.name", "model.scan", "mesh.fsdp"} <= found
    assert not {"optimizer.weight_decay", "data.name", "seed"} & found
