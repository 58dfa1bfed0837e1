"""How does training scale with devices, replicated and sharded? Compiled for them and modelled, not measured."""

from collections.abc import Iterator

from experiments.common import compiled_step, one_of, toy_step
from pvt_jax.sweeps import Column, Lines, Measure, Sweep

_MODELS = {
    "PVT-T": "pvt_tiny",
    "PVT-S": "pvt_small",
    "PVT-M": "pvt_medium",
    "PVT-L": "pvt_large",
    "PVT-H v2": "pvt_huge_v2",
}
# Global batch of the ImageNet recipe, and images that a device has at most at once.
_BATCH, _PART = 1024, 128
# Devices, over how many of which parameters are sharded at most: those of a host of GPUs.
_COUNTS = {"v5e": (1, 4, 16, 64, 256), "h200": (8, 16, 32, 64)}
_SHARDS = 8
_TITLES = {
    "v5e": "ImageNet recipe on slices of TPU v5e: compiled for them, times modelled",
    "h200": "ImageNet recipe on hosts of eight H200: compiled for them, times modelled",
    "toy": "A step of a toy for this machine, to see that it runs",
}


def get_sweep(scale: str = "v5e") -> Sweep:
    """Scales: v5e; h200; toy."""
    toy = one_of(scale, _TITLES) == "toy"
    arms = [toy_step({"model": "ViT, replicated", "devices": 1})] if toy else list(_arms(scale))
    count, devices = "facts.devices", "devices"
    return Sweep(
        title=_TITLES[scale],
        scale=scale,
        arms=arms,
        columns=[
            Column("memory of a device, GiB", "values.memory.total", ".2f", 2**-30),
            Column("traffic of a device, GB a step", "values.traffic.bytes", ".2f", 1e-9),
            Column("collectives of a device, MB a step", "values.traffic.collective_bytes", ".1f", 1e-6),
            Column("modelled ms a step", "values.modelled.step_seconds.serial", ".2f", 1e3),
            Column("modelled images per second and device", "values.modelled.device_images_per_second.serial", ".0f"),
            Column("modelled hours", "values.modelled.hours.serial", ".1f"),
            Column("compiling, s", "values.compile_seconds", ".0f"),
        ],
        figures=[
            _drawn(f"memory_{scale}.png", "Memory of a device", "values.memory.total", "GiB", 2**-30),
            Lines(
                f"images_{scale}.png",
                "Images per second, modelled",
                count,
                "values.modelled.images_per_second.serial",
                devices,
                "images per second, modelled",
                "facts.model",
                1.0,
                True,
                1,
            ),
            _drawn(
                f"collectives_{scale}.png",
                "Time in collectives, modelled",
                "values.modelled.seconds.collectives",
                "ms, modelled",
                1e3,
            ),
        ],
    )


def _drawn(file: str, title: str, value: str, label: str, factor: float) -> Lines:
    return Lines(file, title, "facts.devices", value, "devices", label, "facts.model", factor, True)


def _arms(kind: str) -> Iterator[Measure]:
    for shown, model in _MODELS.items():
        for count in _COUNTS[kind]:
            for fsdp in sorted({1, min(count, _SHARDS)}):
                parts = -(-_BATCH // (count * _PART))
                keys = {"model.name": model, "model.scan": True, "accumulation_steps": parts, "mesh.fsdp": fsdp}
                sharding = f"fsdp {fsdp}" if fsdp > 1 else "replicated"
                facts = {"model": f"{shown}, {sharding.partition(' ')[0]}", "devices": count, "sharding": sharding}
                name = f"{model}_{count}_{sharding.replace(' ', '')}"
                yield compiled_step(name, "pvt_large", keys, facts, f"{kind}:{count}")
