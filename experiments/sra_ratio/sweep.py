"""What does spatial reduction cost, and what does it save? PVT paper (arXiv 2102.12122), section 3.3."""

from collections.abc import Sequence

from experiments.common import CIFAR10, ON_CIFAR10, ON_TOYS, SIZE, TOY, TOY_PVT, classifiers, one_of
from pvt_jax.sweeps import Column, Lines, Measure, Sweep, Train

# Of each stage. The last one holds the class token and is never reduced. The paper's are those of every PVT, so that
# other experiments' runs of it are found.
_RATIOS = {"none": (1, 1, 1, 1), "half": (4, 2, 1, 1), "paper": (8, 4, 2, 1), "double": (16, 8, 4, 1)}
_SIDES = (224, 320, 448, 640)


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10, accuracy; macs and cost, of PVT-Tiny on larger images; imagenet, accuracy; toy."""
    titles = {
        "cifar10": f"PVT on {ON_CIFAR10}",
        "imagenet": "PVT-Tiny on ImageNet-1k, 300 epochs at 224²",
        "macs": "MACs of PVT-Tiny, a forward pass of one image, counted",
        "cost": "PVT-Tiny, a training step with one image, float32, on two CPU cores",
        "toy": ON_TOYS,
    }
    if one_of(scale, titles) == "macs":
        return _macs(titles[scale])
    if scale == "cost":
        return _cost(titles[scale])
    config, keys = {"cifar10": (CIFAR10, {}), "imagenet": ("pvt_tiny", {}), "toy": ("digits", TOY | TOY_PVT)}[scale]
    arms = [
        Train(
            name,
            config,
            keys if name == "paper" else {**keys, "model.sr_ratios": of_stages},
            facts={"ratios": ", ".join(map(str, of_stages))},
        )
        for name, of_stages in _RATIOS.items()
        if scale != "toy" or name in ("none", "paper")
    ]
    columns = [Column("ratios of the stages", "facts.ratios"), *SIZE]
    return classifiers(scale, titles[scale], "Reduction ratios", arms, baseline="paper", columns=columns)


def _measured(module: str, model: Sequence[str], words: Sequence[str]) -> list[Measure]:
    """PVT-Tiny at all ratios and sizes; ``model`` is how the module's command names it."""
    arms = []
    for name, of_stages in _RATIOS.items():
        ratios = f"sr_ratios={of_stages}".replace(" ", "")
        for side in _SIDES:
            command = (*model, "--set", ratios, "--image_size", str(side), *words, "--batch_size", "1", "--json")
            arms.append(Measure(f"{name}_{side}", module, command, facts={"ratios": name, "side": side}))
    return arms


def _drawn(file: str, of: str, value: str, label: str, factor: float) -> Lines:
    side = "side of the image, pixels"
    return Lines(file, of, "facts.side", f"values.{value}", side, label, "facts.ratios", factor, log=True)


def _macs(title: str) -> Sweep:
    return Sweep(
        title=title,
        scale="macs",
        arms=_measured("pvt_jax.summary", ["pvt_tiny"], []),
        columns=[
            Column("side", "facts.side", ".0f"),
            Column("GMACs", "values.macs", ".3f", 1e-9),
            *(
                Column(f"attention of stage {stage}, MMACs", f"values.parts.stage{stage}.attention_macs", ".3f", 1e-6)
                for stage in range(1, 5)
            ),
        ],
        figures=[
            _drawn("macs.png", "MACs of the forward pass", "macs", "GMACs", 1e-9),
            _drawn("attention.png", "MACs of attention", "attention_macs", "GMACs", 1e-9),
        ],
    )


def _cost(title: str) -> Sweep:
    return Sweep(
        title=title,
        scale="cost",
        arms=_measured("pvt_jax.benchmark", ["--model", "pvt_tiny"], ["--mode", "train"]),
        columns=[
            Column("side", "facts.side", ".0f"),
            Column("GMACs", "values.macs_per_image", ".2f", 1e-9),
            Column("temporary memory, MiB", "values.memory.temporary", ".0f", 2**-20),
            Column("seconds a step", "values.seconds_per_step", ".3f"),
        ],
        figures=[
            _drawn("memory.png", "Memory of a training step", "memory.temporary", "MiB", 2**-20),
            _drawn("time.png", "Time of a training step", "seconds_per_step", "seconds", 1.0),
        ],
    )
