"""Predictions against whole pipelines of transformers: its processors and its models, with the same random weights."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import pvt_jax
from pvt_jax import convert
from pvt_jax.tasks.classification.options import ClassificationConfig
from pvt_jax.tasks.classification.transforms import EvalTransform
from pvt_jax.weights.processor import read_processor
from tests.helpers.hugging_face_pipelines import LABELS, PIPELINES, HuggingFace
from tests.helpers.oracles import torch

# A landscape and a portrait photograph; 427 × 640 is one of the sizes whose centre Hugging Face rounds otherwise.
FIRST, SECOND = (np.asarray(image) for image in load_sample_images().images)
PHOTOS = [FIRST, np.ascontiguousarray(SECOND.transpose(1, 0, 2)[:, ::-1])[:600]]
VIT = ["--model=vit_tiny_patch16", *(f"--set={k}={v}" for k, v in PIPELINES["vit"].predictor["settings"].items())]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A ViT whose processor squashes to 224 × 224 with mean and deviation of 0.5."""
    return HuggingFace(PIPELINES["vit"], tmp_path_factory.mktemp("vit"))


@pytest.mark.parametrize("name", PIPELINES)
def test_whole_pipelines_give_the_same_predictions(name, tmp_path):
    theirs = HuggingFace(PIPELINES[name], tmp_path)
    predictor = pvt_jax.Predictor(tmp_path, **PIPELINES[name].predictor)
    assert predictor.classes.names == tuple(LABELS)
    side, how = PIPELINES[name].side, {2: "bilinear", 3: "bicubic"}[theirs.processor.resample]
    said = f"followed: images are resized to {side}×{side} whatever their aspect ratio, {how}; image_size and"
    assert said in predictor.notes[1] and len(predictor.notes) == 2
    expected = theirs.logits(theirs.pixels(PHOTOS))
    found = predictor(PHOTOS)
    if name != "segformer_semantic":
        assert np.ptp(expected, axis=0).max() > 1e-2  # The photographs differ.
        np.testing.assert_allclose([one.arrays["logits"] for one in found], expected, rtol=0, atol=1e-4)
        assert [one["labels"][0]["label"] for one in found] == expected.argmax(1).tolist()
        return
    outputs = type("Outputs", (), {"logits": torch.from_numpy(expected)})
    sizes = [photo.shape[:2] for photo in PHOTOS]
    best = theirs.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    for one, labels, (height, width) in zip(found, best, sizes, strict=True):
        labels = labels.numpy()
        # Ties between classes, which rounding decides.
        assert len(np.unique(labels)) > 2 and (one.arrays["label_map"][:height, :width] != labels).mean() < 1e-4
    # What an export of this size gives is what the evaluation gives of images that have it.
    image = np.asarray(Image.fromarray(FIRST).resize((side, side)))
    task, variables = predictor.trained.task, predictor.trained.variables
    exported = jax.jit(lambda images: task.predict(variables, task.normalise(images), ("label_map",)))
    assert task.input_size == (side, side) and "whatever its aspect ratio" in task.preparation
    alike = np.asarray(exported(jnp.asarray(image)[None])["label_map"][0]) == predictor(image)[0].arrays["label_map"]
    assert alike.mean() > 1 - 1e-4


SIZES = {
    "vit.image_processing_pil_vit.ViTImageProcessorPil": [
        {},
        {"size": {"height": 96, "width": 160}, "resample": 3},
        {"size": {"height": 73, "width": 73}, "do_center_crop": True, "crop_size": {"height": 61, "width": 61}},
    ],
    "pvt.image_processing_pil_pvt.PvtImageProcessorPil": [{}, {"size": 384}],
    "segformer.image_processing_pil_segformer.SegformerImageProcessorPil": [
        {},
        {"do_center_crop": True, "crop_size": 448},  # It does not.
    ],
    "deit.image_processing_pil_deit.DeiTImageProcessorPil": [
        {},
        {"size": {"height": 438, "width": 438}, "crop_size": 384},
    ],
}


@pytest.mark.parametrize(("kind", "changes"), [(kind, changes) for kind in SIZES for changes in SIZES[kind]])
def test_pixels_are_those_of_the_processor(kind, changes):
    module, _, name = f"transformers.models.{kind}".rpartition(".")
    processor = getattr(importlib.import_module(module), name)(**changes)
    read = read_processor(json.loads(processor.to_json_string()), "")
    values, note = ClassificationConfig.of_processor(read.resize, read.size, read.crop, read.interpolation)
    assert not note and not read.notes
    fraction, how = (values[f"transform.eval_{key}"] for key in ("crop_fraction", "interpolation"))
    transform = EvalTransform(values["model.image_size"], fraction, how, values["transform.eval_resize"])
    for photo in PHOTOS:
        theirs = processor(Image.fromarray(photo), return_tensors="np", do_rescale=False, do_normalize=False)
        np.testing.assert_array_equal(transform(photo), theirs["pixel_values"][0].transpose(1, 2, 0))


@pytest.mark.parametrize("image", PHOTOS, ids=["landscape", "portrait"])
def test_pixels_of_the_centre_crop(image, tmp_path):
    """As torchvision's, which the models were evaluated with; transformers rounds the half pixel of odd rests down."""
    from transformers.models.pvt.image_processing_pil_pvt import PvtImageProcessorPil

    crop = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    processor = PvtImageProcessorPil(**crop, do_rescale=False, do_normalize=False)
    theirs = np.asarray(processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    transform = EvalTransform((224, 224))
    height, width = transform.resized_size(*image.shape[:2])
    rests = height - 224, width - 224
    top, left = (round(rest / 2) - rest // 2 for rest in rests)
    ours = transform(image)
    np.testing.assert_array_equal(
        ours[: 224 - top or None, : 224 - left or None], theirs[top:, left:] if top or left else theirs
    )


def test_convert_keeps_the_pixels_of_a_folder(vit, tmp_path, capsys):
    places = (tmp_path / "folder", tmp_path / "file.safetensors", tmp_path / "hub")
    expected = pvt_jax.Predictor(vit.folder, **PIPELINES["vit"].predictor).trained.config
    assert expected.transform.eval_resize == "squash" and expected.model.image_size == (224, 224)
    assert expected.batch_transform.mean == expected.batch_transform.std == (127.5, 127.5, 127.5)
    for place in places:
        flags = ["--hub_folder"] if place.name == "hub" else []
        assert convert.main([str(vit.folder), str(place), *VIT, *flags]) == 0
        assert "note: preprocessor_config.json is followed: images are resized to 224×224" in capsys.readouterr().err
        choices = PIPELINES["vit"].predictor if place.suffix else {}
        config = pvt_jax.Predictor(place, **choices).trained.config
        assert config.transform == expected.transform and config.batch_transform == expected.batch_transform
        assert config.model.image_size == (224, 224)
    # What of it transformers reads does the same.
    kind = type(vit.processor).from_pretrained(tmp_path / "hub")
    again = kind([Image.fromarray(photo) for photo in PHOTOS], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(again.transpose(0, 2, 3, 1), vit.pixels(PHOTOS), atol=1e-5)


def test_what_a_person_says_counts_more(vit):
    def config(**choices):
        return pvt_jax.Predictor(vit.folder, **PIPELINES["vit"].predictor, **choices).trained.config

    larger = config(image_size=256)
    assert larger.model.image_size == (256, 256) and larger.transform.eval_resize == "squash"
    overrides = ["transform.eval_resize=crop", "transform.eval_crop_fraction=0.875", "batch_transform.mean=(1,2,3)"]
    cropped = config(overrides=overrides)
    assert (cropped.transform.eval_resize, cropped.transform.eval_crop_fraction) == ("crop", 0.875)
    assert cropped.transform.eval_interpolation == "bilinear" and cropped.batch_transform.mean == (1, 2, 3)


def test_what_cannot_be_followed_is_said(vit, tmp_path):
    """Mean and deviation are followed where sizes cannot be."""
    for path in vit.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    file = tmp_path / "preprocessor_config.json"
    stated = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**stated, "do_resize": False}))
    predictor = pvt_jax.Predictor(tmp_path, **PIPELINES["vit"].predictor)
    assert predictor.notes[1:] == (
        "the sizes of preprocessor_config.json are not followed: do_resize is false, so images keep their sizes, and a "
        "batch has one",
    )
    config = predictor.trained.config
    assert config.batch_transform.mean == (127.5, 127.5, 127.5) and config.transform.eval_resize == "crop"
