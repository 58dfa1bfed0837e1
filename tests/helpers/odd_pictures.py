"""Pictures as people have them, odd or hostile, drawn from a seed, and what becomes of them where pictures are read.

``python -m tests.helpers.odd_pictures 300`` writes three hundred into a folder, predicts, browses and trains with
them, compares what is read with Pillow, and ends with code 1 if one gave a traceback, was read otherwise or dropped
without a word, or if it took too long or too much memory.
"""

import contextlib
import io
import json
import os
import resource
import socket
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pvt_jax import browse, main, predict
from pvt_jax.files.images import to_rgb
from tests.helpers.trained import save_run

# Memory that all of it may take besides what the models of the check take, in MiB; and seconds for each picture.
MOST_MEMORY = 3000
SECONDS, SECONDS_PER_MEGAPIXEL = 10.0, 0.1
NAMES = (
    *("a b", "ä", "日本", "new\nline", "tab\t", "quote'", 'double"', "-dash", "per%cent", "[1]", "*", "#", "a.b.c"),
    *("emoji 🙂", "é", "x" * 180, "$HOME", "~", "back\\slash", "\u202eevil", "\x1b[31mred", "..two"),
)
ORIENTATION = 0x0112


class Odd(NamedTuple):
    """One picture.

    Attributes:
        what: a few words.
        path: of the file, link or whatever it is.
        truth: what has to be read, uint8 [h, w, 3]; None where it has to be refused.
        tolerance: how far values may be off, in 0..255.
        is_listed: whether a folder lists it as an image.
    """

    what: str
    path: Path
    truth: np.ndarray | None
    tolerance: int = 0
    is_listed: bool = True


Kind = Callable[[np.random.Generator, Path], Odd]


def write(count: int, folder: Path, *, seed: int = 0, large: bool = True) -> list[Odd]:
    """Writes ``count`` pictures into ``folder``, every kind in turn; without ``large`` none takes much memory."""
    folder.mkdir(parents=True)
    kinds = [kind for kind in KINDS if large or kind not in LARGE]
    found = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        stem = f"{number:03d} {NAMES[rng.integers(len(NAMES))]}"
        found.append(kinds[number % len(kinds)](rng, folder / stem))
    return found


def by_pillow(content: bytes) -> np.ndarray | None:
    """The first frame, upright, without transparency; None if Pillow does not read it whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            image.load()
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except Exception:  # Whatever the bytes provoke.
        return None


def _pixels(rng: np.random.Generator, height: int = 0, width: int = 0) -> np.ndarray:
    """Smooth, so that JPEG's losses are small."""
    height, width = height or int(rng.integers(20, 60)), width or int(rng.integers(20, 60))
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin((rows * a + columns * b) / 9 + c) for a, b, c in rng.normal(size=(3, 3))]
    return np.stack(waves, axis=-1).astype(np.uint8)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _file(
    what: str, stem: Path, ending: str, content: bytes, tolerance: int = 0, truth: np.ndarray | None = None
) -> Odd:
    path = stem.with_name(stem.name + ending)
    path.write_bytes(content)
    return Odd(what, path, by_pillow(content) if truth is None else truth, tolerance)


def _ordinary(rng: np.random.Generator, stem: Path) -> Odd:
    form, ending, mode = (
        *(("JPEG", ".jpg", "RGB"), ("JPEG", ".JPEG", "L"), ("PNG", ".png", "RGBA"), ("PNG", ".png", "LA")),
        *(("PNG", ".png", "1"), ("BMP", ".bmp", "RGB"), ("GIF", ".gif", "P"), ("WEBP", ".webp", "RGBA")),
        *(("TIFF", ".tif", "RGB"), ("PPM", ".ppm", "RGB"), ("JPEG2000", ".jp2", "RGB"), ("PNG", ".jpg", "RGB")),
        *(("JPEG", "", "RGB"), ("MPO", ".jpg", "RGB")),
    )[rng.integers(14)]
    image = Image.fromarray(_pixels(rng)).convert(mode)
    return _file(f"{form} {mode} named {ending or 'without ending'}", stem, ending, _saved(image, form))


def _truncated(rng: np.random.Generator, stem: Path) -> Odd:
    form, ending = (("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"), ("WEBP", ".webp"), ("BMP", ".bmp"))[
        rng.integers(5)
    ]
    content = _saved(Image.fromarray(_pixels(rng, 60, 60)), form)
    return _file(f"truncated {form}", stem, ending, content[: int(len(content) * rng.uniform(0.05, 0.9))])


def _empty(rng: np.random.Generator, stem: Path) -> Odd:
    return _file("empty file", stem, ".jpg", b"")


def _deep(rng: np.random.Generator, stem: Path) -> Odd:
    """16 bits: the upper eight are what a person sees."""
    values = rng.integers(0, 2**16, (30, 40), np.uint16)
    values[0, :2] = 0, 65535
    truth = np.repeat((values / 257 + 0.5).astype(np.uint8)[..., None], 3, axis=2)
    form, ending = (("PNG", ".png"), ("TIFF", ".tif"))[rng.integers(2)]
    return _file(f"16-bit {form}", stem, ending, _saved(Image.fromarray(values), form), 1, truth)


def _cmyk(rng: np.random.Generator, stem: Path) -> Odd:
    image = Image.fromarray(_pixels(rng)).convert("CMYK")
    form, ending = (("JPEG", ".jpg"), ("TIFF", ".tif"))[rng.integers(2)]
    return _file(f"CMYK {form}", stem, ending, _saved(image, form))


def _palette(rng: np.random.Generator, stem: Path) -> Odd:
    image = Image.fromarray(_pixels(rng)).convert("P")
    transparency = int(rng.integers(256)) if rng.random() < 0.5 else bytes(rng.integers(0, 256, 256, np.uint8))
    return _file("palette with transparency", stem, ".png", _saved(image, "PNG", transparency=transparency))


def _animated(rng: np.random.Generator, stem: Path) -> Odd:
    form, ending = (("GIF", ".gif"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tiff"))[rng.integers(4)]
    first, *rest = (Image.fromarray(_pixels(rng, 30, 40)) for _ in range(3))
    return _file(f"animated {form}", stem, ending, _saved(first, form, save_all=True, append_images=rest))


def _turned(rng: np.random.Generator, stem: Path) -> Odd:
    form, ending = (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif"))[rng.integers(4)]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation = int(rng.integers(0, 10))  # 0 and 9 mean nothing.
    return _file(f"{form} turned {orientation}", stem, ending, _saved(Image.fromarray(_pixels(rng)), form, exif=exif))


def _tiny(rng: np.random.Generator, stem: Path) -> Odd:
    height, width = ((1, 1), (1, 2), (2, 1), (1, 300), (300, 1))[rng.integers(5)]
    form, ending = (("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"))[rng.integers(3)]
    return _file(f"{height} × {width} {form}", stem, ending, _saved(Image.fromarray(_pixels(rng, height, width)), form))


def _wide(rng: np.random.Generator, stem: Path) -> Odd:
    height, width = ((3, 20000), (20000, 3), (1, 65000), (200, 20000))[rng.integers(4)]
    image = Image.fromarray(_pixels(rng, height, width))
    return _file(f"{height} × {width} JPEG", stem, ".jpg", _saved(image, "JPEG"))


def _bomb(rng: np.random.Generator, stem: Path) -> Odd:
    """A small file that says it is huge, and is, or is not."""
    choice = int(rng.integers(4))
    if choice == 0:
        # Over Pillow's limit, but not over that of PNG here.
        content = _saved(Image.new("1", (15000, 15000), 1), "PNG")
        truth = np.broadcast_to(np.uint8(255), (15000, 15000, 3))
        return _file("PNG of 15,000² bits", stem, ".png", content, truth=truth)
    if choice == 1:
        return _file("PNG of 60,000² pixels without data", stem, ".png", _png_header(60000, 60000))
    if choice == 2:
        content = b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;"
        return _file("GIF of 65,535² pixels without data", stem, ".gif", content)
    content = bytearray(_saved(Image.fromarray(_pixels(rng)), "BMP"))
    content[18:26] = (50000).to_bytes(4, "little") * 2
    return _file("BMP of 50,000² pixels without data", stem, ".bmp", bytes(content))


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _no_image(rng: np.random.Generator, stem: Path) -> Odd:
    content = (
        *(b"just text\n", b"<!DOCTYPE html><html></html>", b"version https://git-lfs.github.com/spec/v1\n"),
        *(
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            bytes(500),
        ),
        *(rng.bytes(3000), b"\xff\xd8\xff\xe0" + rng.bytes(500), b"\x89PNG\r\n\x1a\n" + rng.bytes(500), b"PK\x03\x04"),
    )[rng.integers(10)]
    return _file("text or noise named as an image", stem, (".jpg", ".png")[rng.integers(2)], content)


def _damaged(rng: np.random.Generator, stem: Path) -> Odd:
    """Bits flipped in the data of a PNG, whose checksums tell."""
    content = bytearray(_saved(Image.fromarray(_pixels(rng, 50, 50)), "PNG"))
    content[int(rng.integers(60, len(content) - 20))] ^= 1 << int(rng.integers(8))
    return _file("PNG with a bit flipped", stem, ".png", bytes(content))


def _trailing(rng: np.random.Generator, stem: Path) -> Odd:
    form, ending = (("JPEG", ".jpg"), ("PNG", ".png"))[rng.integers(2)]
    content = _saved(Image.fromarray(_pixels(rng)), form) + rng.bytes(int(rng.integers(1, 2000)))
    return _file(f"{form} with bytes after its end", stem, ending, content)


def _link(rng: np.random.Generator, stem: Path) -> Odd:
    path = stem.with_name(stem.name + ".jpg")
    choice = int(rng.integers(5))
    if choice == 0:
        target = stem.with_name(stem.name + " target")
        content = _saved(Image.fromarray(_pixels(rng)), "JPEG")
        target.write_bytes(content)
        path.symlink_to(target.name)
        return Odd("link to an image", path, by_pillow(content))
    names = ("gone", path.name, "/dev/zero", ".")
    path.symlink_to(names[choice - 1])
    what = ("broken link", "link to itself", "link to /dev/zero", "link to its own folder")[choice - 1]
    return Odd(what, path, None, is_listed=choice < 4)


def _special(rng: np.random.Generator, stem: Path) -> Odd:
    path = stem.with_name(stem.name + ".jpg")
    choice = int(rng.integers(3))
    if choice == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
            server.bind("s")
            Path("s").rename(path.name)
    return Odd(("pipe", "folder named as an image", "socket")[choice], path, None, is_listed=choice != 1)


KINDS: tuple[Kind, ...] = (
    *(_ordinary, _truncated, _empty, _deep, _cmyk, _palette, _animated, _turned, _turned, _tiny, _wide, _bomb),
    *(_no_image, _damaged, _trailing, _link, _special),
)
LARGE = (_wide, _bomb)


# What reads them.


def check_reading(odd: list[Odd]) -> Iterator[str]:
    """A line for each picture that is read otherwise than Pillow reads it, or taken or refused wrongly."""
    from pvt_jax.data.options import ReadingOptions
    from pvt_jax.data.unlabelled import Unlabelled
    from pvt_jax.errors import CorruptImageError

    paths = [str(one.path) for one in odd]
    source = Unlabelled(paths, paths, ReadingOptions())
    for index, one in enumerate(odd):
        start = time.monotonic()
        try:
            image = source.image(index)
        except CorruptImageError:
            image = None
        except Exception as error:
            yield f"{one.what}: traceback of {type(error).__name__}: {error}"
            continue
        pixels = 0 if one.truth is None else one.truth[..., 0].size
        if time.monotonic() - start > SECONDS + SECONDS_PER_MEGAPIXEL * pixels / 1e6:
            yield f"{one.what}: took {time.monotonic() - start:.1f} s"
        if (image is None) != (one.truth is None):
            yield f"{one.what}: " + (f"refused: {source.failures[index]}" if image is None else "read, but is no image")
        elif image is not None and one.truth is not None:
            if image.shape != one.truth.shape:
                yield f"{one.what}: read as {image.shape}, but is {one.truth.shape}"
            elif (off := max(_off(*rows) for rows in zip(image, one.truth, strict=True))) > one.tolerance:
                yield f"{one.what}: off by {off}"


def _off(found: np.ndarray, truth: np.ndarray) -> int:
    return int(np.abs(found.astype(np.int16) - truth).max())


def check_predict(odd: list[Odd], run: Path, output: Path) -> Iterator[str]:
    """Predicts the folder with all of them, and those by name that a folder does not list."""
    with _captured() as said:
        code = predict.main([str(run), str(odd[0].path.parent), "--output", str(output), "--batch_size", "4"])
    if code != 1:
        yield f"predict: exit code {code}: {said.getvalue()[-500:]}"
        return
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    found = {line["path"]: line for line in lines}
    for one in odd:
        path = os.fsencode(one.path).decode("utf-8", "backslashreplace")
        line = found.pop(path, None)
        if (line is not None) != (one.is_listed or one.truth is not None):
            yield f"{one.what}: predict has {'a line' if line else 'no line'} on it"
        elif line is not None and ("error" in line) != (one.truth is None):
            yield f"{one.what}: predict says {str(line)[:200]}"
        elif line is not None and one.truth is not None and (line["height"], line["width"]) != one.truth.shape[:2]:
            yield f"{one.what}: predict has size {line['height']} × {line['width']}"
    for path in found:
        if not path.endswith(" target"):
            yield f"predict has a line on {path}"
    if any("\x1b" in line or "Traceback" in line for line in said.getvalue().splitlines()):
        yield "predict: a traceback, or names that steer the terminal"
    for one in odd:
        if not one.is_listed:
            with _captured() as said:
                code = predict.main([str(run), str(one.path), "--output", str(output), "--overwrite"])
            if code == 0 or "Traceback" in said.getvalue():
                yield f"{one.what}: predict, by its name: exit code {code}: {said.getvalue()[-300:]}"


def check_training(odd: list[Odd], folder: Path, workdir: Path) -> Iterator[str]:
    """Trains two steps and browses a folder of classes that holds all of them."""
    classes = ("cat", "owl")
    for number, one in enumerate(odd):
        for split in ("train", "val"):
            place = folder / split / classes[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / one.path.name).symlink_to(one.path)
    config = ["--config", f"configs/folder.py:{folder}"]
    keys = {
        **{"model.depths": "(1,1,1,1)", "model.dims": "(8,8,12,16)", "model.num_heads": "(1,1,1,2)", "steps": 2},
        **{"model.image_size": 32, "model.name": "pvt_tiny", "batch_size": 4, "data.threads": 2, "init.checkpoint": ""},
        **{"data.on_corrupt": "skip", "evaluation.batch_size": 4},
    }
    flags = [f"--config.{name}={value}" for name, value in keys.items()]
    for name, run in (
        ("training", lambda: main.main([*config, "--workdir", str(workdir), *flags])),
        ("browse", lambda: browse.main([*config, "--output", str(workdir / "browse"), *flags])),
    ):
        with _captured() as said:
            code = run()
        if code or "Traceback" in said.getvalue():
            yield f"{name}: exit code {code}: {said.getvalue()[-600:]}"
        else:
            sys.stderr.write("".join(f"  {line}\n" for line in said.getvalue().splitlines()[:8]))


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said


def peak_memory() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_all(count: int, seed: int = 0) -> list[str]:
    """What is wrong with ``count`` pictures."""
    with tempfile.TemporaryDirectory() as root:
        trained = save_run("classification", Path(root) / "run")
        odd = write(count, Path(root) / "pictures", seed=seed)
        before = peak_memory()
        wrong = []
        for name, problems in (
            ("read", check_reading(odd)),
            ("predicted", check_predict(odd, trained.folder, Path(root) / "out")),
            ("trained", check_training(odd, Path(root) / "data", Path(root) / "workdir")),
        ):
            start = time.monotonic()
            wrong += problems
            print(f"{name}: {time.monotonic() - start:.0f} s, peak memory {peak_memory():,.0f} MiB", flush=True)
        if peak_memory() - before > MOST_MEMORY:
            wrong.append(f"peak memory rose by {peak_memory() - before:,.0f} MiB")
        return wrong


if __name__ == "__main__":
    number = int(sys.argv[1])
    problems = run_all(number, *map(int, sys.argv[2:3]))
    print("\n".join([*problems, f"{number} pictures, {len(problems)} problems"]))
    sys.exit(bool(problems))
