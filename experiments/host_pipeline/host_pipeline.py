"""Images that one CPU core decodes and augments in a second, on your photographs, and what faster ways do to pixels.

    python experiments/host_pipeline/host_pipeline.py PHOTOGRAPHS [--rounds 5] [--shorter_side 480]

PHOTOGRAPHS is a tar file or a folder of images. Prints two markdown tables; 200 photographs of ImageNet take about 20
seconds. The time is that of the processor, in one thread, with the files already in memory; the stages take turns, so
that all meet the same state of the machine, and the median of the rounds is reported. Stages of ``fast_resize`` need
``pip install '.[fast]'`` and are left out without it. ``--shorter_side`` resizes the photographs first.
"""

import argparse
import importlib.util
import io
import itertools
import math
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pvt_jax.data.options import ReadingOptions  # noqa: E402
from pvt_jax.errors import UserError  # noqa: E402
from pvt_jax.files.images import decode, limit_threads  # noqa: E402
from pvt_jax.tasks.classification.transforms import EvalTransform, TrainTransform  # noqa: E402

Stage = Callable[[bytes, str, np.random.Generator], object]
SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif"}
POLICY = "rand-m9-mstd0.5-inc1"


def read_photographs(path: Path, limit: int) -> list[tuple[str, bytes]]:
    """(name, file contents) of the first images of a tar file or folder. Raises UserError if there are none."""
    photographs: list[tuple[str, bytes]] = []
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        photographs = [(str(file), file.read_bytes()) for file in files[:limit]]
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if Path(member.name).suffix.lower() in SUFFIXES else None
                if content is not None and len(photographs) < limit:
                    photographs.append((member.name, content.read()))
    if not photographs:
        raise UserError(f"{path}: no images found; give a tar file or folder of images")
    return photographs


def ways() -> dict[str, dict[str, Any]]:
    """Settings of the transform by what they are called; the default first."""
    keys = ("reduced_decoding", *(("fast_resize",) if importlib.util.find_spec("cykooz_resizer") else ()))
    chosen = (subset for count in range(len(keys) + 1) for subset in itertools.combinations(keys, count))
    return {"".join(f", {key}" for key in subset): dict.fromkeys(subset, True) for subset in chosen}


def stages(image_size: tuple[int, int]) -> dict[str, Stage]:
    """The timed stages: name → function of a file's contents, its name and a generator."""
    reading, evaluate = ReadingOptions(), EvalTransform(image_size)
    found: dict[str, Stage] = {"decode": lambda data, name, rng: decode(data, name)}
    for text, policy in (("decode + crop + flip", ""), ("decode + crop + flip + RandAugment", POLICY)):
        for way, settings in ways().items():
            transform = TrainTransform(image_size, policy=policy, **settings)
            found[text + way] = partial(_of_file, transform, reading)
    found["evaluation: decode + resize + centre crop"] = lambda data, name, rng: evaluate(decode(data, name))
    return found


def _of_file(
    transform: TrainTransform, reading: ReadingOptions, data: bytes, name: str, rng: np.random.Generator
) -> np.ndarray:
    return transform.of_file(data, name, reading, rng)


def measure(photographs: list[tuple[str, bytes]], image_size: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """CPU seconds per image, one value per round, by stage. Every round draws the same crops."""
    limit_threads()
    seconds: dict[str, list[float]] = {name: [] for name in stages(image_size)}
    for _ in range(rounds):
        for stage, function in stages(image_size).items():
            rng = np.random.default_rng(0)
            start = time.process_time()
            for name, data in photographs:
                function(data, name, rng)
            seconds[stage].append((time.process_time() - start) / len(photographs))
    return seconds


def differences(photographs: list[tuple[str, bytes]], image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """By faster way, |pixel - pixel of the default| of all crops, without flips: uint8 [n, h, w, 3]."""
    crops = {}
    for way, settings in ways().items():
        transform, rng = TrainTransform(image_size, flip_probability=0, **settings), np.random.default_rng(0)
        crops[way] = np.stack([transform.of_file(data, name, ReadingOptions(), rng) for name, data in photographs])
    default = crops.pop("")
    return {way.removeprefix(", "): cv2.absdiff(found, default) for way, found in crops.items()}


def resized(photographs: list[tuple[str, bytes]], shorter_side: int) -> list[tuple[str, bytes]]:
    """The photographs as JPEG files of that shorter side, larger or smaller than they were."""
    found = []
    for name, data in photographs:
        image = Image.fromarray(decode(data, name))
        factor, stream = shorter_side / min(image.size), io.BytesIO()
        image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS).save(
            stream, "JPEG", quality=95
        )
        found.append((name, stream.getvalue()))
    return found


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photographs", type=Path, help="tar file or folder")
    parser.add_argument("--image_size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1000, help="largest number of images to use")
    parser.add_argument("--shorter_side", type=int, default=0, help="resize the photographs to it first; 0: do not")
    arguments = parser.parse_args()
    image_size = tuple(arguments.image_size)
    try:
        photographs = read_photographs(arguments.photographs, arguments.limit)
        if arguments.shorter_side:
            photographs = resized(photographs, arguments.shorter_side)
        seconds = measure(photographs, image_size, max(1, arguments.rounds))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(len(data) for _, data in photographs) / len(photographs)
    print(f"{len(photographs)} images of {size / 1000:.0f} kB on average → {'×'.join(map(str, arguments.image_size))}")
    print("\n| stage | images per CPU-second | ms per image | fastest–slowest round, ms |\n|---|---:|---:|---:|")
    for stage, values in seconds.items():
        milliseconds = [1000 * value for value in values]
        median = statistics.median(milliseconds)
        print(f"| {stage} | {1000 / median:.0f} | {median:.2f} | {min(milliseconds):.2f}–{max(milliseconds):.2f} |")
    print("\n| difference from the default | mean, of 255 | largest | PSNR, dB | equal values | images that differ |")
    print("|---|---:|---:|---:|---:|---:|")
    for way, found in differences(photographs, image_size).items():
        squared = np.square(found, dtype=np.uint16).mean()
        psnr = f"{10 * math.log10(255**2 / squared):.1f}" if squared else "∞"
        other = found.reshape(len(found), -1).any(axis=1).mean()
        print(f"| {way} | {found.mean():.3f} | {found.max()} | {psnr} | {(found == 0).mean():.1%} | {other:.1%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
