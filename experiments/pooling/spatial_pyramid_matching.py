"""Spatial pyramid matching as a classifier of its own: on a run's feature maps, or on images without any network.

    python experiments/pooling/spatial_pyramid_matching.py runs/digits --map c3
    python experiments/pooling/spatial_pyramid_matching.py configs/digits.py --raw sift --patch 8 --step 4

"Beyond Bags of Features: Spatial Pyramid Matching for Recognizing Natural Scene Categories" (Lazebnik, Schmid and
Ponce, CVPR 2006): visual words by k-means over dense local descriptors, histograms of words over a pyramid of cells
(section 3), and one-versus-all support vector machines on the histogram intersection kernel (section 4). It learns
from the training images of a run and is evaluated on its test images, both as the run's evaluation sees them.
--levels 1 is a bag of words, without any layout.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pvt_jax import commands  # noqa: E402
from pvt_jax import config as config_lib  # noqa: E402
from pvt_jax.errors import UserError  # noqa: E402
from pvt_jax.messages import plural  # noqa: E402
from pvt_jax.nn.pyramid_pooling import pyramid_match_kernel, visual_words, word_histograms  # noqa: E402
from pvt_jax.prediction.trained import Choices, open_trained  # noqa: E402
from pvt_jax.tasks import TASKS  # noqa: E402

MAPS = ("c2", "c3", "c4", "c5")
# uint8 images [b, h, w, 3] → a descriptor at each position.
Describe = Callable[[Any], Any]
FOLDS = 3


# Descriptors.


def dense_patches(images: UInt8[np.ndarray, "b h w 3"], side: int, step: int) -> Float[np.ndarray, "b r c d"]:
    """Pixels of square patches, contrast-normalised as by Coates, Lee and Ng (AISTATS 2011, section 3.1)."""
    _check_patch(images, side, step)
    patches = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))[:, ::step, ::step]
    pixels = patches.reshape(*patches.shape[:3], -1).astype(np.float32)
    centred = pixels - pixels.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 10)


def dense_sift(images: UInt8[np.ndarray, "b h w 3"], side: int, step: int) -> Float[np.ndarray, "b r c 128"]:
    """Upright SIFT descriptors of square patches (paper, section 4: of 16×16 pixels, every 8)."""
    _check_patch(images, side, step)
    rows, columns = (range(0, size - side + 1, step) for size in images.shape[1:3])
    centre, cells = (side - 1) / 2, 4
    # OpenCV's cells have 1.5 times a keypoint's diameter.
    points = [cv2.KeyPoint(j + centre, i + centre, side / cells / 1.5, 0.0) for i in rows for j in columns]
    sift, found = cv2.SIFT.create(), []
    for image in images:
        _, descriptors = sift.compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), points)
        found.append(descriptors.reshape(len(rows), len(columns), 128))
    return np.stack(found)


def _check_patch(images: UInt8[np.ndarray, "b h w 3"], side: int, step: int) -> None:
    height, width = images.shape[1:3]
    if min(side, step) < 1 or side > min(height, width):
        raise UserError(
            f"--patch {side} and --step {step} must be above 0, and a patch fit into {height}×{width} pixels"
        )


# The classifier.


def learn_words(
    batches: Iterator[tuple[Any, Any]], describe: Describe, num_images: int, num_words: int, sample: int, seed: int
) -> Float[Array, "k d"]:
    """The vocabulary, from about ``sample`` descriptors, equally many of each image."""
    rng, each, drawn = np.random.default_rng(seed), -(-sample // num_images), []
    for images, _ in batches:
        maps = np.asarray(describe(images), np.float32)
        columns = maps.reshape(len(maps), -1, maps.shape[-1])
        chosen = rng.random(columns.shape[:2]).argsort(1)[:, :each]
        drawn.append(np.take_along_axis(columns, chosen[..., None], 1).reshape(-1, maps.shape[-1]))
    features = np.concatenate(drawn)
    if num_words > len(features):
        raise UserError(f"--words {num_words} are more than {plural(len(features), 'descriptor')}: give fewer words")
    return jax.jit(visual_words, static_argnums=1)(jnp.asarray(features), num_words, jax.random.key(seed))


def pyramids(
    batches: Iterator[tuple[Any, Any]], describe: Describe, words: Float[Array, "k d"], levels: Sequence[int]
) -> tuple[Float[np.ndarray, "n p"], Int[np.ndarray, " n"]]:
    """(weighted histograms, labels) of all images."""
    count = jax.jit(partial(word_histograms, levels=tuple(levels)))
    found, labels = [], []
    for images, classes in batches:
        found.append(np.asarray(count(jnp.asarray(describe(images)), words)))
        labels.append(classes)
    return np.concatenate(found), np.concatenate(labels)


def fit(kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"], costs: Sequence[float], seed: int) -> Any:
    """One-versus-all machines on a kernel; of several ``costs`` the best in cross-validation of the training images.

    Raises UserError: there is one class, or a class is too small to be divided.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise UserError("all training images are of one class: there is nothing to tell apart")
    machines = OneVsRestClassifier(SVC(kernel="precomputed", C=costs[0]))
    if len(costs) > 1:
        if sizes.min() < FOLDS:
            raise UserError(
                f"class {classes[sizes.argmin()]} has {plural(int(sizes.min()), 'training image')}, and the best of "
                f"several --C is found by {FOLDS} folds: give one --C"
            )
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        machines = GridSearchCV(machines, {"estimator__C": list(costs)}, cv=folds)
    return machines.fit(kernel, labels)


def cost_of(machines: Any) -> float:
    """The C of what ``fit`` returned."""
    return getattr(machines, "best_estimator_", machines).estimator.C


def intersections(a: Float[np.ndarray, "m p"], b: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "m n"]:
    """The kernel between images, 1 for an image and itself."""
    return np.asarray(jax.jit(pyramid_match_kernel)(jnp.asarray(a), jnp.asarray(b)), np.float64)


# Images.


class Chosen:
    """Some records of a source."""

    def __init__(self, source: Any, records: Sequence[int]):
        self._source, self._records = source, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._records[index]]

    def name(self, index: int) -> str:
        return self._source.name(self._records[index])


def image_batches(config: Any, source: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of a source, as an evaluation sees them; images that cannot be decoded are left out."""
    task: Any = TASKS[config.task].make(config)
    task.eval_source = source
    for batch in task.evaluation_batches((0, 1), 1):
        there = batch["mask"]
        yield batch["image"][there], batch["label"][there]


def opened(flags: argparse.Namespace) -> tuple[Any, Describe]:
    """(config, descriptors) of what the flags name. Raises UserError: it cannot be read, or is of another task."""
    if flags.raw and Path(flags.source.partition(":")[0]).suffix == ".py":
        config, trained = config_lib.read(config_lib.load(flags.source, flags.overrides)), None
    else:
        trained = open_trained(flags.source, Choices(overrides=tuple(flags.overrides)))
        config = trained.config
    if config.task != "classification":
        raise UserError(f"{flags.source} is of task {config.task!r}, whose images have no label: give a classifier's")
    if flags.raw:
        return config, partial(
            {"patches": dense_patches, "sift": dense_sift}[flags.raw], side=flags.patch, step=flags.step
        )
    assert trained is not None
    task: Any = trained.task

    @jax.jit
    def features(variables: Any, images: Any) -> Any:
        return task.model.apply(variables, task.normalise(images), method="features")[flags.map].astype(jnp.float32)

    return config, partial(features, trained.variables)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; what was measured."""
    begun = time.perf_counter()
    config, describe = opened(flags)
    seed = config.seed if flags.seed is None else flags.seed
    task: Any = TASKS[config.task].make(config)
    train, test = task.train_source, task.eval_source
    if 0 < flags.images < len(train):
        train = Chosen(train, np.sort(np.random.default_rng(seed).permutation(len(train))[: flags.images]).tolist())
    commands.say(f"vocabulary of {flags.words} words, from {len(train):,} training images")
    words = learn_words(image_batches(config, train), describe, len(train), flags.words, flags.sample, seed)
    commands.say(f"histograms of {len(train):,} training and {len(test):,} test images")
    known, labels = pyramids(image_batches(config, train), describe, words, flags.levels)
    asked, truth = pyramids(image_batches(config, test), describe, words, flags.levels)
    commands.say(f"support vector machines of {len(np.unique(labels))} classes")
    machines = fit(intersections(known, known), labels, flags.C, seed)
    right = int((machines.predict(intersections(asked, known)) == truth).sum())
    return {
        "top1": 100 * right / len(truth),
        "vocabulary": flags.words,
        "levels": list(flags.levels),
        "descriptors": flags.raw or flags.map,
        "channels": int(words.shape[1]),
        "C": cost_of(machines),
        "train_images": len(labels),
        "test_images": len(truth),
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 2),
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags."""
    parser = commands.Parser(prog="python experiments/pooling/spatial_pyramid_matching.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="SOURCE", help="the workdir of a classifier's run; with --raw also a config")
    described = parser.add_mutually_exclusive_group()
    described.add_argument("--map", choices=MAPS, default="c3", help="the columns of this feature map; default c3")
    described.add_argument("--raw", choices=("patches", "sift"), help="pixels or SIFT descriptors, without a network")
    parser.add_argument("--patch", type=int, default=8, metavar="PIXELS", help="side of a raw patch; default 8")
    parser.add_argument("--step", type=int, default=4, metavar="PIXELS", help="from patch to patch; default 4")
    parser.add_argument("--words", type=int, default=200, help="size of the vocabulary; default 200")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 4], metavar="CELLS", help="default 1 2 4")
    parser.add_argument("--C", type=float, nargs="+", default=[1.0, 10.0, 100.0], help="penalties to choose among")
    parser.add_argument(
        "--images", type=int, default=5000, help="at most so many for training, 0 for all; default 5000"
    )
    parser.add_argument("--sample", type=int, default=20000, help="descriptors for the vocabulary; default 20000")
    parser.add_argument(
        "--seed", type=int, help="of the drawn images, of k-means, and of the folds; default: that of the run or config"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = commands.parse_with_overrides(parser, arguments)
    for name in ("words", "sample", "patch", "step"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} must be above 0, but is {getattr(flags, name)}")
    if min(flags.levels) < 1 or min(flags.C) <= 0 or flags.images < 0:
        raise UserError("--levels and --C must be above 0, and --images not below")
    return flags


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    flags = parse(arguments)
    found = measure(flags)
    if flags.json:
        print(json.dumps(found))
    else:
        print(
            f"top1 {found['top1']:.2f} % of {found['test_images']:,} test images: {found['vocabulary']} words of "
            f"{found['descriptors']}, levels {' '.join(map(str, found['levels']))}, C {found['C']:g}, "
            f"{found['train_images']:,} training images, {found['seconds']:.0f} s"
        )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 for bad input, with one line."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
