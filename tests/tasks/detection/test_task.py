"""The task as a run uses it: batches, evaluation and loss of images of several sizes, against their own arithmetic."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faster_coco_eval import mask as run_lengths
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax.data.formats.digits.scenes import DigitScenesSource
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.nn.fpn import FeaturePyramid
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.detection.instance_masks import paste_mask
from pvt_jax.tasks.detection.pictures import Instances, side_by_side
from pvt_jax.training.evaluate import Evaluator
from pvt_jax.training.sharding import make_mesh
from tests.helpers.command import ROOT
from tests.helpers.dense import Patches, random_variables
from tests.helpers.detection_data import CATEGORY_IDS, annotation, save, write_json, write_voc

# (height, width): seen at a shorter side of 48 pixels, the evaluation fills 64×96 or 96×64.
TRAIN_SIZES = [(48, 70), (60, 90), (90, 60), (48, 70), (72, 48), (64, 64), (48, 60), (80, 60), (48, 70)]
EVAL_SIZES = [(48, 70), (60, 90), (90, 60), (54, 81), (72, 48)]
EMPTY, CROWD = (3, 7), 1
# Classes are in the order of their ids in the file.
CLASS_IDS = sorted(CATEGORY_IDS)
HEADS: dict[str, dict[str, Any]] = {
    "retinanet": {"channels": 8, "neck_channels": 8, "num_convs": 1, "pre_nms": 60, "max_detections": 12},
    "mask_rcnn": {
        "channels": 16,
        "neck_channels": 16,
        "hidden_dim": 32,
        "anchor_scales": "(4.0,)",
        "train_pre_nms": 48,
        "train_proposals": 32,
        "pre_nms": 48,
        "proposals": 32,
        "samples": 24,
        "max_detections": 12,
    },
    "detr": {"dim": 32, "num_heads": 2, "hidden_dim": 32, "encoder_depth": 1, "decoder_depth": 2, "num_queries": 12},
}
SHRUNK = (
    "init.checkpoint=",
    "model.image_size=64",
    "batch_size=4",
    "evaluation.batch_size=2",
    "data.threads=2",
    "data.check=all",
    "detection.short_sides=(48,)",
    "detection.long_side=80",
)


def write_images(root: Path, train: Any = TRAIN_SIZES, held_out: Any = EVAL_SIZES, empty: Any = EMPTY) -> None:
    """Scenes of digits in COCO's format. Training images ``empty`` have no object; ``CROWD`` has a crowd region."""
    image_id = 0
    halves: Any = (("train", "train2017", train), ("eval", "val2017", held_out))
    for split, folder, sizes in halves:
        content: dict[str, Any] = {"images": [], "annotations": []}
        for index, (height, width) in enumerate(sizes):
            image_id += 1
            scene = DigitScenesSource(split, height=height, width=width).scene(index)
            save(root / folder / f"{image_id}.png", scene.image)
            content["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
            if split == "train" and index in empty:
                continue
            for box, label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks, strict=True):
                row = annotation(image_id, box, label, mask, "run_lengths", content["annotations"])
                content["annotations"].append(row)
            if index == CROWD:  # A region in which objects are not told apart.
                mask = np.zeros((height, width), np.uint8)
                mask[5:25, 5:40] = 1
                row = annotation(image_id, [5, 5, 40, 25], 0, mask, "run_lengths", content["annotations"])
                content["annotations"].append({**row, "iscrowd": 1})
        content["categories"] = [{"id": CATEGORY_IDS[digit], "name": str(digit)} for digit in range(10)]
        write_json(root / "annotations" / f"instances_{folder}.json", content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_images(root)
    return root


def annotations_of(root: Path, half: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{half}2017.json").read_text())


def config_of(folder, *overrides, head="retinanet", config="configs/digits_detection.py"):
    """configs/digits_detection.py, of a folder in place of scenes made at run time, with a head of a few channels."""
    settings = [f"head.{name}={value}" for name, value in HEADS[head].items()]
    data = ("data.source=coco", f"data.root={folder}")
    argument = config if ":" in config else f"{config}:{head}"
    return config_lib.load(f"{ROOT}/{argument}", (*SHRUNK, *data, *settings, *overrides))


def simplified(task: Any) -> Any:
    """The task with a backbone that is soon compiled; so is Mask R-CNN on three levels in place of five."""
    task.model = task.model.clone(backbone=Patches(num_classes=0))
    if task.model.needs_masks:
        task.model = task.model.clone(neck=FeaturePyramid(16, first_level=3))
    task._apply = task.model.apply
    return task


def task_of(folder, *overrides, **rest) -> Any:
    return simplified(TASKS["detection"].make(config_lib.read(config_of(folder, *overrides, **rest))))


def variables_of(task):
    return random_variables(task.model, jnp.zeros((1, 64, 64, 3)))


def fitted(height, width, short_side=48, long_side=80):
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resized(path, size):
    return cv2.resize(np.asarray(Image.open(path)), size[::-1], interpolation=cv2.INTER_LINEAR)


def of_records(predictions, rows):
    return {name: np.asarray(value)[rows] for name, value in predictions.items()}


# Evaluation.


@pytest.fixture(scope="module")
def alone(folder):
    """What is detected in each evaluation image alone: normalised by NumPy, only made a multiple of 32."""
    task = task_of(folder)
    variables, found = variables_of(task), []
    mean, std = (np.array(getattr(task._config.batch_transform, name)) for name in ("mean", "std"))
    step = jax.jit(lambda variables, image, sizes: task.model.apply(variables, image, sizes, False))
    for number, size in enumerate(EVAL_SIZES):
        height, width = fitted(*size)
        image = (resized(folder / "val2017" / f"{len(TRAIN_SIZES) + number + 1}.png", (height, width)) - mean) / std
        whole = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
        whole[:height, :width] = image
        one = of_records(step(variables, whole[None], np.array([[height, width]], np.int32)), 0)
        ratio = np.tile([size[1] / width, size[0] / height], 2)
        one["boxes"] = np.clip(one["boxes"] * ratio, 0, np.tile(size[::-1], 2))
        assert one["valid"].sum() > 5
        found.append(one)
    return found


def evaluated(task):
    """(results, predictions by record, batches) of the whole evaluation set."""
    step, variables = jax.jit(task.evaluate), variables_of(task)
    results, predicted, batches = task.results(), {}, []
    for batch in task.evaluation_batches((0, 1), 1):
        records, _ = batch.pop("record"), batch.pop("corrupt")
        sums, predictions = step(variables, batch)
        assert sums == {} == task.metrics(sums)
        rows = np.flatnonzero(batch["mask"])
        results.add(records[rows], of_records(predictions, rows))
        predicted |= {int(records[row]): of_records(predictions, row) for row in rows}
        batches.append({**batch, "record": records})
    return results, predicted, batches


@pytest.mark.parametrize("shapes", [1, 8])
def test_padded_batches_detect_what_each_image_gives_alone(folder, alone, shapes):
    """In one padded shape, or one for each, in which nothing is masked; in pixels of the images as they are stored."""
    task = task_of(folder, f"detection.test_shapes={shapes}")
    results, predicted, batches = evaluated(task)
    assert sorted({batch["image"].shape[1:3] for batch in batches}) == (
        [(96, 96)] if shapes == 1 else [(64, 96), (96, 64)]
    )
    assert bool(task._buckets.waste) == (shapes == 1)
    records = np.concatenate([batch["record"] for batch in batches])
    assert sorted(records.tolist()) == [-1, *range(len(EVAL_SIZES))]
    for record, expected in enumerate(alone):
        found = predicted[record]
        for name in ("valid", "labels"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=2e-3)
    rows = json.loads(results.files()["detections.json"])
    assert len(rows) == sum(one["valid"].sum() for one in alone)
    for row in rows:
        one = alone[row["image_id"] - len(TRAIN_SIZES) - 1]
        x, y, width, height = row["bbox"]
        distance = np.abs(one["boxes"] - [x, y, x + width, y + height]).max(-1) + np.abs(one["scores"] - row["score"])
        assert distance.min() < 5e-3
        assert row["category_id"] in {CLASS_IDS[label] for label in one["labels"][distance < 5e-3]}


def near_truth(task, masks):
    """Predictions of every evaluation record: its objects, shifted, some missed, some of another class."""
    random, found = np.random.default_rng(0), []
    for record in range(len(task.eval_source)):
        objects = task.eval_source.objects(record)
        kept = np.flatnonzero(~objects.crowd)
        boxes = objects.boxes[kept] + random.normal(0, 0.8, (len(kept), 4)).astype(np.float32)
        labels = np.where(random.random(len(kept)) < 0.8, objects.labels[kept], (objects.labels[kept] + 1) % 10)
        one: dict[str, Any] = {
            "boxes": boxes,
            "labels": labels.astype(np.int32),
            "scores": random.random(len(kept), np.float32),
            "valid": random.random(len(kept)) < 0.9,
        }
        if masks:
            one["masks"] = random.random((len(kept), 28, 28), np.float32) ** 0.4
        found.append({name: np.pad(x, [(0, 8 - len(x))] + [(0, 0)] * (x.ndim - 1)) for name, x in one.items()})
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_average_precision_is_that_of_pycocotools(folder, tmp_path, head):
    """Of the files: annotations as they are on disk, and the results that are written."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is the oracle: make test ORACLES=1")
    from pycocotools.cocoeval import COCOeval

    task, results = task_of(folder, head=head), task_of(folder, head=head).results()
    results.add(np.arange(len(EVAL_SIZES)), near_truth(task, head == "mask_rcnn"))
    metrics = results.metrics()
    rows = json.loads(results.files()["detections.json"])
    truth = coco.COCO(str(folder / "annotations" / "instances_val2017.json"))
    kinds: Any = (("", "bbox"), ("mask_", "segm"))
    for prefix, kind in kinds[: 1 + (head == "mask_rcnn")]:
        given = [{k: v for k, v in row.items() if kind == "bbox" or k != "bbox"} for row in rows]
        write_json(tmp_path / "results.json", given)
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        for name, place in {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AR": 8}.items():
            assert metrics[prefix + name] == pytest.approx(100 * evaluator.stats[place], rel=0, abs=1e-7)
        assert 5 < metrics[f"{prefix}AP50"] < 95
        assert any(name.startswith(f"{prefix}AP/") for name in metrics)
    assert ("mask_AP" in metrics) == (head == "mask_rcnn")
    assert task.best_metric in metrics


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_two_processes_collect_what_one_does(folder, head):
    """Each has its half of every batch; what one has seen already counts once, and blanks count nothing."""
    task = task_of(folder, head=head)
    predictions = near_truth(task, head == "mask_rcnn")
    whole = task.results()
    whole.add(np.arange(5), predictions)
    parts, seen = [], []
    for number in (0, 1):
        part = task.results()
        batches = list(task.evaluation_batches((number, 2), 2))
        records = np.concatenate([batch["record"][batch["mask"]] for batch in batches])
        part.add(records, of_records(predictions, records))
        # Other detections of what is there are not taken.
        part.add(records[:2], of_records(predictions, (records[:2] + 1) % 5))
        parts.append(part)
        seen += records.tolist()
    assert sorted(seen) == list(range(5))
    data = [part.to_bytes() for part in parts]
    for part in parts:
        part.merge(data)
        assert part.files() == whole.files()
        assert part.metrics() == whole.metrics()


def test_masks_are_pasted_into_the_stored_image(folder):
    task = task_of(folder, head="mask_rcnn")
    predictions, results = near_truth(task, True), task.results()
    results.add(np.array([2]), of_records(predictions, [2]))
    rows = json.loads(results.files()["detections.json"])
    valid = predictions["valid"][2]
    assert len(rows) == valid.sum() > 0
    for row, box, mask in zip(rows, predictions["boxes"][2][valid], predictions["masks"][2][valid], strict=True):
        assert row["segmentation"]["size"] == list(EVAL_SIZES[2])
        expected = paste_mask(mask, box, *EVAL_SIZES[2])
        np.testing.assert_array_equal(run_lengths.decode(row["segmentation"]), expected)
        assert expected.any()


def stub(task, predictions):
    """In place of a network: each set of variables names whose predictions all images get."""

    def evaluate(variables, batch):
        number = variables["number"] + jnp.zeros(batch["mask"].shape[0], jnp.int32)
        return {}, {name: jnp.asarray(value)[number] for name, value in predictions.items()}

    task.evaluate = evaluate


def test_results_and_pictures_of_an_evaluation(folder):
    """Those of the moving average have a prefix; pictures are of the parameters themselves."""
    task = task_of(folder, "detection.test_shapes=8", head="mask_rcnn")
    predictions = near_truth(task, True)
    stub(task, predictions)
    state: Any = SimpleNamespace(variables=lambda ema=False: {"number": 4 if ema else 1}, ema_params={"number": 4})
    found: Any = Evaluator(task, make_mesh(1), pictures=3)(state)
    assert set(found.files) == {"detections.json", "ema_detections.json"}
    for prefix, number in (("", 1), ("ema_", 4)):
        expected = task.results()
        for record in range(5):
            expected.add(np.array([record]), of_records(predictions, [number]))
        metrics = expected.metrics()
        assert found.files[f"{prefix}detections.json"] == expected.files()["detections.json"]
        assert {f"{prefix}{name}": value for name, value in metrics.items()}.items() <= found.metrics.items()
    assert len(found.metrics) == 2 * len(metrics) and "corrupt_images" not in found.metrics
    # Evenly spaced in the order of the shapes: 64×96 has records 0, 1 and 3, 96×64 has 2 and 4.
    order = [np.flatnonzero(task._buckets.of == bucket).tolist() for bucket in (0, 1)]
    order = order[0] + order[1]
    assert [name for name, _ in found.pictures] == [f"{order[place]:06d}" for place in (0, 2, 4)]
    source, valid = task.eval_source, predictions["valid"][1]
    for name, picture in found.pictures:
        record = int(name)
        objects = source.objects(record)
        one = {key: value[1][valid] for key, value in predictions.items()}
        masks = [paste_mask(*pair, *EVAL_SIZES[record]) for pair in zip(one["masks"], one["boxes"], strict=True)]
        image = np.asarray(Image.open(folder / "val2017" / f"{len(TRAIN_SIZES) + record + 1}.png"))
        truth = [mask.astype(bool) for mask in source.masks(record, objects)]
        expected = side_by_side(
            image,
            Instances(objects.boxes, objects.labels, masks=truth),
            Instances(one["boxes"], one["labels"], scores=one["scores"], masks=masks),
            [str(CATEGORY_IDS.index(category)) for category in CLASS_IDS],
        )
        np.testing.assert_array_equal(picture, expected)


# Training data.


def batches_of(task, count, start=0, block=(0, 1)) -> list[Any]:
    batches = task.training_batches(start, block)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def traced_loss(task, batch):
    """The form of what the loss of a batch is; nothing is computed."""

    def loss(variables, batch, key):
        return task.loss(variables, task.prepare(batch, key), key)

    return jax.eval_shape(loss, variables_of(task), batch, jax.random.key(0))


def epoch_of(task):
    return -(-len(task.train_source) // 4)


def test_images_and_boxes_agree(folder):
    """Each image is one of the folder's at one of the sides, maybe mirrored; so are its boxes, without crowds."""
    task = task_of(
        folder, "detection.short_sides=(40,48)", "detection.train_shapes=3", "transform.flip_probability=0.5"
    )
    content, seen, shapes = annotations_of(folder, "train"), [], set()
    for batch in batches_of(task, 2 * epoch_of(task)):
        shapes.add(batch["image"].shape[1:3])
        # One side for the whole batch.
        at_each = (recognised(folder, batch, side) for side in (40, 48))
        drawn = next(drawn for drawn in at_each if None not in drawn)
        seen += drawn
        for (number, flip), row in zip(drawn, range(4), strict=True):
            (height, width), valid, boxes = batch["size"][row], batch["valid"][row], batch["boxes"][row]
            rows = [one for one in content["annotations"] if one["image_id"] == number + 1 and not one["iscrowd"]]
            assert bool(rows) == (number not in EMPTY)
            assert valid.tolist() == [True] * len(rows) + [False] * (len(valid) - len(rows))
            labels = [CLASS_IDS.index(one["category_id"]) for one in rows]
            assert batch["labels"][row].tolist() == labels + [0] * (len(valid) - len(rows))
            ratio = np.tile([width / TRAIN_SIZES[number][1], height / TRAIN_SIZES[number][0]], 2)
            edges = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in rows)]
            expected = np.array(edges).reshape(-1, 4) * ratio
            if flip:
                expected = np.stack([width - expected[:, 2], expected[:, 1], width - expected[:, 0], expected[:, 3]], 1)
            np.testing.assert_allclose(boxes[valid], expected, atol=1e-4)
            assert not boxes[~valid].any()
    assert {number for number, _ in seen} == set(range(len(TRAIN_SIZES)))
    assert {flip for _, flip in seen} == {False, True}
    assert 1 < len(shapes) <= 3 and all(side % 32 == 0 for shape in shapes for side in shape)


def recognised(folder, batch, side):
    """Which image each row of a batch is at this shorter side, and whether it is mirrored; None if it is none."""
    shape, found = batch["image"].shape[1:3], []
    for image, (height, width) in zip(batch["image"], batch["size"], strict=True):
        assert not image[height:].any() and not image[:, width:].any()
        matches = []
        for number, size in enumerate(TRAIN_SIZES):
            expected = fitted(*size, side)
            if expected[0] > shape[0] or expected[1] > shape[1]:  # A high one among wide ones.
                factor = min(shape[0] / size[0], shape[1] / size[1])
                expected = int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)
            if expected == (height, width):
                view = resized(folder / "train2017" / f"{number + 1}.png", expected)
                matches += [
                    (number, flip)
                    for flip in (False, True)
                    if np.array_equal(view[:, :: 1 - 2 * flip], image[:height, :width])
                ]
        assert len(matches) < 2
        found.append(matches[0] if matches else None)
    return found


@functools.cache
def many_scales(folder, *overrides) -> Any:
    """The 3x recipe of Mask R-CNN: many scales, half of the images cropped first."""
    sizes = ("detection.short_sides=(32,40,48)", "detection.crop_short_sides=(40,50)", "detection.crop_range=(24,40)")
    sizes += ("detection.test_short_side=48", "model.depths=(1,1,1,1)")
    return task_of(
        folder,
        *sizes,
        "model.num_classes=10",
        "detection.mask_side=14",
        "data.workers=0",
        *overrides,
        head="mask_rcnn",
        config="configs/mask_rcnn.py:pvt_v2_b2,3x",
    )


@pytest.mark.parametrize(("limit", "keep_empty"), [(1, True), (4, False)])
def test_crops_at_many_scales(folder, limit, keep_empty):
    """Boxes and masks stay within the images; few shapes; images without objects only where they are wanted."""
    task = many_scales(folder, f"detection.train_shapes={limit}", f"detection.keep_empty={keep_empty}")
    assert task._config.detection.crop_probability == 0.5
    assert len(task.train_source) == len(TRAIN_SIZES) - (0 if keep_empty else len(EMPTY))
    batches = batches_of(task, 12)
    shapes = {batch["image"].shape for batch in batches}
    assert len(shapes) <= limit and (limit == 1 or len(shapes) > 1)
    sizes = np.concatenate([batch["size"] for batch in batches])
    assert len(np.unique(sizes, axis=0)) > 8
    kept = 0
    for batch in batches:
        valid = batch["valid"]
        first, last = batch["boxes"][..., :2], batch["boxes"][..., 2:]
        assert (first >= 0).all() and (last <= batch["size"][:, None, ::-1]).all()
        assert ((last - first)[valid] > 0).all() and not batch["boxes"][~valid].any()
        assert (batch["size"] <= batch["image"].shape[1:3]).all()
        assert batch["masks"].shape == (4, valid.shape[1], 14, 14) and not batch["masks"][~valid].any()
        kept += np.count_nonzero(batch["masks"][valid].any((1, 2)))
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert kept > 0.9 * valid.sum() > 40
    assert keep_empty or valid.any(1).mean() > 0.8
    # A step takes such a batch.
    total, _, parts = traced_loss(task, batches[0])
    assert total.dtype == jnp.float32 and len(parts) == 5


def test_a_resumed_run_and_other_hosts_see_the_same_batches(folder):
    task = many_scales(folder, "detection.train_shapes=4")
    whole = batches_of(task, 6)
    resumed = batches_of(many_scales(folder, "detection.train_shapes=4", "data.threads=1"), 3, start=3)
    halves = [batches_of(task, 2, block=(number, 2)) for number in (0, 1)]
    for expected, found in zip(whole[3:], resumed, strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    for expected, *parts in zip(whole[:2], *halves, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        jax.tree.map(np.testing.assert_array_equal, joined, expected)
    assert any(not np.array_equal(a["boxes"], b["boxes"]) for a, b in zip(whole, whole[3:], strict=False))


@pytest.mark.parametrize(
    ("sizes", "overrides", "padded"),
    [
        ([(48, 70), (60, 90)], (), False),
        ([(48, 70), (48, 60)], (), True),
        ([(48, 70), (70, 48)], ("detection.train_shapes=4",), True),
        ([(48, 70)] * 2, ("detection.short_sides=(32,48)", "detection.train_shapes=1"), True),
        ([(48, 70)] * 2, ("detection.crop_probability=0.5",), True),
    ],
)
def test_padding_is_masked_where_there_is_some(tmp_path, sizes, overrides, padded):
    """That there is none is promised to the model only where no batch has any, beyond multiples of 32."""
    write_images(tmp_path, train=sizes, held_out=[(48, 70)], empty=())
    task = task_of(tmp_path, *overrides)
    assert task._trained_padded == padded
    if not padded:
        for batch in batches_of(task, 3):
            assert (-(-batch["size"] // 32) * 32 == batch["image"].shape[1:3]).all()


def test_what_is_empty_is_left_out(folder):
    everything, labelled = task_of(folder), task_of(folder, "detection.keep_empty=False")
    assert (len(everything.train_source), len(labelled.train_source)) == (9, 7)
    assert len(labelled.eval_source) == len(EVAL_SIZES)
    assert all(batch["valid"].any(1).all() for batch in batches_of(labelled, 4))
    assert "2 training images without objects are left out (detection.keep_empty)" in labelled.validate_data()
    assert "1 crowd or difficult" in everything.validate_data()


# What is wrong with the data.


@pytest.fixture
def damaged(tmp_path):
    """The second training image and the third evaluation image are cut short."""
    write_images(tmp_path)
    for path in (tmp_path / "train2017/2.png", tmp_path / f"val2017/{len(TRAIN_SIZES) + 3}.png"):
        path.write_bytes(path.read_bytes()[:900])
    return tmp_path


def test_undecodable_images_are_skipped_and_counted(damaged):
    task = task_of(damaged, "data.on_corrupt=skip")
    assert "images tried cannot be decoded and is skipped" in task.validate_data()
    batches = batches_of(task, 2 * epoch_of(task))
    assert sum(batch["corrupt"].sum() for batch in batches) >= 2
    # The next one stands in for it, in the shape of its batch.
    assert all((batch["size"] <= batch["image"].shape[1:3]).all() for batch in batches)
    stub(task, near_truth(task, False))
    state: Any = SimpleNamespace(variables=lambda: {"number": 1}, ema_params=None)
    found: Any = Evaluator(task, make_mesh(1), pictures=5)(state)
    assert found.metrics["corrupt_images"] == 1 and len(found.pictures) == 4
    assert {row["image_id"] for row in json.loads(found.files["detections.json"])} == {10, 11, 13, 14}


def test_undecodable_images_stop_a_run_that_does_not_skip_them(damaged):
    task = task_of(damaged)
    with pytest.raises(UserError, match="1 of 9 training images tried cannot be decoded: repair or remove"):
        task.validate_data()
    with pytest.raises(CorruptImageError, match=r"train2017/2\.png"):
        batches_of(task, epoch_of(task))
    with pytest.raises(CorruptImageError, match=r"val2017/12\.png"):
        list(task.evaluation_batches((0, 1), 1))


@pytest.mark.parametrize("size", [(40, 64), (90, 70), (70, 48)])
def test_an_image_of_another_size_than_annotated_is_told(tmp_path, size):
    """With data.check=sample not all images are looked at before a run; its boxes lie elsewhere."""
    write_images(tmp_path)
    for path in (tmp_path / "train2017/1.png", tmp_path / f"val2017/{len(TRAIN_SIZES) + 1}.png"):
        save(path, np.zeros((*size, 3), np.uint8))
    task = task_of(tmp_path, "data.check=sample")
    line = rf"1.*\.png has {size[0]}×{size[1]} pixels \(height × width\), and its annotations say 48×70: "
    for read in (
        lambda: batches_of(task, epoch_of(task)),
        lambda: list(task.evaluation_batches((0, 1), 1)),
    ):
        with pytest.raises(UserError, match=line) as error:
            read()
        assert not isinstance(error.value, CorruptImageError) and "\n" not in str(error.value)


def refused(*arguments, **rest):
    with pytest.raises(UserError) as caught:
        task_of(*arguments, **rest).validate_data()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_configs_that_no_run_can_use(folder, tmp_path):
    line = refused(folder, "task=segmentation", "head.name=semantic_fpn")
    assert line.startswith("detection.") and "is not read by task 'segmentation': leave it out" in line
    assert "data.repeats is not read by task 'detection'" in refused(folder, "data.repeats=3")
    assert "segmentation.test_shapes is not read by task 'detection'" in refused(folder, "segmentation.test_shapes=3")
    assert "task 'detection' needs a head: set head.name, as --config.head.name=retinanet" in refused(
        folder, "head.name="
    )
    assert "detection.short_sides must be one or more whole numbers above 0" in refused(
        folder, "detection.short_sides=()"
    )
    assert "detection.crop_range must be (least, largest)" in refused(folder, "detection.crop_range=(60,40)")
    assert "model.num_classes is 3" in refused(folder, "model.num_classes=3")
    assert "head 'retinanet' has no setting 'chanels'" in refused(folder, "head.chanels=3")
    assert "long_side" in refused(folder, "detection.test_short_side=100")
    (tmp_path / "classes.txt").write_text("\n".join(f"digit{digit}" for digit in range(10)))
    write_voc(tmp_path)
    line = refused(tmp_path, "data.source=voc", head="mask_rcnn")
    assert "the head learns masks, and no training object has one" in line and "--config.head.name=faster_rcnn" in line


def test_a_head_of_another_task():
    config = config_lib.load(f"{ROOT}/configs/retinanet.py:pvt_tiny", ("head.name=semantic_fpn",))
    with pytest.raises(UserError) as caught:
        TASKS["detection"].make(config_lib.read(config))
    heads = "retinanet, vit_frcnn, mask_rcnn, faster_rcnn, detr"
    assert str(caught.value) == f"head 'semantic_fpn' is not for task 'detection': set head.name to one of {heads}"


def test_a_detector_is_no_segmenter(folder):
    config = config_lib.load(f"{ROOT}/configs/semantic_fpn.py:pvt_tiny", ["head.name=detr"])
    with pytest.raises(UserError) as caught:
        TASKS["segmentation"].make(config_lib.read(config))
    heads = "semantic_fpn, segformer, trans2seg"
    assert str(caught.value) == f"head 'detr' is not for task 'segmentation': set head.name to one of {heads}"


def test_a_limit_of_objects(folder):
    task = task_of(folder, "detection.max_objects=2")
    assert task.train_source.most_objects() > 2
    for batch in batches_of(task, 2):
        assert batch["boxes"].shape[1] == 2 and batch["valid"].sum(axis=1).max() == 2


def test_fewer_queries_than_objects(folder):
    task = task_of(folder, "head.num_queries=3", head="detr")
    most = task.train_source.most_objects()
    assert most > 3
    (batch,) = batches_of(task, 1)
    with pytest.raises(UserError, match=f"head.num_queries is 3, but there are images with up to {most} ") as caught:
        traced_loss(task, batch)
    assert "\n" not in str(caught.value)


# Training.


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Eight images of one size, and as many of which one alone has objects."""
    root = tmp_path_factory.mktemp("eight")
    write_images(root / "full", train=[(64, 64)] * 8, held_out=[(64, 64)], empty=())
    write_images(root / "empty", train=[(64, 64)] * 8, held_out=[(64, 64)], empty=(0, 2, 3, 4, 5, 6, 7))
    return root


def fixed_batch(root, head):
    task = task_of(
        root, "detection.short_sides=(64,)", "batch_size=8", "detection.mask_side=14", "data.threads=1", head=head
    )
    (batch,) = batches_of(task, 1)
    batch.pop("corrupt")
    return task, batch


@pytest.mark.parametrize(
    ("head", "rate", "share"), [("retinanet", 1e-2, 0.5), ("mask_rcnn", 5e-3, 0.5), ("detr", 3e-3, 0.45)]
)
def test_eight_images_are_learnt(eight, head, rate, share):
    """In 60 steps the loss falls to a share; then two steps on images of which hardly any has an object."""
    task, batch = fixed_batch(eight / "full", head)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def update(params, state, batch, seed):
        key = jax.random.key(seed)
        loss = lambda params: task.loss({"params": params}, task.prepare(batch, key), key)[::2]  # noqa: E731
        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value, parts

    step: Any = jax.jit(update)
    # The hardware generator: the default one takes long to compile.
    params = jax.jit(task.init)(jax.random.key(0, impl="rbg"))["params"]
    state, losses = optimizer.init(params), []
    for seed in range(60):
        params, state, value, parts = step(params, state, batch, seed)
        losses.append(float(value))
        assert float(value) == pytest.approx(float(sum(parts.values())), rel=1e-5)
    assert np.mean(losses[-5:]) < share * losses[0], losses
    _, empty = fixed_batch(eight / "empty", head)
    places = batch["valid"].shape[1]
    for name in ("boxes", "labels", "valid", "masks"):
        if name in empty:
            gap = [(0, 0), (0, places - empty[name].shape[1])] + [(0, 0)] * (empty[name].ndim - 2)
            empty[name] = np.pad(empty[name], gap)
    assert empty["valid"].any(1).sum() == 1
    nothing = {**empty, "valid": np.zeros_like(empty["valid"]), "boxes": np.zeros_like(empty["boxes"])}
    for one in (empty, nothing):
        params, state, value, _ = step(params, state, one, 0)
        assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, state)))
    assert step._cache_size() == 1
