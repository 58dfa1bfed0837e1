"""Images that one CPU core decodes and augments in a second, on your photographs.

    python experiments/speed/host_pipeline.py PHOTOGRAPHS [--rounds 5] [--image_size 224 224] [--limit 200]

PHOTOGRAPHS is a tar file or a folder of images. Prints a markdown table; 200 photographs of ImageNet take about
15 seconds. The time is that of the processor, in one thread, with the files already in memory; the stages take turns,
so that all meet the same state of the machine, and the median of the rounds is reported.
"""

import argparse
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pvt_jax.errors import UserError  # noqa: E402
from pvt_jax.files.images import decode, limit_threads  # noqa: E402
from pvt_jax.tasks.classification.transforms import EvalTransform, TrainTransform  # noqa: E402

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


def stages(image_size: tuple[int, int]) -> dict[str, Callable[[bytes, str, np.random.Generator], object]]:
    """The timed stages: name → function of a file's contents, its name and a generator."""
    crop = TrainTransform(image_size)
    augment = TrainTransform(image_size, policy=POLICY)
    evaluate = EvalTransform(image_size)
    return {
        "decode": lambda data, name, rng: decode(data, name),
        "decode + crop + flip": lambda data, name, rng: crop(decode(data, name), rng),
        "decode + crop + flip + RandAugment": lambda data, name, rng: augment(decode(data, name), rng),
        "evaluation: decode + resize + centre crop": lambda data, name, rng: evaluate(decode(data, name)),
    }


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


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photographs", type=Path, help="tar file or folder")
    parser.add_argument("--image_size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1000, help="largest number of images to use")
    arguments = parser.parse_args()
    try:
        photographs = read_photographs(arguments.photographs, arguments.limit)
        seconds = measure(photographs, tuple(arguments.image_size), max(1, arguments.rounds))
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
