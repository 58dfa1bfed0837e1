"""Predictions equal those of the evaluation, whatever the batch, and are what a person asked for."""

import functools
import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

import pvt_jax
from pvt_jax import convert, predict
from pvt_jax.errors import UserError
from pvt_jax.messages import in_python
from pvt_jax.prediction.attention import attended, block_of, weights_of
from pvt_jax.prediction.class_tables import CLASS_TABLES, of_stated
from pvt_jax.training.workdir import data_of_weights
from pvt_jax.weights.files import write_safetensors
from pvt_jax.weights.names import to_state_dict
from tests.helpers.trained import save_run

TASKS = ("classification", "segmentation", "detection")


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory):
    return save_run(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_run("classification", tmp_path_factory.mktemp("classifier"))


def evaluated(run):
    """What ``--mode eval`` predicts of each image, by its number."""
    found = {}
    step = jax.jit(lambda variables, batch: run.task.evaluate(variables, batch)[1])
    for batch in run.task.evaluation_batches((0, 1), 1):
        records = batch.pop("record")
        predictions = jax.tree.map(np.asarray, step(run.variables, batch))
        found |= {
            int(record): jax.tree.map(lambda values, row=row: values[row], predictions)
            for row, record in enumerate(records)
            if record >= 0
        }
    return found


@pytest.mark.parametrize("batch_size", [4, 1])
def test_predictions_are_those_of_the_evaluation(run, batch_size):
    expected = evaluated(run)
    predictor = pvt_jax.Predictor(run.folder, batch_size=batch_size)
    source, stream = predictor.stream(run.images, run.images)
    found = {one.number: one.arrays for one in stream}
    assert sorted(found) == list(range(5)) and not source.failures
    for index, prediction in found.items():
        valid = expected[index].get("valid", slice(None))
        height, width = source.sizes()[index]
        for name, values in expected[index].items():
            here, there = prediction[name], values
            if name == "label_map":
                here, there = here[:height, :width], there[:height, :width]
                assert (here != there).mean() < 1e-3, name  # ties between classes, which rounding decides
                continue
            if name != "valid":
                here, there = here[valid], there[valid]
            pixels = 1e-3 if name == "boxes" else 0.0
            np.testing.assert_allclose(here, there, rtol=1e-5, atol=2e-5 + pixels, err_msg=name)


def test_fields_and_pictures(run):
    predictor = pvt_jax.Predictor(run.folder)
    names = {"classification": ("cat", "owl", "yak"), "segmentation": ("sky", "sea", "land", "ship")}
    names["detection"] = run.task.eval_source.class_names
    assert predictor.classes.names == names[predictor.task_name]
    image = np.asarray(Image.open(run.images[1]).convert("RGB"))
    by_path, by_array = predictor([run.images[1], image], top_k=2, min_score=0.0)
    assert json.dumps(dict(by_path.fields)) == json.dumps(dict(by_array.fields))
    if predictor.task_name == "classification":
        best = by_path["labels"]
        scores = np.exp(by_path.arrays["logits"].astype(np.float64))
        order = np.argsort(-scores)[:2]
        assert [one["label"] for one in best] == order.tolist()
        assert [one["name"] for one in best] == [predictor.classes.names[k] for k in order]
        np.testing.assert_allclose([one["score"] for one in best], (scores / scores.sum())[order], atol=1e-6)
    elif predictor.task_name == "segmentation":
        labels = by_path.arrays["label_map"][: image.shape[0], : image.shape[1]]
        shares = {one["name"]: one["share"] for one in by_path["classes"]}
        assert shares == {
            name: pytest.approx((labels == k).mean(), abs=1e-6)
            for k, name in enumerate(predictor.classes.names)
            if (labels == k).any()
        }
    else:
        objects = by_path["objects"]
        scores = [one["score"] for one in objects]
        assert objects and scores == sorted(scores, reverse=True)
        assert all(one["category_id"] == run.task.eval_source.category_ids[one["label"]] for one in objects)
        assert all(one["mask"]["size"] == list(image.shape[:2]) for one in objects)
        assert all(0 <= one["box"][0] <= one["box"][2] <= image.shape[1] for one in objects)
    picture = by_path.picture()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert by_path._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("run", ["classification", "detection"], indirect=True)
def test_attention_is_that_of_the_image_alone(run):
    task = run.task
    alone = jax.jit(functools.partial(task.model.apply, method="attention_maps"))
    weights = jax.jit(functools.partial(weights_of, task, block="stage1/block0"))
    for batch in task.evaluation_batches((0, 1), 1):
        found = jax.tree.map(np.asarray, weights(run.variables, batch))
        for row in range(len(batch["mask"])):
            one = attended(jax.tree.map(lambda values, row=row: values[row], found), "stage1/block0")
            height, width = one.image.shape[:2]
            image = np.zeros((1, *one.region, 3), np.uint8)
            image[0, :height, :width] = one.image
            expected = alone(run.variables, task.normalise_inside(image, np.array([[height, width]])))["stage1/block0"]
            assert one.weights.shape == expected.key_grid
            np.testing.assert_allclose(one.weights.ravel(), np.asarray(expected.weights).mean((0, 1, 2)), atol=1e-5)
            picture = one.picture()
            assert picture.dtype == np.uint8 and min(picture.shape[:2]) > 100


def test_attention_of_no_stage_is_refused(classifier):
    predictor = pvt_jax.Predictor(classifier.folder)
    assert predictor.attention_block("stage4") == predictor.attention_block("stage4/block0") == "stage4/block0"
    with pytest.raises(UserError, match=r"no 'stage5' .* \(did you mean 'stage[1-4]'\?\): give stage1 … stage4"):
        predictor(classifier.images, attention="stage5")


@pytest.mark.parametrize(
    ("name", "block"), [("vit_tiny_patch16", "block1"), ("mit_b0", "stage4/block0"), ("resnet18", "")]
)
def test_last_stage_of_every_family(classifier, name, block):
    settings = {"image_size": 32, "num_classes": 3, "depth": 2, "dim": 8, "num_heads": 2}
    if not name.startswith("vit"):
        settings = {"num_classes": 3, "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)} | (
            {"num_heads": (1, 1, 1, 2)} if block else {}
        )
    model = pvt_jax.create_model(name, **settings)
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    task = types.SimpleNamespace(model=model, image_size=(32, 32))
    if block:
        assert block_of(task, variables, "stage4") == block
        return
    with pytest.raises(UserError, match="ResNet has no attention"):
        block_of(task, variables, "stage4")


def test_test_size_and_averaged_views_are_asked_for(classifier):
    plain = pvt_jax.Predictor(classifier.folder)(classifier.images[0]).pop().arrays["logits"]
    larger = pvt_jax.Predictor(classifier.folder, image_size=64)(classifier.images[0]).pop().arrays["logits"]
    assert np.abs(larger - plain).max() > 1e-3
    image = np.asarray(Image.open(classifier.images[3]).convert("RGB"))
    mirrored, both = image[:, ::-1], pvt_jax.Predictor(classifier.folder, tta=True)
    views = [pvt_jax.Predictor(classifier.folder)(view).pop().arrays["logits"] for view in (image, mirrored)]
    np.testing.assert_allclose(both(image).pop().arrays["logits"], sum(views) / 2, atol=1e-5)


def test_weights_without_a_run_need_their_model_and_get_made_up_names(classifier, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, to_state_dict(classifier.variables), {})
    settings = {"depths": (1, 1, 1, 1), "dims": (8, 8, 12, 16), "num_heads": (1, 1, 1, 2)}
    with pytest.raises(UserError, match="give the model that"):
        pvt_jax.Predictor(path)
    predictor = pvt_jax.Predictor(path, model="pvt_tiny", settings=settings, image_size=32)
    assert predictor.classes.names == ("class 0", "class 1", "class 2")
    assert any('class_names="FILE" gives names' in note and "--" not in note for note in predictor.notes)
    expected = pvt_jax.Predictor(classifier.folder)(classifier.images[2]).pop().arrays["logits"]
    np.testing.assert_allclose(predictor(classifier.images[2]).pop().arrays["logits"], expected, atol=1e-5)
    (tmp_path / "names.txt").write_text("ant\nbee\nfly\n")
    named = pvt_jax.Predictor(
        path, model="pvt_tiny", settings=settings, image_size=32, class_names=str(tmp_path / "names.txt")
    )
    assert named.classes.names == ("ant", "bee", "fly")
    with pytest.raises(UserError, match="1,000 names, and the model has 3 classes"):
        pvt_jax.Predictor(path, model="pvt_tiny", settings=settings, class_names="imagenet")
    with pytest.raises(UserError, match="no weights for 2 parameters"):
        pvt_jax.Predictor(path, model="pvt_tiny", settings=settings, num_classes=7)


def test_files_of_other_projects_name_their_classes(classifier, tmp_path, capsys):
    folder = tmp_path / "hub"
    write_safetensors(folder / "model.safetensors", to_state_dict(classifier.variables), {})
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "ant", "1": "bee", "2": "fly, a"}}))
    settings = {"depths": (1, 1, 1, 1), "dims": (8, 8, 12, 16), "num_heads": (1, 1, 1, 2)}
    for source in (folder, folder / "model.safetensors"):
        predictor = pvt_jax.Predictor(source, model="pvt_tiny", settings=settings)
        assert predictor.classes.names == ("ant", "bee", "fly, a")
        assert not any("names no classes" in note for note in predictor.notes)
    flags = [f"--set={name}={','.join(map(str, value))}" for name, value in settings.items()]
    for converted in (tmp_path / "folder", tmp_path / "file.safetensors"):
        assert convert.main([str(folder), str(converted), "--model", "pvt_tiny", *flags]) == 0
        data = data_of_weights(converted)
        assert data is not None and data.foreign and data.class_names == ("ant", "bee", "fly, a")
    assert pvt_jax.Predictor(tmp_path / "folder", settings=settings).classes.names == ("ant", "bee", "fly, a")
    # As many as the model has, or none.
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "ant", "1": "bee"}}))
    assert pvt_jax.Predictor(folder, model="pvt_tiny", settings=settings).classes.names[0] == "class 0"


def test_stated_classes_of_a_known_data_set_get_its_ids_and_colours():
    coco, cityscapes = CLASS_TABLES["coco"].classes, CLASS_TABLES["cityscapes"].classes
    assert of_stated("detection", coco.names, None) == coco
    assert of_stated("segmentation", cityscapes.names, None) == cityscapes
    assert of_stated("detection", ("a", "b"), ((1, 2, 3), (4, 5, 6))).palette == ((1, 2, 3), (4, 5, 6))


def test_choices_that_do_not_fit_are_refused(classifier, tmp_path):
    for choices, message in (
        ({"step": "best"}, "saved with an evaluation"),
        ({"step": 5}, "no checkpoint of step 5 in .*: there are 3"),
        ({"step": "last"}, "latest, best or a number"),
        ({"class_names": "imagnet"}, "did you mean 'imagenet'"),
        ({"overrides": ["batch_sise=3"]}, "did you mean 'batch_size'"),
    ):
        with pytest.raises(UserError, match=message):
            pvt_jax.Predictor(classifier.folder, **choices)
    predictor = pvt_jax.Predictor(classifier.folder, step=3)
    with pytest.raises(UserError, match=r"image 0 is float32 \[4, 4, 3\]"):
        predictor(np.zeros((4, 4, 3), np.float32))
    (tmp_path / "broken.jpg").write_bytes(b"none")
    with pytest.raises(UserError, match="broken.jpg: cannot be decoded"):
        predictor([classifier.images[0], tmp_path / "broken.jpg"])


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("--class_names imagnet is no file (did you mean", 'class_names="imagnet" is no file (did you mean'),
        ("--class_names FILE gives others", 'class_names="FILE" gives others'),
        ("--step 5 is for the workdir", 'step="5" is for the workdir'),
        ("--step takes latest, best", "step takes latest, best"),
        ("give --step latest", 'give step="latest"'),
        ("with --model, --head, --num_classes or --set", "with model, head, num_classes or settings"),
        ("such as --model mit_b0 --head segformer, which", 'such as model="mit_b0", head="segformer", which'),
        ("set --config.data.value_range='(0,9)'", 'set overrides=["data.value_range=(0,9)"]'),
        ("leave --tta out; a-b, -- c, x--y", "leave tta out; a-b, -- c, x--y"),
        ("a name of /home/me/ada.jpg", "a name of /home/me/ada.jpg"),
    ],
)
def test_flags_in_messages_are_arguments_in_python(flags, arguments):
    assert in_python(flags) == arguments


def test_the_same_trouble_names_a_flag_or_an_argument(classifier, tmp_path, capsys):
    with pytest.raises(UserError, match='^class_names="imagnet" is no file'):
        pvt_jax.Predictor(classifier.folder, class_names="imagnet")
    flags = ["--output", str(tmp_path / "out"), "--class_names", "imagnet"]
    assert predict.main([str(classifier.folder), classifier.images[0], *flags]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --class_names imagnet is no file")


def test_tables_name_every_class_once():
    sizes = {name: len(table.classes.names) for name, table in CLASS_TABLES.items()}
    assert sizes == {
        **{"imagenet": 1000, "ade20k": 150, "cityscapes": 19},
        **{"voc_segmentation": 21, "coco": 80, "voc": 20},
    }
    for table in CLASS_TABLES.values():
        assert len(set(table.classes.names)) == len(table.classes.names)
    coco = CLASS_TABLES["coco"].classes
    by_id = dict(zip(coco.category_ids or (), coco.names, strict=True))
    assert (by_id[1], by_id[13], by_id[44], by_id[67], by_id[90]) == (
        *("person", "stop sign", "bottle", "dining table"),
        "toothbrush",
    )
    imagenet = CLASS_TABLES["imagenet"].classes.names
    assert (imagenet[0], imagenet[207], imagenet[281], imagenet[999]) == (
        *("tench", "golden retriever", "tabby"),
        "toilet tissue",
    )
