"""Data sets, weights and configs as people have them, odd or bad, drawn from a seed, with what must come of them.

``python -m tests.helpers.odd_inputs 1000`` draws a thousand, and ends with code 1 if one gave a traceback, took over a
minute, was read wrongly, or was accepted or refused wrongly. ``FIRST`` as a second argument starts at another seed.
"""

import contextlib
import functools
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import jax
import numpy as np
from PIL import Image

import pvt_jax
from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.files.images import decoded
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.segmentation.examples import image_and_label_map
from pvt_jax.training import plausible
from pvt_jax.weights import names as names_lib
from pvt_jax.weights.files import write_safetensors

ROOT = Path(__file__).parents[2]
SECONDS = 60
NETWORK = ["model.name=pvt_v2_b0", "model.image_size=64", "init.checkpoint=", "batch_size=2", "data.threads=1"]
# Names in the order in which they sort, as classes of a folder are numbered.
NAMES = ("2 cats", "Dog", "a#1", "b.c", "emu", "x y", "água", "über", "日本")
STEMS = ("0", "IMG 1", "a.b", "ä", "x#y", "100%", "(2)", "Ω", "p+q", "[3]", "é_é", "a'b", "-4", "5&6")
SPLITS = (("train", "val"), ("training", "validation"), ("train", "valid"), ("Train", "Val"), ("train", "test"))
JUNK = ("Thumbs.db", ".DS_Store", "readme.md", "notes.txt", "phone.HEIC", "._0.jpg", "clip.mov", "noending")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


@dataclass(frozen=True)
class Case:
    """What was drawn.

    Attributes:
        what: a few words.
        run: reads it; raises UserError where it is refused, and AssertionError where what is read was not written.
        is_bad: whether it must be refused.
    """

    what: str
    run: Callable[[], None]
    is_bad: bool


def draw(seed: int, root: Path) -> Case:
    """Writes the input of ``seed`` into ``root``, which is there and empty."""
    rng = np.random.default_rng(seed)
    root = root / str(rng.choice(["data", "my data", "données", "a=b", "100%"]))
    root.mkdir()
    kinds = (_class_folders, _label_maps, _coco, _voc, _weights, _numbers)
    return kinds[seed % len(kinds)](rng, root)


def failure(case: Case) -> str:
    """What is wrong with what became of ``case``; empty if nothing is."""
    try:
        with _limit():
            case.run()
    except UserError as error:
        lines = str(error).splitlines()
        if not case.is_bad:
            return f"refused: {error}"
        return "" if len(lines) == 1 and len(lines[0]) < 1500 else f"an error of {len(lines)} lines: {error}"
    except AssertionError as error:
        return f"read wrongly: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "accepted" if case.is_bad else ""


def _data(file: str, root: Path, compare: Callable[[Any], None], *keys: str) -> Callable[[], None]:
    """What reads data: checks them as before the first step, and gives the task to ``compare``."""

    def run() -> None:
        config: Any = config_lib.read(config_lib.load(f"{ROOT}/configs/{file}.py:{root}", [*NETWORK, *keys]))
        task = TASKS[config.task].make(config)
        task.validate_data()
        compare(task)

    return run


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Files.


def _write_image(rng: np.random.Generator, path: Path, size: tuple[int, int] | None = None) -> tuple[Path, np.ndarray]:
    """Writes an image in some lossless kind of file beside ``path``; returns its path and its pixels, uint8 RGB."""
    height, width = size or rng.integers(33, 49, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    alpha = rng.integers(0, 256, (height, width, 1), np.uint8)
    palette = np.arange(256, dtype=np.uint8)[:, None] * np.array([1, 3, 7], np.uint8)
    indexed = Image.fromarray(pixels[..., 0])
    indexed = indexed.convert("P") if indexed.mode != "P" else indexed
    indexed.putpalette(palette.ravel().tolist())
    black = pixels[..., 0] > 127
    kinds: dict[str, tuple[Image.Image, np.ndarray]] = {
        "rgb": (Image.fromarray(pixels), pixels),
        "grey": (Image.fromarray(pixels[..., 0]), grey),
        "alpha": (Image.fromarray(np.concatenate([pixels, alpha], 2)), pixels),
        "grey and alpha": (Image.fromarray(np.concatenate([pixels[..., :1], alpha], 2)), grey),
        "palette": (indexed, palette[pixels[..., 0]]),
        "one bit": (Image.fromarray(black), np.repeat(black[..., None] * np.uint8(255), 3, axis=2)),
    }
    ending = str(rng.choice([".png", ".PNG", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jpg", ""]))
    allowed = {
        ".bmp": ["rgb", "grey", "palette", "one bit"],
        ".webp": ["rgb"],
        ".gif": ["grey", "palette"],
    }.get(ending, list(kinds))
    image, truth = kinds[str(rng.choice(allowed))]
    path = path.with_name(path.name + ending)
    # A PNG named .jpg, or not at all, is common.
    form = {".jpg": "PNG", "": "PNG"}.get(ending)
    image.save(path, format=form, **({"lossless": True} if ending == ".webp" else {}))
    return path, truth


def _text(rng: np.random.Generator, path: Path, lines: list[str], encodings: tuple[str, ...] = ENCODINGS) -> None:
    end = str(rng.choice(["\n", "\r\n"]))
    blank = [""] * int(rng.integers(0, 3))
    path.write_bytes(end.join([*lines, *blank]).encode(str(rng.choice(encodings))))


def _stems(rng: np.random.Generator, count: int) -> list[str]:
    return [f"{number}{STEMS[index]}" for number, index in enumerate(rng.choice(len(STEMS), count))]


def _litter(rng: np.random.Generator, folder: Path) -> None:
    for name in rng.choice(JUNK, int(rng.integers(0, 3)), replace=False):
        (folder / str(name)).write_bytes(b"nothing to see")
    if rng.random() < 0.2:
        (folder / "gone.jpg").symlink_to("/nowhere/gone.jpg")


def _names(rng: np.random.Generator, least: int) -> list[str]:
    return [NAMES[index] for index in sorted(rng.choice(len(NAMES), int(rng.integers(least, 5)), replace=False))]


def _break_file(rng: np.random.Generator, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(0, len(content) // 2))])


def _compare_image(source: Any, index: int, image: Any, truth: dict[str, np.ndarray]) -> str:
    """Checks one image; returns the name of its file, as ``truth`` has it."""
    name = Path(source.name(index)).name
    np.testing.assert_array_equal(decoded(image, name), truth[name], err_msg=name)
    return name


# Kinds of data sets.


def _class_folders(rng: np.random.Generator, root: Path) -> Case:
    names, splits = _names(rng, 2), SPLITS[rng.integers(len(SPLITS))]
    pixels: dict[str, np.ndarray] = {}
    labels: dict[str, int] = {}
    files: list[Path] = []
    counts = []
    for split in splits:
        counts.append(0)
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for stem in _stems(rng, int(rng.integers(1, 4))):
                path, image = _write_image(rng, folder / f"{split}{label} {stem}")
                pixels[path.name], labels[path.name] = image, label
                files.append(path)
                counts[-1] += 1
            _litter(rng, folder)

    def compare(task: Any) -> None:
        for source, count in zip((task.train_source, task.eval_source), counts, strict=True):
            assert list(source.class_names) == names, source.class_names
            assert len(source) == count, f"{len(source)} images"
            for index in range(count):
                name = _compare_image(source, index, source[index]["image"], pixels)
                assert source[index]["label"] == labels[name], name

    def one_class() -> None:
        for split in splits:
            for name in names[1:]:
                shutil.rmtree(root / split / name)

    def empty_class() -> None:
        (root / splits[0] / "zebra").mkdir()

    def unknown_class() -> None:
        (root / splits[1] / names[0]).rename(root / splits[1] / "zebra")

    def no_split() -> None:
        shutil.rmtree(root / splits[rng.integers(2)])

    def broken_file() -> None:
        _break_file(rng, files[rng.integers(len(files))])

    faults = (one_class, empty_class, unknown_class, no_split, broken_file)
    fault = _fault(rng, faults)
    return Case(f"class folders{fault}", _data("folder", root, compare), bool(fault))


def _fault(rng: np.random.Generator, faults: tuple[Callable[[], None], ...]) -> str:
    """Commits one of the faults, or none; returns its name."""
    if rng.random() < 0.5:
        return ""
    fault = faults[rng.integers(len(faults))]
    fault()
    return f", {fault.__name__.replace('_', ' ')}"


def _label_maps(rng: np.random.Generator, root: Path) -> Case:
    names = _names(rng, 2)
    splits = SPLITS[rng.integers(3)]
    pixels: dict[str, np.ndarray] = {}
    maps: dict[str, np.ndarray] = {}
    images, labels = [], []
    for number, split in enumerate(splits):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for stem in _stems(rng, 2):
            stem = f"{number} {stem}"
            path, image = _write_image(rng, root / "images" / split / stem)
            pixels[path.name] = image
            classes = rng.integers(0, len(names), image.shape[:2], np.uint8)
            classes[:2] = 255
            # All of them, so that no class is missing.
            classes[2, : len(names)] = np.arange(len(names))
            maps[path.name] = classes
            label = Image.fromarray(classes)
            if rng.random() < 0.3:
                label = label.convert("P")
                label.putpalette((np.arange(256)[:, None] * np.array([1, 5, 9]) % 256).ravel().tolist())
                label.putdata(classes.ravel().tolist())
            place = root / "annotations" / split / f"{stem}{rng.choice(['.png', '.tif', '.PNG'])}"
            label.save(place)
            images.append(path)
            labels.append(place)
        _litter(rng, root / "images" / split)
    _text(rng, root / "classes.txt", names)

    def compare(task: Any) -> None:
        for source in (task.train_source, task.eval_source):
            assert list(source.class_names) == names, source.class_names
            assert len(source) == 2, f"{len(source)} images"
            for index in range(2):
                image, label_map = image_and_label_map(source, index)
                name = _compare_image(source, index, image, pixels)
                np.testing.assert_array_equal(label_map, maps[name], err_msg=name)

    def label_out_of_range() -> None:
        path = labels[rng.integers(len(labels))]
        with Image.open(path) as file:
            classes = np.array(file)
        classes[5, 5] = len(names)
        Image.fromarray(classes).save(path)

    def other_size() -> None:
        path = labels[rng.integers(len(labels))]
        Image.fromarray(np.zeros((20, 90), np.uint8)).save(path)

    def missing_label_map() -> None:
        labels[rng.integers(len(labels))].unlink()

    def missing_image() -> None:
        images[rng.integers(len(images))].unlink()

    def broken_image() -> None:
        _break_file(rng, images[rng.integers(len(images))])

    def broken_label_map() -> None:
        _break_file(rng, labels[rng.integers(len(labels))])

    def doubled_class() -> None:
        _text(rng, root / "classes.txt", [*names, names[0]])

    fault = _fault(
        rng,
        (
            *(label_out_of_range, other_size, missing_label_map, missing_image),
            *(broken_image, broken_label_map, doubled_class),
        ),
    )
    return Case(f"label maps{fault}", _data("segmentation_folder", root, compare), bool(fault))


def _boxes(rng: np.random.Generator, size: tuple[int, ...], count: int) -> np.ndarray:
    """(x, y, width, height), whole numbers within the image."""
    height, width = size
    corner = np.stack([rng.integers(0, width - 8, count), rng.integers(0, height - 8, count)], 1)
    return np.concatenate([corner, np.minimum(rng.integers(3, 20, (count, 2)), [width, height] - corner)], 1)


def _compare_objects(source: Any, truth: dict[str, tuple[np.ndarray, list[str]]], pixels: dict) -> None:
    assert len(source) == len(truth), f"{len(source)} images"
    for index in range(len(source)):
        image, objects = source[index]
        name = _compare_image(source, index, image, pixels)
        boxes, names = truth[name]
        order = np.lexsort(boxes.T)
        found = np.lexsort(objects.boxes.T)
        np.testing.assert_array_equal(objects.boxes[found], boxes[order], err_msg=name)
        assert [source.class_names[label] for label in objects.labels[found]] == [names[i] for i in order], name


def _coco(rng: np.random.Generator, root: Path) -> Case:
    names = [str(name) for name in rng.permutation(_names(rng, 1))]
    ids = rng.choice(np.arange(1, 99), len(names), replace=False).tolist()
    order = [names[i] for i in np.argsort(ids)]
    pixels: dict[str, np.ndarray] = {}
    truth: tuple[dict, dict] = ({}, {})
    contents: list[dict[str, Any]] = []
    paths = []
    places = [(f"{split}/_annotations.coco.json", split) for split in ("train", "valid")]
    if rng.random() < 0.5:
        places = [(f"annotations/{split}.json", split) for split in ("train", "val")]
    for number, (_, folder) in enumerate(places):
        (root / folder).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for image_id, stem in enumerate(_stems(rng, 3)):
            path, image = _write_image(rng, root / folder / f"{number} {stem}")
            paths.append(path)
            pixels[path.name] = image
            height, width = image.shape[:2]
            images.append({"id": image_id, "file_name": path.name, "height": height, "width": width})
            boxes = _boxes(rng, (height, width), int(rng.integers(1, 4)))
            # Each class once at least.
            labels = [*range(len(names))] if image_id == 0 else rng.integers(0, len(names), len(boxes)).tolist()
            boxes = _boxes(rng, (height, width), len(labels))
            for box, label in zip(boxes.tolist(), labels, strict=True):
                row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[label], "bbox": box}
                annotations.append(row | {"area": box[2] * box[3]} | ({"iscrowd": 0} if rng.random() < 0.5 else {}))
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
            truth[number][path.name] = (corners, [names[label] for label in labels])
        categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
        contents.append({"images": images, "annotations": annotations, "categories": categories})

    def write() -> None:
        for (place, _), content in zip(places, contents, strict=True):
            (root / place).parent.mkdir(exist_ok=True)
            text = json.dumps(content, ensure_ascii=bool(rng.random() < 0.5), indent=int(rng.integers(0, 3)))
            _text(rng, root / place, text.split("\n"))

    def compare(task: Any) -> None:
        for source, expected in zip((task.train_source, task.eval_source), truth, strict=True):
            assert list(source.class_names) == order, source.class_names
            _compare_objects(source, expected, pixels)

    content = contents[rng.integers(2)]
    row = content["annotations"][0]

    def unknown_category() -> None:
        row["category_id"] = 1000

    def unknown_image() -> None:
        row["image_id"] = 1000

    def box_of_three() -> None:
        row["bbox"] = row["bbox"][:3]

    def box_of_words() -> None:
        row["bbox"] = ["a", "b", "c", "d"]

    def not_finite() -> None:
        row["bbox"] = [float("nan"), 1, 5, 5]

    def doubled_image() -> None:
        content["images"].append(dict(content["images"][0]))

    def no_categories() -> None:
        content["categories"] = []

    def missing_file() -> None:
        paths[rng.integers(len(paths))].unlink()

    def other_size() -> None:
        content["images"][0]["width"] += 7

    def broken_image() -> None:
        _break_file(rng, paths[rng.integers(len(paths))])

    data_faults = (unknown_category, unknown_image, box_of_three, box_of_words, not_finite, doubled_image)
    fault = _fault(rng, (*data_faults, no_categories, missing_file, other_size, broken_image))
    write()
    if not fault and rng.random() < 0.1:
        place = root / places[rng.integers(2)][0]
        place.write_bytes(place.read_bytes()[:-20])
        fault = ", cut off"
    return Case(f"COCO{fault}", _data("detection_folder", root, compare), bool(fault))


def _voc(rng: np.random.Generator, root: Path) -> Case:
    names = _names(rng, 1)
    pixels: dict[str, np.ndarray] = {}
    truth: tuple[dict, dict] = ({}, {})
    tables, paths = [], []
    measured = rng.random() < 0.7
    for number, split in enumerate(("train", "valid")):
        (root / split).mkdir()
        for place, stem in enumerate(_stems(rng, 3)):
            stem = f"{number} {stem}"
            path, image = _write_image(rng, root / split / stem)
            pixels[path.name] = image
            height, width = image.shape[:2]
            labels = [*range(len(names))] if place == 0 else rng.integers(0, len(names), 2).tolist()
            boxes = _boxes(rng, (height, width), len(labels))
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
            truth[number][path.name] = (corners, [names[label] for label in labels])
            tables.append(root / split / f"{stem}.xml")
            paths.append(path)
            # Pixels count from 1, and the last one belongs to the box.
            rows = "".join(
                f"<object><name>{escape(names[label])}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
                for label, (x1, y1, x2, y2) in zip(labels, corners.tolist(), strict=True)
            )
            size = (width, height) if measured else (0, 0)
            text = (
                f"<annotation>\n<filename>{escape(path.name)}</filename>\n<size><width>{size[0]}</width>"
                f"<height>{size[1]}</height><depth>3</depth></size>\n{rows}</annotation>"
            )
            _text(rng, tables[-1], text.split("\n"), ("utf-8", "utf-8-sig"))

    def compare(task: Any) -> None:
        for source, expected in zip((task.train_source, task.eval_source), truth, strict=True):
            assert list(source.class_names) == names, source.class_names
            _compare_objects(source, expected, pixels)

    def change(before: str, after: str) -> None:
        path = tables[rng.integers(len(tables))]
        text = path.read_text(encoding="utf-8-sig")
        assert before in text
        path.write_text(text.replace(before, after, 1), encoding="utf-8")

    def broken_xml() -> None:
        change("</annotation>", "")

    def no_number() -> None:
        change("<xmin>", "<xmin>left ")

    def no_box() -> None:
        change("<bndbox>", "<box>")

    def missing_image() -> None:
        paths[rng.integers(len(paths))].unlink()

    def broken_image() -> None:
        _break_file(rng, paths[rng.integers(len(paths))])

    fault = _fault(rng, (broken_xml, no_number, no_box, missing_image, broken_image))
    return Case(f"VOC{fault}", _data("detection_folder", root, compare), bool(fault))


# Weights.


@functools.cache
def _network() -> tuple[Any, dict[str, Any]]:
    """A small model, and its parameters' shapes by the reference's names."""
    model = pvt_jax.create_model("pvt_v2_b0", num_classes=3, depths=(1, 1, 1, 1), dims=(4, 8, 20, 16))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.zeros((1, 32, 32, 3)))
    return model, shapes


def _weights(rng: np.random.Generator, root: Path) -> Case:
    model, shapes = _network()
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    words = ("module", "model", "_orig_mod", "net", "a1", "encoder", "my_net", "student", "0")
    prefix = "".join(f"{word}." for word in rng.choice(words, int(rng.integers(0, 4))))
    state = {prefix + name: value for name, value in names_lib.to_state_dict(variables).items()}
    name = str(rng.choice(list(state)))
    path = root / f"weights{STEMS[rng.integers(len(STEMS))]}.safetensors"

    def not_finite() -> None:
        state[name] = np.full_like(state[name], rng.choice([np.nan, np.inf, -np.inf]))

    def missing() -> None:
        del state[name]

    def other_shape() -> None:
        state[name] = np.concatenate([state[name], state[name]])

    def unknown() -> None:
        state[prefix + "stranger.weight"] = np.zeros(3, np.float32)

    fault = _fault(rng, (not_finite, missing, other_shape, unknown))
    write_safetensors(path, state)
    if not fault and rng.random() < 0.2:
        _break_file(rng, path)
        fault = ", cut off"

    def run() -> None:
        found = pvt_jax.load_variables(path, model)
        jax.tree.map(np.testing.assert_array_equal, found, variables)

    return Case(f"weights{fault} below {prefix!r}", run, bool(fault))


# Numbers of a config, each of digits.py: at least the first is no number that can be meant, the last are.
NUMBERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "batch_size": (("0", "-1", "2.5", "many"), ("1", "64")),
    "epochs": (("0", "-1", "nan"), ("0.5", "3")),
    "model.drop_path_rate": (("1", "-0.1", "2"), ("0", "0.5")),
    "model.image_size": (("0", "-32", "x"), ("32", "64")),
    "optimizer.learning_rate": (("0", "-1e-3", "nan", "inf", "1e9"), ("1e-3", "1e-5")),
    "optimizer.weight_decay": (("-0.1", "nan"), ("0", "0.1")),
    "optimizer.b1": (("1", "-0.5", "1.5"), ("0", "0.8")),
    "batch_transform.std": (("(0,0,0)", "(1,1)", "(-1,-1,-1)", "(0.2,0.2,0.2)"), ("(50,50,50)",)),
    "batch_transform.label_smoothing": (("1", "-0.1"), ("0", "0.2")),
    "ema_decay": (("1", "-1", "1.5"), ("0", "0.5")),
    "accumulation_steps": (("0", "-2", "x"), ("1",)),
    "data.on_corrupt": (("ignore", "0"), ("skip", "error")),
    "log_every_steps": (("0", "-5"), ("1",)),
    "checkpoint.keep": (("0", "-1"), ("1", "5")),
}


def _numbers(rng: np.random.Generator, _: Path) -> Case:
    key = str(rng.choice(list(NUMBERS)))
    is_bad = bool(rng.random() < 0.6)
    value = str(rng.choice(NUMBERS[key][not is_bad]))

    def run() -> None:
        config: Any = config_lib.read(config_lib.load(f"{ROOT}/configs/digits.py", [f"{key}={value}"]))
        TASKS[config.task].make(config)
        plausible.check_config(config)

    return Case(f"{key}={value}", run, is_bad)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    failures = 0
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            case = draw(seed, Path(folder))
            if wrong := failure(case):
                failures += 1
                print(f"seed {seed}: {case.what}: {wrong.replace(folder, '…')}", flush=True)
    print(f"{count:,} inputs, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
