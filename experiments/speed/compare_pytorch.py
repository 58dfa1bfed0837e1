"""Compares the speed of these models with Hugging Face's and torchvision's in eager PyTorch, on one machine.

    python experiments/speed/compare_pytorch.py --torch_python /path/to/an/environment/with/torch/bin/python \\
        --models pvt_tiny pvt_small --modes infer train --rounds 10 --json results.json

Prints a markdown table; 10 rounds of PVT-Tiny take about 2 minutes on two CPU cores. For each model and mode, one
process per side lives through all rounds and they take turns, so that all meet the same state of the machine.
Both do the same work on random weights, without dropout and stochastic depth: ``infer`` is the forward
pass; ``train`` is cross-entropy, the gradients of all parameters and one AdamW step.

A name with a plus is a backbone and a head. The baseline of a segmenter, 150 classes, is Hugging Face's SegFormer-B0:
``infer`` ends with logits at stride 4; ``train`` has the loss at full resolution, and batch norms in training mode. The
baseline of a detector, 80 classes, is torchvision's: ``infer`` ends with at most 100 detections and their masks, not
pasted into the image; ``train`` has 10 objects per image. Images are not padded, so nothing is masked.
"""

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.speed.cases import (  # noqa: E402
    CLASSIFIERS,
    DETECTORS,
    DEVICES,
    DTYPES,
    MODES,
    SEGMENTERS,
    SIDES,
    Case,
    image_size,
    problem,
)
from experiments.speed.turns import Turns, compare, end_by_signal  # noqa: E402

HEADER = [
    "| model | mode | baseline | images/s | baseline | ratio | ratio of best | compile, s | baseline "
    "| peak GiB | baseline |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
]


def rows(record: dict[str, Any]) -> list[str]:
    """Lines of the table: ours, the first side, against each other one."""
    (_, ours), *others = record["sides"].items()
    lines = []
    for name, theirs in others:
        ratio, best = (ours[key] / theirs[key] for key in ("images_per_second", "best_images_per_second"))
        cells = [
            record["model"], record["mode"], name,
            *(f"{side['images_per_second']:.3g}" for side in (ours, theirs)), f"{ratio:.2f}", f"{best:.2f}",
            *(f"{side['compile_seconds']:.0f}" for side in (ours, theirs)),
            *(f"{side['peak_bytes'] / 2**30:.1f}" for side in (ours, theirs)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(file: Path) -> list[str]:
    """The lines of the table of what ``--json`` has written to ``file``.

    Raises OSError, ValueError, KeyError, TypeError or AttributeError: it holds something else.
    """
    records = map(json.loads, file.read_text("utf-8").splitlines())
    return [*HEADER, *(row for record in records for row in rows(record))]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax_python", default=sys.executable, help="interpreter of the environment with jax")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="interpreter with torch and the baseline's library"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=["pvt_tiny", "pvt_small", "pvt_v2_b0", "pvt_v2_b2"],
        choices=[*CLASSIFIERS, *SEGMENTERS, *DETECTORS],
    )
    parser.add_argument("--modes", nargs="+", default=["infer", "train"], choices=MODES)
    parser.add_argument("--sides", nargs="+", default=["jax", "torch"], choices=SIDES, help="default: jax torch")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the computation; default: float32")
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="default: cpu")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=image_size, default=(224, 224), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per turn, after an untimed one")
    parser.add_argument("--calls", type=int, default=1, help="of a step between two looks at the clock; default: 1")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--json", type=Path, help="also add all times to this file, a line for each row")
    parser.add_argument("--report", type=Path, metavar="JSON", help="print the table of such a file, and run nothing")
    arguments = parser.parse_args()
    if arguments.report:
        try:
            print("\n".join(table(arguments.report)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            parser.error(f"--report reads what --json has written, but not {arguments.report}: {error!r}")
        return
    if len(arguments.sides) < 2 or SIDES[arguments.sides[0]].framework != "jax":
        parser.error("--sides begins with jax or jax-plain, which is compared with the sides after it")
    if len(set(arguments.sides)) < len(arguments.sides):
        parser.error("--sides names a side twice")
    settings = {name: getattr(arguments, name) for name in ("dtype", "batch_size", "image_size", "device")}
    chosen = [Case(model, mode, **settings) for model in arguments.models for mode in arguments.modes]
    for case in chosen:
        if text := problem(case, arguments.sides):
            parser.error(text)
    if arguments.json:
        # Minutes later it would be too late to find out.
        try:
            arguments.json.open("a", encoding="utf-8").close()
        except OSError as error:
            parser.error(f"--json cannot be written: {error}")
    end_by_signal()
    turns = Turns(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Turns)})

    print("\n".join(HEADER))
    versions, pythons = "", {"jax": arguments.jax_python, "torch": arguments.torch_python}
    for case in chosen:
        record = compare(case, arguments.sides, turns, pythons=pythons)
        for name, side in record["sides"].items():
            if "error" in side:
                raise SystemExit(f"{case.model}, {case.mode}, {name}: {side['error']}")
        if arguments.json:
            with arguments.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        versions = "; ".join(side["versions"] for side in record["sides"].values())
        print("\n".join(rows(record)), flush=True)
    print(f"\n{platform.platform()}; {versions}")


if __name__ == "__main__":
    main()
