"""Compares the speed of these models with Hugging Face's and torchvision's in eager PyTorch, on one machine.

    python experiments/speed/compare_pytorch.py --torch_python /path/to/an/environment/with/torch/bin/python \\
        --models pvt_tiny pvt_small --modes infer train --rounds 10 --json results.json

Prints a markdown table; 10 rounds of PVT-Tiny take about 2 minutes on two CPU cores. For each model and mode, one
process per framework lives through all rounds and the two take turns, so that both meet the same state of the machine.
Both do the same work in float32 on random weights, without dropout and stochastic depth: ``infer`` is the forward
pass; ``train`` is cross-entropy, the gradients of all parameters and one AdamW step.

A name with a plus is a backbone and a head. The baseline of a segmenter, 150 classes, is Hugging Face's SegFormer-B0:
``infer`` ends with logits at stride 4; ``train`` has the loss at full resolution, and batch norms in training mode. The
baseline of a detector, 80 classes, is torchvision's: ``infer`` ends with at most 100 detections and their masks, not
pasted into the image; ``train`` has 10 objects per image. Images are not padded, so nothing is masked.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.speed.cases import CLASSIFIERS, DETECTORS, MORE_PARAMETERS, SEGMENTERS, image_size  # noqa: E402

FRAMEWORKS = ("jax", "torch")


def work(arguments: argparse.Namespace) -> None:
    """Print facts about the case, then answer each line of standard input with the seconds of each step, as JSON."""
    # Each environment has one of the two frameworks.
    if arguments.worker == "jax":
        from experiments.speed.jax_steps import jax_step as make_step
    else:
        from experiments.speed.torch_steps import torch_step as make_step
    step, facts = make_step(arguments)
    for _ in range(arguments.warmup):
        step()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        step()  # Untimed: an idle process has lost caches and memory pages, which is no cost of a step.
        seconds = []
        for _ in range(arguments.steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts it in KiB
        print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


def compare(arguments: argparse.Namespace, model: str, mode: str) -> dict[str, Any]:
    """Results of one model and mode, by framework: times, images per second, facts."""
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("batch_size", "steps", "warmup")]
    flags += [f"--image_size={'x'.join(map(str, arguments.image_size))}", f"--model={model}", f"--mode={mode}"]
    workers, results = {}, {}
    for framework in FRAMEWORKS:
        command = [getattr(arguments, f"{framework}_python"), __file__, f"--worker={framework}", *flags]
        workers[framework] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        results[framework] = read(workers[framework]) | {"seconds": []}
    more = MORE_PARAMETERS.get(model, 0)
    if more is not None:
        assert results["jax"]["parameters"] + more == results["torch"]["parameters"], results
    for _ in range(arguments.rounds):
        for framework, worker in workers.items():
            time.sleep(0.3)  # the other framework's threads spin for a while after their last task
            worker.stdin.write("\n")
            worker.stdin.flush()
            answer = read(worker)
            results[framework]["seconds"] += answer["seconds"]
            results[framework]["peak_gib"] = answer["peak_gib"]
    for framework, worker in workers.items():
        worker.stdin.close()
        worker.wait()
        median = statistics.median(results[framework]["seconds"])
        results[framework]["images_per_second"] = arguments.batch_size / median
        results[framework]["best_images_per_second"] = arguments.batch_size / min(results[framework]["seconds"])
    return {"model": model, "mode": mode, **results}


def read(worker: subprocess.Popen) -> dict[str, Any]:
    """One answer of a worker; a worker that died has explained itself on standard error."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker stopped: {worker.args}")
    return json.loads(line)


def row(case: dict[str, Any]) -> str:
    """One line of the table."""
    ours, theirs = case["jax"], case["torch"]
    ratio, best = (ours[key] / theirs[key] for key in ("images_per_second", "best_images_per_second"))
    cells = [
        case["model"], case["mode"],
        *(f"{side['images_per_second']:.3g}" for side in (ours, theirs)), f"{ratio:.2f}", f"{best:.2f}",
        f"{ours['compile_seconds']:.0f}", *(f"{side['peak_gib']:.1f}" for side in (ours, theirs)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


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
    parser.add_argument("--modes", nargs="+", default=["infer", "train"], choices=["infer", "train"])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=image_size, default=(224, 224), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each framework")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per turn, after an untimed one")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    for name, choices in {"worker": FRAMEWORKS, "model": None, "mode": ("infer", "train")}.items():
        parser.add_argument(f"--{name}", choices=choices, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)
    classifiers = [model for model in arguments.models if model in CLASSIFIERS]
    if classifiers and len(set(arguments.image_size)) > 1:
        parser.error(f"Hugging Face's {classifiers[0]} takes only square images: give --image_size as 224")

    print("| model | mode | images/s | PyTorch | ratio | ratio of best | compile, s | peak GiB | PyTorch |")
    print("|---|---|---|---|---|---|---|---|---|")
    cases = []
    for model in arguments.models:
        for mode in arguments.modes:
            cases.append(compare(arguments, model, mode))
            print(row(cases[-1]), flush=True)
    print(f"\n{platform.platform()}; " + "; ".join(cases[-1][framework]["versions"] for framework in FRAMEWORKS))
    if arguments.json:
        arguments.json.write_text(json.dumps(cases, indent=1))


if __name__ == "__main__":
    main()
