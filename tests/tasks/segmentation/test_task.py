"""The task as a run uses it: evaluation of images of several sizes, and the loss, against arithmetic of their own."""

import functools
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax import config as config_lib
from pvt_jax import main
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.segmentation.examples import image_and_label_map
from pvt_jax.tasks.segmentation.pictures import side_by_side
from pvt_jax.training.build import build
from pvt_jax.training.evaluate import Evaluator
from pvt_jax.training.sharding import make_mesh
from tests.helpers.command import ROOT, records
from tests.helpers.dense import random_variables
from tests.helpers.resampling import bilinear
from tests.helpers.runs import saved_steps
from tests.helpers.segmentation_data import write_label_folder

CLASSES = 4
# Three sizes: the network sees 64×96, 96×128 and 128×128.
SIZES = [(48, 70), (77, 99), (106, 128), (48, 70), (77, 99)]
SHRUNK = (
    "model.depths=(1,1,1,1)",
    "model.dims=(8,8,12,16)",
    "head.channels=8",
    "head.neck_channels=8",
    "head.dropout_rate=0.0",
    "batch_size=4",
    "evaluation.batch_size=2",
    "data.threads=2",
    "segmentation.scale=(0,0)",
    "segmentation.crop_size=(64,64)",
)
# Of two classes whose scores are closer than this, rounding to float32 decides.
TIE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images of three sizes, two rows of each ignored."""
    root = tmp_path_factory.mktemp("images")
    write_label_folder(
        root, count=4, eval_count=len(SIZES), size=SIZES[0], growth=29, num_classes=CLASSES, first_label=1
    )
    return root


def config_of(folder, *overrides):
    """configs/segmentation_folder.py of the folder, with a network of a few channels."""
    overrides = (*SHRUNK, "segmentation.reduce_zero_label=True", *overrides)
    if not any(override.startswith("model.name") for override in overrides):
        overrides = (*overrides, "model.num_heads=(1,1,1,2)")
    return config_lib.load(f"{ROOT}/configs/segmentation_folder.py:{folder},{CLASSES}", overrides)


def task_of(folder, *overrides) -> Any:
    return TASKS["segmentation"].make(config_lib.read(config_of(folder, *overrides)))


def variables_of(task):
    """Random, but so that each class is the highest somewhere."""
    variables = random_variables(task.model, jnp.zeros((1, 64, 64, 3)))
    classifier = variables["params"]["head"]["classifier"]
    # What it reads is positive, by a ReLU: that should favour no class.
    classifier["kernel"] -= classifier["kernel"].mean(0)
    return variables


def evaluated(task):
    """(confusion matrix, label map of each record, batches) of the whole evaluation set."""
    step, variables = jax.jit(task.evaluate), variables_of(task)
    total, predicted, batches = np.zeros((CLASSES, CLASSES), np.int64), {}, []
    for batch in task.evaluation_batches((0, 1), 1):
        records, _ = batch.pop("record"), batch.pop("corrupt")
        sums, predictions = step(variables, batch)
        total += np.asarray(sums["confusion"])
        for row in np.flatnonzero(batch["mask"]):
            height, width = batch["label_size"][row]
            predicted[int(records[row])] = np.asarray(predictions["label_map"])[row, :height, :width]
        batches.append({**batch, "record": records})
    return total, predicted, batches


@functools.partial(jax.jit, static_argnums=0)
def scores_of(model, variables, images):
    return model.apply(variables, images)


def alone(task, window=(0, 0), stride=(0, 0)):
    """Scores [h, w, k] of each record and its truth: image by image, never padded, resampled by NumPy in float64.

    With ``window`` and ``stride`` as mmsegmentation's ``slide_inference`` and ``aug_test``.
    """
    config, variables = task._config, variables_of(task)
    mean, std = (np.array(getattr(config.batch_transform, name)) for name in ("mean", "std"))

    def enlarged(image):
        scores = np.asarray(scores_of(task.model, variables, image[None].astype(np.float32))[0])
        # As transformers does, squashed images' are resized once.
        return scores if any(config.segmentation.test_squash) else bilinear(scores, image.shape[:2])

    def starts(side, crop, step):
        return [max(min(i * step + crop, side) - crop, 0) for i in range(max(side - crop + step - 1, 0) // step + 1)]

    def slid(image):
        total, count = np.zeros((*image.shape[:2], CLASSES)), np.zeros((*image.shape[:2], 1))
        for top in starts(image.shape[0], window[0], stride[0]):
            for left in starts(image.shape[1], window[1], stride[1]):
                box = (slice(top, top + window[0]), slice(left, left + window[1]))
                total[box] += enlarged(image[box])
                count[box] += 1
        return total / count

    found, truths = [], []
    for record, size in enumerate(SIZES):
        image, truth = image_and_label_map(task.eval_source, record)
        assert truth.shape == size
        scores = []
        for view in task._views:
            normalised = (view(image) - mean) / std
            for flip in (False, True)[: 1 + config.segmentation.test_flip]:
                seen = normalised[:, ::-1] if flip else normalised
                pixels = enlarged(seen) if window == (0, 0) else slid(seen)
                scores.append(bilinear(pixels[:, ::-1] if flip else pixels, size))
        found.append(scores[0] if len(scores) == 1 else np.mean([softmax(one) for one in scores], axis=0))
        truths.append(truth)
    return found, truths


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def counted(predicted, truths):
    """A confusion matrix by NumPy."""
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    for labels, truth in zip(predicted, truths, strict=True):
        valid = truth != 255
        np.add.at(matrix, (truth[valid], labels[valid]), 1)
    return matrix


def assert_as_alone(task, scores, truths):
    """Every pixel that is no tie is predicted alike, and every one is counted."""
    confusion, predicted, batches = evaluated(task)
    ties = 0
    for record, expected in enumerate(scores):
        best = np.sort(expected, axis=-1)
        clear = best[..., -1] - best[..., -2] > TIE
        ties += np.count_nonzero(~clear)
        np.testing.assert_array_equal(predicted[record][clear], expected.argmax(-1)[clear])
    np.testing.assert_array_equal(confusion, counted([predicted[i] for i in range(len(SIZES))], truths))
    # A tie that falls otherwise moves one pixel from a cell to another.
    difference = np.abs(confusion - counted([one.argmax(-1) for one in scores], truths)).sum()
    assert difference <= 2 * ties and ties <= 0.001 * sum(height * width for height, width in SIZES)
    assert (confusion.sum(0) > 0).all(), "a class is never predicted"
    return confusion, predicted, batches


def test_padded_batches_predict_what_each_image_gives_alone(folder):
    """One padded shape, or one for each size, in which nothing is masked: the same label maps."""
    scores, truths = alone(task_of(folder))
    for shapes in (1, 8):
        task = task_of(folder, f"segmentation.test_shapes={shapes}")
        confusion, _, batches = assert_as_alone(task, scores, truths)
        assert len({batch["image0"].shape for batch in batches}) == min(shapes, 3)
        assert bool(task._buckets.waste) == (shapes < 3)
        # Each record once; what fills the batches up is marked.
        records = np.concatenate([batch["record"] for batch in batches])
        assert sorted(records[records >= 0].tolist()) == list(range(len(SIZES)))
        np.testing.assert_array_equal(np.concatenate([batch["mask"] for batch in batches]), records >= 0)
        np.testing.assert_array_equal(confusion.sum(1), counted(truths, truths).sum(1))


def test_scales_and_mirrored_images_are_averaged(folder):
    overrides = ("segmentation.test_ratios=(0.75,1.0)", "segmentation.test_flip=True", "segmentation.test_shapes=1")
    task = task_of(folder, *overrides)
    assert_as_alone(task, *alone(task))


def test_squashed_images_are_all_of_one_size(folder):
    overrides = ("test_squash=(64,90)", "test_ratios=(1.0,1.5)", "test_flip=True", "test_shapes=1")
    task = task_of(folder, *(f"segmentation.{override}" for override in overrides))
    _, _, batches = assert_as_alone(task, *alone(task))
    for name, size in (("size0", (64, 96)), ("size1", (96, 160))):
        assert all((batch[name][batch["mask"]] == size).all() for batch in batches)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["test_squash=(64,0)"], r"must be \(height, width\) or \(0, 0\), but is \(64, 0\)"),
        (["test_squash=64", "test_mode=slide"], "evaluates whole images: add --config.segmentation.test_mode=whole"),
        (["test_interpolation=bicubic"], "is of segmentation.test_squash: leave it out, or set both"),
    ],
)
def test_squashing_is_checked(folder, overrides, words):
    with pytest.raises(UserError, match=words):
        task_of(folder, *(f"segmentation.{override}" for override in overrides))


def test_windows_larger_and_smaller_than_the_images(folder):
    task = task_of(
        folder,
        "segmentation.test_mode=slide",
        "segmentation.window=(96,96)",
        "segmentation.window_stride=(64,32)",
        "segmentation.test_shapes=1",
    )
    assert_as_alone(task, *alone(task, window=(96, 96), stride=(64, 32)))


def test_images_all_smaller_than_the_window(tmp_path):
    """Of one size, they fill their shapes: nothing is masked, and nothing may be padded up to the window."""
    write_label_folder(tmp_path, count=4, eval_count=2, size=(64, 96), num_classes=CLASSES, first_label=1)
    overrides = ("segmentation.test_mode=slide", "segmentation.window=(128,128)", "segmentation.window_stride=(96,96)")
    task = task_of(tmp_path, *overrides)
    _, predicted, _ = evaluated(task)
    _, whole, _ = evaluated(task_of(tmp_path))
    for record in range(2):
        assert (predicted[record] == whole[record]).mean() > 0.999


def test_what_fills_a_batch_up_counts_nothing(folder):
    task = task_of(folder, "segmentation.test_shapes=1", "evaluation.batch_size=4")
    (*_, batch) = task.evaluation_batches((0, 1), 1)
    batch = {name: value for name, value in batch.items() if name not in ("record", "corrupt")}
    assert batch["mask"].tolist() == [True, False, False, False]
    step, variables = jax.jit(task.evaluate), variables_of(task)
    expected = step(variables, batch)[0]["confusion"]
    batch["label_map"][1:] = 1
    batch["label_size"][1:] = batch["label_size"][0]
    batch["image0"][1:], batch["size0"][1:] = 255, batch["size0"][0]
    np.testing.assert_array_equal(step(variables, batch)[0]["confusion"], expected)
    assert expected.sum() == np.count_nonzero(batch["label_map"][0] != 255)


@pytest.mark.parametrize(
    ("window", "stride"), [("(100,96)", "(64,64)"), ("(96,96)", "(64,128)"), ("(64,64)", "(0,64)")]
)
def test_windows_are_checked_before_training(folder, window, stride):
    overrides = (f"segmentation.window={window}", f"segmentation.window_stride={stride}")
    with pytest.raises(UserError, match="multiples of 32, the stride at most the window"):
        task_of(folder, *overrides, "segmentation.test_mode=slide")
    task_of(folder, *overrides)  # Not read.


# The sums of an evaluation over all devices, as a run does it.
_COUNT = """
import json, sys
from tests.tasks.segmentation.test_task import confusion_of_a_run
print(json.dumps(confusion_of_a_run(sys.argv[1])))
"""


def confusion_of_a_run(folder):
    """Sums of the evaluator, over all devices."""
    task, mesh = task_of(folder, "batch_size=8", "segmentation.test_shapes=2"), make_mesh(1)
    variables, seen = variables_of(task), {}
    task.metrics = lambda sums: seen.update(sums) or {}
    Evaluator(task, mesh, pictures=0)(state_of(variables))
    return [mesh.size, seen["confusion"].astype(int).tolist()]


def state_of(variables) -> Any:
    return SimpleNamespace(variables=lambda ema=False: variables, ema_params=None)


def test_eight_devices_count_as_one(folder):
    """To the pixel; two padded shapes, and one image a device."""
    count, expected = confusion_of_a_run(folder)
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, str(folder)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    devices, found = json.loads(done.stdout.splitlines()[-1])
    assert (count, devices) == (1, 8)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("pictures", "names"), [(1, [0]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])])
def test_pictures_are_of_evenly_spaced_examples(folder, pictures, names):
    """However batches are filled up with padding."""
    task = task_of(folder, "segmentation.test_shapes=8")
    matrix = jnp.zeros((CLASSES, CLASSES), jnp.int32)
    task.evaluate = lambda variables, batch: ({"confusion": matrix}, {"label_map": batch["label_map"]})
    found: Any = Evaluator(task, make_mesh(1), pictures)(state_of({}))
    order = np.concatenate([np.flatnonzero(task._buckets.of == bucket) for bucket in range(3)])
    assert [name for name, _ in found.pictures] == [f"{order[place]:06d}" for place in names]
    for name, picture in found.pictures:
        # What was predicted here is the truth.
        image, truth = image_and_label_map(task.eval_source, int(name))
        source = task.eval_source
        expected = side_by_side(image, truth, truth, source.palette, source.class_names)
        np.testing.assert_array_equal(picture, expected)


def test_a_disk_too_full_for_pictures_loses_nothing(folder, tmp_path, capsys):
    """The step is saved; the next run evaluates it again, and it has one line."""
    overrides = ("segmentation.reduce_zero_label=True", "model.name=resnet18", "init.checkpoint=", "steps=2")
    overrides += ("evaluation.every_steps=1", "evaluation.pictures=2", "optimizer.warmup_epochs=0.0", *SHRUNK)
    flags = ["--config", f"{ROOT}/configs/segmentation_folder.py:{folder},{CLASSES}", "--workdir", str(tmp_path)]
    flags += [f"--config.{override}" for override in overrides]
    # What stands in the way of the folder fails as a full disk does.
    (tmp_path / "pictures").write_text("")
    assert main.main(flags) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: cannot write metrics to {tmp_path}: ")
    assert saved_steps(tmp_path) == [1] and not records(tmp_path, "eval")
    (tmp_path / "pictures").unlink()
    assert main.main(flags) == 0
    assert [line["step"] for line in records(tmp_path, "eval")] == [1, 2]
    names = ["000002.png", "000003.png"]  # The first and the last in their order by shape.
    assert all(sorted(path.name for path in (tmp_path / "pictures" / step).iterdir()) == names for step in "12")
    # Another head is another model.
    capsys.readouterr()
    assert main.main([*flags, "--config.head.channels=16", "--mode", "eval"]) == 2
    assert "head.channels: 8 → 16" in capsys.readouterr().err


# Training.


def batch_of(task) -> Any:
    batches = task.training_batches(0, (0, 1))
    batch = next(batches)
    batches.close()
    batch.pop("corrupt")
    return batch


def test_padding_is_zero_after_normalisation(folder):
    task = task_of(folder, "segmentation.scale_range=(0.4,0.6)", "segmentation.largest_share=1.0")
    batch = batch_of(task)
    images = np.asarray(task.prepare(batch, jax.random.key(0))["image"])
    mean, std = (np.array(getattr(task._config.batch_transform, name)) for name in ("mean", "std"))
    assert (batch["size"] < 64).any()
    for image, raw, (height, width) in zip(images, batch["image"], batch["size"], strict=True):
        assert not image[height:].any() and not image[:, width:].any()
        np.testing.assert_allclose(image[:height, :width], ((raw - mean) / std)[:height, :width], rtol=1e-5, atol=1e-5)


def test_the_loss_is_a_mean_over_valid_or_all_pixels(folder):
    """The first image has no pixel that counts; then none has."""
    task, over_all = task_of(folder), task_of(folder, "segmentation.loss_average=all")
    batch, key, variables = task.prepare(batch_of(task), jax.random.key(0)), jax.random.key(1), variables_of(task)
    labels = np.array(batch["label_map"])
    labels[0] = 255
    batch["label_map"] = jnp.asarray(labels)
    options = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
    logits, _ = jax.jit(lambda variables, images: task.model.apply(variables, images, **options))(
        variables, batch["image"]
    )
    scores = np.stack([bilinear(np.asarray(one), (64, 64)) for one in logits])
    probabilities = np.take_along_axis(softmax(scores), np.minimum(labels, CLASSES - 1)[..., None].astype(int), -1)
    losses = -np.log(probabilities[..., 0])[labels != 255]
    assert 0 < losses.size < 3 * 64 * 64
    valid = jax.jit(task.loss)
    assert float(valid(variables, batch, key)[0]) == pytest.approx(losses.mean(), rel=1e-4)
    assert float(jax.jit(over_all.loss)(variables, batch, key)[0]) == pytest.approx(
        losses.sum() / labels.size, rel=1e-4
    )
    nothing = {**batch, "label_map": jnp.full_like(batch["label_map"], 255)}
    assert float(valid(variables, nothing, key)[0]) == 0.0


@pytest.mark.parametrize("frozen", ["backbone", ""])
def test_a_frozen_backbone_computes_as_in_evaluation(folder, frozen):
    """Its statistics stay, and no branch of it is dropped; the head's statistics move in either case."""
    task = task_of(
        folder,
        "model.name=resnet18",
        "model.dims=(8,8,8,8)",
        "model.drop_path_rate=0.5",
        f"optimizer.frozen={frozen}",
    )
    batch, variables = task.prepare(batch_of(task), jax.random.key(0)), variables_of(task)
    loss = jax.jit(task.loss)
    values, changed = [], {}
    for seed in range(4):
        value, changed, _ = loss(variables, batch, jax.random.key(seed))
        values.append(float(value))
    assert (len(set(values)) == 1) == (frozen == "backbone")
    before, after = variables["batch_stats"], changed["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)

    def moved(part):
        same = jax.tree.map(
            lambda old, new: bool((np.asarray(old) == np.asarray(new)).all()), before[part], after[part]
        )
        return not any(jax.tree.leaves(same))

    assert moved("head")
    assert moved("backbone") == (not frozen)
    if frozen:
        jax.tree.map(np.testing.assert_array_equal, before["backbone"], after["backbone"])


def test_evaluation_does_not_mind_how_the_training_batch_is_shared(folder, monkeypatch):
    def refuse(*arguments):
        raise UserError("cannot be shared equally")

    monkeypatch.setattr("pvt_jax.training.sharding.check_batch", refuse)
    config = config_lib.read(config_of(folder, "init.checkpoint="))
    assert build(config, training=False).task.best_metric == "miou"
    with pytest.raises(UserError, match="cannot be shared equally"):
        build(config)
