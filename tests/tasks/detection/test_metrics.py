"""AP by hand, AP as pycocotools has it, and detections that come from several hosts."""

import contextlib
import copy
import io
import json
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import mask as coco_masks

from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.instance_masks import encode, paste_and_encode, paste_mask
from pvt_jax.tasks.detection.metrics import DetectionResults, coco_metrics

NAMES = {2: "cat", 3: "dog", 7: "kite", 8: "unicorn", 90: "tree"}
CATEGORIES = [{"id": category, "name": name} for category, name in NAMES.items()]
WHOLE = ["AP", "AP50", "AP75", "AR"]


def truth(*annotations, images=(1, 2)):
    """Annotations (image, category, box, other entries) with numbers from 1."""
    rows = [
        {"id": 1 + i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        | more
        for i, (image, category, box, more) in enumerate(annotations)
    ]
    images = [{"id": image, "height": 200, "width": 200} for image in images]
    return {"images": images, "annotations": rows, "categories": CATEGORIES}


def detection(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


CAT, SECOND_CAT, DOG = [10, 20, 30, 20], [100, 100, 50, 60], [5, 5, 20, 20]


def test_average_precision_by_hand():
    """Of cats: right, wrong, right. At the 51 recalls up to 0.5 the precision is 1, at the 50 above it is 2/3."""
    ground_truth = truth((1, 2, CAT, {}), (2, 2, SECOND_CAT, {}), (2, 3, DOG, {}))
    results = [
        detection(1, 2, CAT, 0.9),
        detection(1, 2, [150, 150, 20, 20], 0.8),
        detection(2, 2, SECOND_CAT, 0.7),
        # Over 16 of 20 rows: the IoU 0.8 is enough seven times of ten.
        detection(2, 3, [5, 5, 20, 16], 0.3),
    ]
    found = coco_metrics(ground_truth, results, False, NAMES)
    cats = 100 * (51 + 50 * 2 / 3) / 101
    assert found == {
        "AP": pytest.approx((cats + 70) / 2),
        "AP50": pytest.approx((cats + 100) / 2),
        "AP75": pytest.approx((cats + 100) / 2),
        # Of 600 and 400 pixels; the wrong one has 400, too.
        "AP_small": pytest.approx((100 + 70) / 2),
        "AP_medium": pytest.approx(100),
        "AR": pytest.approx((100 + 70) / 2),
        "AP/cat": pytest.approx(cats),
        "AP/dog": pytest.approx(70),
    }
    # Shown first are the headlines, in this order.
    assert list(found)[:3] == ["AP", "AP50", "AP75"]


def test_a_range_is_that_of_the_annotated_area():
    found = coco_metrics(truth((1, 2, CAT, {"area": 9000.0})), [detection(1, 2, CAT, 0.5)], False, NAMES)
    assert found["AP_medium"] == 100 and "AP_small" not in found
    without = truth((1, 2, CAT, {}))
    del without["annotations"][0]["area"], without["annotations"][0]["iscrowd"]
    found = coco_metrics(without, [detection(1, 2, CAT, 0.5)], False, NAMES)
    assert found["AP_small"] == 100 and "AP_medium" not in found


def test_crowds_are_neither_found_nor_missed():
    ground_truth = truth((1, 2, CAT, {}), (1, 2, [100, 100, 80, 80], {"iscrowd": 1}))
    inside = detection(1, 2, [110, 110, 20, 20], 0.9)
    found = coco_metrics(ground_truth, [inside, detection(1, 2, CAT, 0.8)], False, NAMES)
    assert found["AP"] == pytest.approx(100)
    ground_truth["annotations"][1]["iscrowd"] = 0
    found = coco_metrics(ground_truth, [inside, detection(1, 2, CAT, 0.8)], False, NAMES)
    assert found["AP"] == pytest.approx(100 * 51 * 0.5 / 101)


@pytest.mark.parametrize("masks", [False, True])
def test_without_detections_all_is_zero(masks):
    polygon = {"segmentation": [[10, 20, 40, 20, 40, 40, 10, 40]]}
    found = coco_metrics(truth((1, 2, CAT, polygon)), [], masks, NAMES)
    names = [*WHOLE, "AP_small", "AP/cat"]
    assert found == dict.fromkeys(names + ["mask_" + name for name in names] * masks, 0.0)


@pytest.mark.parametrize("results", [[], [detection(1, 2, CAT, 0.5)]])
def test_without_objects_the_whole_is_zero_and_parts_have_no_number(results):
    assert coco_metrics(truth(), results, False, NAMES) == dict.fromkeys(WHOLE, 0.0)
    assert coco_metrics(truth(images=()), [], True, NAMES) == dict.fromkeys(
        WHOLE + ["mask_" + name for name in WHOLE], 0.0
    )
    crowd = truth((1, 2, CAT, {"iscrowd": 1}))
    assert coco_metrics(crowd, results, False, NAMES) == dict.fromkeys(WHOLE, 0.0)


def test_objects_without_masks_are_not_found():
    polygon = {"segmentation": [[10, 20, 40, 20, 40, 40, 10, 40]]}
    ground_truth = truth((1, 2, CAT, polygon), (2, 2, SECOND_CAT, {}), (2, 2, DOG, {"segmentation": []}))
    mask = np.zeros((200, 200), bool)
    mask[20:40, 10:40] = True
    results = [
        detection(1, 2, CAT, 0.9) | {"segmentation": encode(mask)},
        detection(2, 2, SECOND_CAT, 0.8) | {"segmentation": encode(mask)},
    ]
    found = coco_metrics(ground_truth, results, True, NAMES)
    assert found["AP"] == pytest.approx(100 * 67 / 101)
    assert found["mask_AP"] == found["mask_AP/cat"] == pytest.approx(100 * 34 / 101)


def test_none_is_as_nothing():
    nothing: dict[str, Any] = {"area": None, "iscrowd": None, "segmentation": None}
    ground_truth = truth((1, 2, CAT, nothing), (2, 2, [100, 100, 80, 80], nothing))
    results = [detection(1, 2, CAT, 0.9) | {"segmentation": encode(np.ones((200, 200), bool))}]
    found = coco_metrics(ground_truth, results, True, NAMES)
    assert found["AP"] == pytest.approx(100 * 51 / 101) and found["mask_AP"] == 0
    # By the areas of the boxes, 600 and 6400.
    assert found["AP_small"] == pytest.approx(100) and found["AP_medium"] == 0


def test_other_categories_do_not_count():
    ground_truth = truth((1, 2, CAT, {}), (1, 3, DOG, {}))
    results = [detection(1, 2, CAT, 0.9), detection(1, 3, SECOND_CAT, 0.9), detection(1, 55, CAT, 0.9)]
    found = coco_metrics(ground_truth, results, False, {2: "cat"})
    assert found["AP"] == found["AP/cat"] == pytest.approx(100) and "AP/dog" not in found


def test_results_that_cannot_be_evaluated():
    results = [detection(1, 2, CAT, 0.9), detection(5, 2, CAT, 0.9)]
    with pytest.raises(UserError) as error:
        coco_metrics(truth((1, 2, CAT, {})), results, False, NAMES)
    assert str(error.value) == "there are results for image 5, which is not in the ground truth: use its image ids"
    with pytest.raises(UserError) as error:
        coco_metrics(truth((1, 2, CAT, {})), results[:1], True, NAMES)
    assert str(error.value) == "a result of image 1 has no segmentation: evaluate what the model predicts"


def data_set(seed, count=200):
    """Ground truth and results of everything that may occur, as in a file.

    Ids have gaps and come in no order; there are crowds, empty images, images without detections, classes without
    objects, classes without detections, equal scores, and images of more than 100 detections of a class. Annotated
    areas are not those of the boxes.
    """
    random = np.random.default_rng(seed)
    ground_truth = {"images": [], "annotations": [], "categories": CATEGORIES}
    results = []
    for number, image_id in enumerate(random.choice(10**6, count, replace=False).tolist()):
        height, width = (int(side) for side in random.integers(100, 320, 2))
        ground_truth["images"].append({"id": image_id, "height": height, "width": width})
        # Of unicorns there is none.
        objects = [
            (int(random.choice([2, 3, 7, 90])), random_box(random, height, width))
            for _ in range(0 if number % 9 == 0 else random.integers(1, 8))
        ]
        ground_truth["annotations"] += [annotated(random, image_id, *found, height, width) for found in objects]
        many = number % 50 == 1
        for _ in range(0 if number % 7 == 0 else 150 if many else random.integers(1, 20)):
            box = random_box(random, height, width)
            category = int(random.choice([2, 3, 8, 90]))
            if objects and random.random() < 0.7:
                category, box = objects[random.integers(len(objects))]
                noise = random.normal(0, random.choice([0.01, 0.04, 0.1]), 4)
                box = box + noise * np.tile(box[2:] - box[:2], 2)
                box[2:] = np.maximum(box[2:], box[:2] + 1)
            box = box.astype(np.float32)
            x1, y1, x2, y2 = box.tolist()
            (mask,) = paste_and_encode(disc(random)[None], box[None], height, width)
            score = float(np.float32(random.choice([0.1, 0.25, 0.5, random.random()])))
            if category != 7:  # No kite is detected.
                row = detection(image_id, 3 if many else category, [x1, y1, x2 - x1, y2 - y1], score)
                results.append(row | {"segmentation": mask})
    random.shuffle(ground_truth["annotations"])
    numbers = 1 + random.choice(10**6, len(ground_truth["annotations"]), replace=False)
    for annotation, number in zip(ground_truth["annotations"], numbers.tolist(), strict=True):
        annotation["id"] = number
    return ground_truth, results


def random_box(random, height, width):
    size = np.exp(random.uniform(np.log(6), np.log((width, height))))
    start = random.uniform(0, 1, 2) * ((width, height) - size)
    return np.concatenate([start, start + size])


def annotated(random, image_id, category, box, height, width):
    """A polygon of one or two parts, or run lengths as text or, for crowds as in COCO, as numbers."""
    x1, y1, x2, y2 = box.tolist()
    crowd = random.random() < 0.1
    if random.random() < 0.3:
        mask = paste_mask(disc(random), box.astype(np.float32), height, width)
        segmentation = encode(mask)
        if crowd:
            down = np.concatenate([[False], mask.T.ravel()])
            edges = [0, *np.flatnonzero(down[1:] != down[:-1]).tolist(), mask.size]
            segmentation = {"size": [height, width], "counts": np.diff(edges).tolist()}
    else:
        angles = np.sort(random.uniform(0, 2 * np.pi, 20))
        xs, ys = (x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(angles), (y1 + y2) / 2 + (y2 - y1) / 2 * np.sin(angles)
        segmentation = [np.stack([xs, ys], -1).ravel().tolist()]
        if random.random() < 0.3:
            segmentation.append([x1, y1, x1 + 5.5, y1, x1 + 5.5, y1 + 4.2])
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1) * random.uniform(0.3, 1),
        "iscrowd": int(crowd),
        "segmentation": segmentation,
    }


def disc(random):
    """Probabilities on a grid, high within a circle that fills it about."""
    rows, columns = np.mgrid[:28, :28] - 13.5
    return 0.9 * ((rows**2 + columns**2) * random.uniform(0.8, 1.2) < 14**2).astype(np.float32)


def oracle(ground_truth, results, kind):
    """The twelve numbers of pycocotools and the AP of each class, by our names; -1 where no object is."""
    pycocotools = pytest.importorskip(
        "pycocotools.cocoeval", reason="pycocotools is an oracle that make test ORACLES=1 installs"
    )
    coco = pytest.importorskip("pycocotools.coco")
    ground_truth, results = copy.deepcopy((ground_truth, results))
    if kind == "segm":
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = ground_truth
        data.createIndex()
        evaluator = pycocotools.COCOeval(data, data.loadRes(results), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    prefix = {"bbox": "", "segm": "mask_"}[kind]
    places = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR": 8}
    expected = {prefix + name: evaluator.stats[place] for name, place in places.items()}
    for k, category in enumerate(evaluator.params.catIds):
        precision = evaluator.eval["precision"][:, :, k, 0, -1]
        expected[f"{prefix}AP/{NAMES[category]}"] = precision[precision > -1].mean() if precision.max() > -1 else -1
    return expected


@pytest.mark.parametrize("seed", range(2))
def test_average_precision_is_that_of_pycocotools(seed):
    ground_truth, results = data_set(seed)
    assert any(annotation["iscrowd"] for annotation in ground_truth["annotations"])
    found = coco_metrics(ground_truth, results, True, NAMES)
    expected = oracle(ground_truth, results, "bbox") | oracle(ground_truth, results, "segm")
    for name, value in expected.items():
        if name.endswith("unicorn"):
            assert value == -1 and name not in found
        else:
            # 1e-9 of what lies between 0 and 1.
            assert found.pop(name) == pytest.approx(100 * value, rel=0, abs=1e-7), name
    assert not found
    assert expected["AP/kite"] == 0
    assert all(0.01 < expected[name] < 0.99 for name in ("AP", "AP_small", "AP_large", "mask_AP_medium", "AR"))


def test_numbers_of_annotations_and_the_order_of_all_do_not_matter():
    ground_truth, results = data_set(3, 60)
    expected = coco_metrics(ground_truth, results, True, NAMES)
    assert 1 < expected["mask_AP"] < 99
    changed = copy.deepcopy(ground_truth)
    for number, annotation in enumerate(changed["annotations"]):
        # From 0, which marks no match in pycocotools, and some twice.
        annotation["id"] = number // 2
    changed["images"].reverse()
    assert coco_metrics(changed, results, True, NAMES) == expected
    # Texts in place of numbers, in the same order.
    for row in [*changed["annotations"], *results]:
        row["image_id"] = f"{row['image_id']:09d}"
    for image in changed["images"]:
        image["id"] = f"{image['id']:09d}"
    assert coco_metrics(changed, results, True, NAMES) == expected


def test_nothing_is_changed_or_printed(capfd):
    ground_truth, results = data_set(4, 30)
    before = copy.deepcopy((ground_truth, results))
    coco_metrics(ground_truth, results, True, NAMES)
    assert (ground_truth, results) == before
    assert capfd.readouterr() == ("", "")


# Collected detections.


def predicted(random, count, masks=True):
    corners, sizes = random.uniform(-5, 60, (count, 2)), random.uniform(0, 40, (count, 2))
    return {
        "boxes": np.concatenate([corners, corners + sizes], axis=1).astype(np.float32),
        "scores": random.random(count).astype(np.float32),
        "labels": random.integers(0, 5, count).astype(np.int32),
        "masks": random.random((count, 28, 28)).astype(np.float32) if masks else None,
        "size": (70, 90),
    }


def test_results_have_the_exact_numbers_of_what_was_added():
    random = np.random.default_rng(0)
    added = {12: predicted(random, 3), 4: predicted(random, 0), 9: predicted(random, 2, masks=False)}
    collected = DetectionResults()
    for image_id, arrays in added.items():
        collected.add(image_id, **arrays)
    assert len(collected) == 3
    rows = collected.results(list(NAMES))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["image_id"] for row in rows] == [9, 9, 12, 12, 12]
    for row, (image_id, i) in zip(rows, [(9, 0), (9, 1), (12, 0), (12, 1), (12, 2)], strict=True):
        arrays = added[image_id]
        x, y, width, height = row["bbox"]
        np.testing.assert_array_equal(np.float32([x, y, x + width, y + height]), arrays["boxes"][i])
        assert np.float32(row["score"]) == arrays["scores"][i]
        assert row["category_id"] == list(NAMES)[arrays["labels"][i]]
        if image_id == 9:
            assert "segmentation" not in row
        else:
            expected = paste_mask(arrays["masks"][i], arrays["boxes"][i], 70, 90)
            np.testing.assert_array_equal(coco_masks.decode(row["segmentation"]), expected)


def test_parts_of_several_hosts_merge_into_the_whole():
    random = np.random.default_rng(1)
    # The last ones fill up the batches of two hosts with images of others.
    images = [(i, predicted(random, i % 4)) for i in range(20)] + [("a", predicted(random, 3))]
    whole, parts = DetectionResults(), [DetectionResults() for _ in range(4)]
    for number, (image_id, arrays) in enumerate([*images, images[0], images[1]]):
        whole.add(image_id, **arrays)
        parts[number % 3].add(image_id, **arrays)
    merged = DetectionResults()
    # The fourth has seen nothing.
    for part in reversed(parts):
        merged.merge(DetectionResults.from_bytes(part.to_bytes()))
    assert len(merged) == len(whole) == 21
    rows = merged.results(list(NAMES))
    assert rows == whole.results(list(NAMES))
    assert len(rows) == sum(len(arrays["scores"]) for _, arrays in images)


def test_an_image_counts_once():
    random = np.random.default_rng(2)
    collected = DetectionResults()
    collected.add(3, **predicted(random, 2))
    before = collected.results(list(NAMES))
    collected.add(3, **predicted(random, 4))
    other = DetectionResults()
    other.add(3, **predicted(random, 5))
    collected.merge(other)
    assert collected.results(list(NAMES)) == before


def test_numbers_that_are_none_are_dropped():
    arrays = predicted(np.random.default_rng(3), 5)
    arrays["scores"][0] = np.nan
    arrays["boxes"][1, 2] = np.inf
    arrays["masks"][2, 3, 4] = np.nan
    collected = DetectionResults()
    collected.add(1, **arrays)
    rows = collected.results(list(NAMES))
    assert [np.float32(row["score"]) for row in rows] == arrays["scores"][3:].tolist()
    assert all(row["segmentation"]["counts"] for row in rows)


def test_bytes_hold_no_pickle_and_are_small():
    random = np.random.default_rng(4)
    collected = DetectionResults()
    for image_id in range(50):
        collected.add(image_id, **predicted(random, 100, masks=False))
    data = collected.to_bytes()
    assert len(data) < 50 * 100 * 24 + 5000
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_perfect_masks_have_full_precision():
    """From the grid of a mask head to the AP of an image."""
    collected = DetectionResults()
    size = (96, 128)
    boxes = np.array([[10, 20, 66, 76], [64, 4, 120, 32]], np.float32)
    # The grid's cells are two pixels wide: what is pasted at their centres is exact.
    grids = np.zeros((2, 28, 28), np.float32)
    grids[0, 4:, :20] = 1
    grids[1] = 1
    collected.add(0, boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1]), grids, size)
    ground_truth = truth((0, 2, [10, 20, 56, 56], {}), (0, 3, [64, 4, 56, 28], {}), images=[0])
    ground_truth["images"][0] |= {"height": size[0], "width": size[1]}
    for annotation, polygon in zip(
        ground_truth["annotations"],
        [[10, 28, 50, 28, 50, 76, 10, 76], [64, 4, 120, 4, 120, 32, 64, 32]],
        strict=True,
    ):
        annotation["segmentation"] = [polygon]
    found = coco_metrics(ground_truth, collected.results(list(NAMES)), True, NAMES)
    for name in ("AP", "AP75", "mask_AP", "mask_AP75", "mask_AP_medium", "mask_AR"):
        assert found[name] == pytest.approx(100)
