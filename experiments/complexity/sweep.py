"""How do MACs, memory and time grow with the image? PVT paper (arXiv 2102.12122); PVT v2, section 3.2."""

from experiments.common import ON_TOYS, one_of
from pvt_jax.sweeps import Column, Lines, Measure, Sweep

_MODELS = {
    "ViT-S/16": "vit_small_patch16",
    "ViT-S/32": "vit_small_patch32",
    "PVT-S": "pvt_small",
    "PVT v2-B2": "pvt_v2_b2",
    "PVT v2-B2-Li": "pvt_v2_b2_li",
    "ResNet-50": "resnet50",
}
_SIDES = (224, 320, 448, 640, 896, 1280)
# Beyond these a training step takes minutes here.
_TIMED = (224, 320, 448, 640)
_AREA = "area of the image, pixels"


def get_sweep(scale: str = "macs") -> Sweep:
    """Scales: macs, counted, with activation memory; time, of inference and of its compiled program; toy."""
    titles = {
        "macs": "A forward pass of one image, and what it keeps for the backward pass, float32, counted",
        "time": "Inference with one image, float32, on two CPU cores",
        "toy": ON_TOYS,
    }
    if one_of(scale, titles) == "time":
        return _time(titles[scale])
    models, sides = ({"PVT v2-B0": "pvt_v2_b0"}, (64, 96)) if scale == "toy" else (_MODELS, _SIDES)
    arms = []
    for shown, model in models.items():
        for side in sides:
            words = (model, "--image_size", str(side), "--batch_size", "1", "--json")
            facts = {"model": shown, "side": side, "area": side**2}
            arms.append(Measure(f"{model}_{side}", "pvt_jax.summary", words, facts=facts))
    memory = "values.memory.activations"
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=arms,
        columns=[
            Column("side", "facts.side", ".0f"),
            Column("GMACs", "values.macs", ".3f", 1e-9),
            Column("of attention", "values.attention_macs", ".3f", 1e-9),
            Column("activations, MiB", memory, ".1f", 2**-20),
        ],
        figures=[
            _drawn("macs", "MACs", "values.macs", "GMACs", 1e-9, 0),
            _drawn("attention", "MACs of attention", "values.attention_macs", "GMACs", 1e-9, 0),
            _drawn("activations", "Activations kept for the backward pass", memory, "MiB", 2**-20, 0),
        ],
    )


def _time(title: str) -> Sweep:
    arms = []
    for shown, model in _MODELS.items():
        for side in _TIMED:
            words = ("--model", model, "--mode", "infer", "--batch_size", "1", "--image_size", str(side), "--json")
            facts = {"model": shown, "side": side, "area": side**2}
            arms.append(Measure(f"{model}_{side}", "pvt_jax.benchmark", words, facts=facts))
    memory = "values.memory.temporary"
    return Sweep(
        title=title,
        scale="time",
        arms=arms,
        columns=[
            Column("side", "facts.side", ".0f"),
            Column("GMACs", "values.macs_per_image", ".2f", 1e-9),
            Column("milliseconds", "values.seconds_per_step", ".1f", 1e3),
            Column("temporary memory, MiB", memory, ".1f", 2**-20),
        ],
        figures=[
            _drawn("time", "Time", "values.seconds_per_step", "milliseconds", 1e3, 0),
            _drawn("macs_timed", "MACs at the sizes that are timed", "values.macs_per_image", "GMACs", 1e-9, 0),
            _drawn("temporary", "Temporary memory of the compiled program", memory, "MiB", 2**-20, 0),
        ],
    )


def _drawn(file: str, title: str, value: str, label: str, factor: float, fit_from: float) -> Lines:
    return Lines(f"{file}.png", title, "facts.area", value, _AREA, label, "facts.model", factor, True, fit_from)
