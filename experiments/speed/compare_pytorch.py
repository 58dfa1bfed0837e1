"""Times PVT and PVT v2 here against Hugging Face's in eager PyTorch, in turns, on one machine.

    python experiments/speed/compare_pytorch.py --torch_python /path/to/an/environment/with/torch/bin/python \\
        --models pvt_tiny pvt_small --modes infer train --rounds 10 --json results.json

Prints a markdown table; 10 rounds of PVT-Tiny take about 2 minutes on two CPU cores. For each model and mode, one
process for each framework lives through all rounds and runs only when it is asked to, so that both meet the same
state of the machine. Both do the same work in float32 on random weights, with no dropout and no drop-path: ``infer``
is the forward pass; ``train`` is cross-entropy, the gradients of all parameters and one AdamW step.

A name with a plus is a backbone and a head of segmentation, 150 classes; its peer is Hugging Face's SegFormer-B0. Here
``infer`` ends with scores at a quarter of the image's sides; ``train`` has the loss at its full size, and batch norms
in training mode.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMEWORKS = ("jax", "torch")


def jax_step(arguments: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call that runs one step here and waits for it; and facts about the model and its compilation."""
    sys.path.insert(0, str(REPOSITORY))
    import flax
    import jax
    import optax

    from pvt_jax.compilation import compiler_options
    from pvt_jax.losses.segmentation import segmentation_cross_entropy
    from pvt_jax.models import create_model

    name, _, head = arguments.model.partition("+")
    side, batch = arguments.image_size, arguments.batch_size
    images = jax.random.normal(jax.random.key(0), (batch, side, side, 3))
    if head:
        model = create_model(name, head=head, head_settings={"dropout_rate": 0.0}, num_classes=CLASSES)
        labels = jax.random.randint(jax.random.key(1), (batch, side, side), 0, CLASSES).astype("uint8")
    else:
        model = create_model(name, image_size=side)
        labels = jax.random.randint(jax.random.key(1), (batch,), 0, 1000)
    variables = jax.jit(model.init, compiler_options=compiler_options("init"))(jax.random.key(2), images[:1])
    params, rest = variables["params"], {name: tree for name, tree in variables.items() if name != "params"}
    optimizer = optax.adamw(1e-3, weight_decay=0.05)

    def loss(params: Any, rest: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        if not head:
            logits: Any = model.apply({"params": params}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest
        options: Any = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(3)}}
        logits, rest = model.apply({"params": params, **rest}, images, **options)
        losses, counts = segmentation_cross_entropy(logits, labels)
        return losses.sum() / counts.sum(), rest

    def update(state: Any, images: jax.Array) -> tuple[Any, jax.Array]:
        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(state[0], state[2], images)
        updates, optimizer_state = optimizer.update(gradients, state[1], state[0])
        return (optax.apply_updates(state[0], updates), optimizer_state, rest), value

    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "versions": f"jax {jax.__version__}, flax {flax.__version__}, {jax.default_backend()}",
    }
    start = time.perf_counter()
    if arguments.mode == "infer":
        forward = jax.jit(lambda variables, images: model.apply(variables, images))
        compiled = forward.lower(variables, images).compile(compiler_options("infer"))
        facts["compile_seconds"] = time.perf_counter() - start
        return lambda: compiled(variables, images).block_until_ready(), facts

    state = [(params, optimizer.init(params), rest)]
    compiled = jax.jit(update, donate_argnums=0).lower(state[0], images).compile(compiler_options("train"))
    facts["compile_seconds"] = time.perf_counter() - start

    def step() -> None:
        state[0], _ = compiled(state[0], images)
        jax.block_until_ready(state[0])

    return step, facts


# Depths and dims, from the papers; the rest is the same for all sizes of a family.
WIDE = (64, 128, 320, 512)
SIZES = {
    "pvt_tiny": ((2, 2, 2, 2), WIDE),
    "pvt_small": ((3, 4, 6, 3), WIDE),
    "pvt_medium": ((3, 4, 18, 3), WIDE),
    "pvt_v2_b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "pvt_v2_b1": ((2, 2, 2, 2), WIDE),
    "pvt_v2_b2": ((3, 4, 6, 3), WIDE),
}
SEGMENTERS = ("mit_b0+segformer", "pvt_tiny+semantic_fpn")
CLASSES = 150  # of segmentation


def peer(transformers: Any, name: str, image_size: int) -> Any:
    """Hugging Face's model of this name, or SegFormer-B0 for a segmenter; random weights, nothing dropped.

    The reference's epsilon is 1e-6 in blocks, 1e-5 after embeddings; one value here, which time does not feel.
    """
    if name in SEGMENTERS:
        dropped = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "drop_path_rate")
        config = transformers.SegformerConfig(num_labels=CLASSES, **dict.fromkeys(dropped, 0.0))
        return transformers.SegformerForSemanticSegmentation(config)
    depths, dims = SIZES[name]
    common = {
        "image_size": image_size,
        "depths": depths,
        "hidden_sizes": dims,
        "num_attention_heads": (1, 2, 5, 8),
        "mlp_ratios": (8, 8, 4, 4),
        "num_labels": 1000,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }
    if name.startswith("pvt_v2"):
        return transformers.PvtV2ForImageClassification(transformers.PvtV2Config(sr_ratios=(8, 4, 2, 1), **common))
    steps = {"sequence_reduction_ratios": (8, 4, 2, 1), "patch_sizes": (4, 2, 2, 2), "strides": (4, 2, 2, 2)}
    return transformers.PvtForImageClassification(transformers.PvtConfig(**steps, **common))


def torch_step(arguments: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any]]:
    """As ``jax_step``, for Hugging Face's model; AdamW in the form that is fastest on this machine."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model = peer(transformers, arguments.model, arguments.image_size)
    images = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    segments = arguments.model in SEGMENTERS
    shape = (arguments.batch_size, arguments.image_size, arguments.image_size) if segments else (arguments.batch_size,)
    labels = torch.randint(0, CLASSES if segments else 1000, shape)
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": f"torch {torch.__version__} ({torch.get_num_threads()} threads), "
        f"transformers {transformers.__version__}",
        "compile_seconds": 0.0,
    }
    if arguments.mode == "infer":
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                model(images)

        return forward, facts

    model.train()

    def backward() -> None:
        if segments:
            model(images, labels=labels).loss.backward()
        else:
            torch.nn.functional.cross_entropy(model(images).logits, labels).backward()

    def seconds_of_update(form: str) -> float:
        options: dict[str, Any] = {form: True}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, **options)
        optimizer.step()
        start = time.perf_counter()
        for _ in range(3):
            optimizer.step()
        return time.perf_counter() - start

    backward()
    form = min(("foreach", "fused"), key=seconds_of_update)
    facts["versions"] += f", {form} AdamW"
    options: dict[str, Any] = {form: True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, **options)

    def step() -> None:
        optimizer.zero_grad()
        backward()
        optimizer.step()

    return step, facts


def work(arguments: argparse.Namespace) -> None:
    """Answer each line of standard input with one line: facts about the case first, then the seconds of each step."""
    step, facts = (jax_step if arguments.worker == "jax" else torch_step)(arguments)
    for _ in range(arguments.warmup):
        step()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        step()  # What an idle process has lost meanwhile, caches and pages of memory, is no cost of a step.
        seconds = []
        for _ in range(arguments.steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts it in KiB
        print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


def compare(arguments: argparse.Namespace, model: str, mode: str) -> dict[str, Any]:
    """Results of one model and mode, by framework: times, images a second, facts."""
    settings = ["batch_size", "image_size", "steps", "warmup"]
    flags = [f"--{name}={getattr(arguments, name)}" for name in settings] + [f"--model={model}", f"--mode={mode}"]
    workers, results = {}, {}
    for framework in FRAMEWORKS:
        command = [getattr(arguments, f"{framework}_python"), __file__, f"--worker={framework}", *flags]
        workers[framework] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        results[framework] = read(workers[framework]) | {"seconds": []}
    if model != "pvt_tiny+semantic_fpn":  # Its peer is another model.
        assert results["jax"]["parameters"] == results["torch"]["parameters"], results
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
    """One answer of a worker; a worker that died has written why on standard error."""
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
        *(f"{side['images_per_second']:.1f}" for side in (ours, theirs)), f"{ratio:.2f}", f"{best:.2f}",
        f"{ours['compile_seconds']:.0f}", *(f"{side['peak_gib']:.1f}" for side in (ours, theirs)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax_python", default=sys.executable, help="interpreter of the environment with jax")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter with torch and transformers")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["pvt_tiny", "pvt_small", "pvt_v2_b0", "pvt_v2_b2"],
        choices=[*SIZES, *SEGMENTERS],
    )
    parser.add_argument("--modes", nargs="+", default=["infer", "train"], choices=["infer", "train"])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each framework")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a turn, after one that is not")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    for name, choices in {"worker": FRAMEWORKS, "model": None, "mode": ("infer", "train")}.items():
        parser.add_argument(f"--{name}", choices=choices, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)

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
