"""Is a detector on PVT slower than on ResNet-50? PVT paper (arXiv 2102.12122), ablation study."""

from experiments.common import ON_TOYS, one_of
from pvt_jax.sweeps import Column, Lines, Measure, Sweep

# (model, height and width, AP that the papers report)
_ROWS = (
    ("resnet50", (800, 1344), 36.3),
    ("pvt_tiny", (800, 1344), 36.7),
    ("pvt_small", (800, 1344), 40.4),
    ("resnet50", (640, 1088), None),
    ("pvt_tiny", (640, 1088), None),
    ("pvt_small", (640, 1088), 38.7),
)


def get_sweep(scale: str = "retinanet") -> Sweep:
    """Scales: retinanet; toy."""
    titles = {
        "retinanet": "RetinaNet, inference with one image, float32, random weights, on two CPU cores",
        "toy": ON_TOYS,
    }
    rows = (("pvt_tiny", (64, 96), None),) if one_of(scale, titles) == "toy" else _ROWS
    small = ("--set", "dims=(8,16,40,32)", "--set", "depths=(1,1,1,1)", "--set", "head.channels=8", "--steps", "1")
    arms = []
    for model, (height, width), published in rows:
        words = ["--model", model, "--head", "retinanet", "--mode", "infer", "--batch_size", "1"]
        words += ["--image_size", str(height), str(width), *(small if scale == "toy" else ()), "--json"]
        facts = {"model": model, "height": height, **({"published": published} if published else {})}
        arms.append(Measure(f"{model}_{height}", "pvt_jax.benchmark", words, facts=facts))
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=arms,
        columns=[
            Column("published AP", "facts.published", ".1f"),
            Column("parameters, M", "values.parameters", ".1f", 1e-6),
            Column("milliseconds", "values.seconds_per_step", ".0f", 1e3),
            Column("temporary memory, MiB", "values.memory.temporary", ".0f", 2**-20),
        ],
        figures=[
            Lines(
                f"latency_{scale}.png",
                "Latency",
                "facts.height",
                "values.seconds_per_step",
                "shorter side of the image, pixels",
                "milliseconds",
                "facts.model",
                1e3,
            )
        ],
    )
