"""What does spatial reduction cost, and what does it save? PVT paper (arXiv 2102.12122), section 3.3."""

from experiments.common import DIGITS, TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Column, Dots, Lines, Measure, Sweep, Train

# Of each stage. The last one holds the class token and is never reduced.
_RATIOS = {
    "none": (1, 1, 1, 1),
    "half": (4, 2, 1, 1),
    "paper": (8, 4, 2, 1),
    "double": (16, 8, 4, 1),
}
_SIDES = (224, 448, 672)


def get_sweep(scale: str = "digits") -> Sweep:
    """Scales: digits, accuracy; cost, of PVT-Tiny on larger images; imagenet; toy."""
    one_of(scale, ("digits", "cost", "imagenet", "toy"))
    return _cost() if scale == "cost" else _accuracy(scale)


def _accuracy(scale: str) -> Sweep:
    config, keys = {
        "digits": ("digits", DIGITS),
        "imagenet": ("pvt_tiny", {}),
        "toy": ("digits", {**TOY, **TOY_PVT, "model.image_size": (64, 64)}),
    }[scale]
    titles = {
        "digits": "PVT on the handwritten digits at 64², 15 epochs",
        "imagenet": "PVT-Tiny on ImageNet-1k, 300 epochs at 224²",
        "toy": "Two steps on the handwritten digits, to see that it runs",
    }
    ratios = {name: _RATIOS[name] for name in ("paper", "none")} if scale == "toy" else _RATIOS
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=[
            Train(
                name, config, {**keys, "model.sr_ratios": of_stages}, facts={"ratios": ", ".join(map(str, of_stages))}
            )
            for name, of_stages in ratios.items()
        ],
        seeds=(0,) if scale == "toy" else (0, 1, 2),
        metric="top1",
        baseline="paper",
        columns=[
            Column("ratios of the stages", "facts.ratios"),
            Column("parameters, M", "values.parameters", ".2f", 1e-6),
            Column("MMACs", "values.backbone_macs", ".1f", 1e-6),
        ],
        figures=[Dots(f"top1_{scale}.png", "Reduction ratios", "values.top1", "top-1, %")],
    )


def _cost() -> Sweep:
    arms = []
    for name, of_stages in _RATIOS.items():
        for side in _SIDES:
            settings = f"sr_ratios={of_stages}".replace(" ", "")
            words = ["--model", "pvt_tiny", "--set", settings, "--image_size", str(side), "--mode", "train"]
            facts = {"ratios": name, "side": side}
            arms.append(
                Measure(f"{name}_{side}", "pvt_jax.benchmark", [*words, "--batch_size", "1", "--json"], facts=facts)
            )
    label = "side of the image, pixels"
    return Sweep(
        title="PVT-Tiny, one image a training step, float32",
        scale="cost",
        arms=arms,
        columns=[
            Column("side", "facts.side", "d"),
            Column("GMACs", "values.macs_per_image", ".2f", 1e-9),
            Column("temporary memory, MiB", "values.memory.temporary", ".0f", 2**-20),
            Column("seconds a step", "values.seconds_per_step", ".3f"),
        ],
        figures=[
            Lines(
                "macs.png", "MACs", "facts.side", "values.macs_per_image", label, "GMACs", "facts.ratios", 1e-9, True
            ),
            Lines(
                "memory.png",
                "Memory of a training step",
                "facts.side",
                "values.memory.temporary",
                label,
                "MiB",
                "facts.ratios",
                2**-20,
                True,
            ),
            Lines(
                "time.png",
                "Time of a training step",
                "facts.side",
                "values.seconds_per_step",
                label,
                "seconds",
                "facts.ratios",
                1.0,
                True,
            ),
        ],
    )
