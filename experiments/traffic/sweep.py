"""How many bytes does a training step move through the memory of one device? Compiled for it and counted, not run."""

from collections.abc import Iterator

from experiments.common import compiled_step, one_of, toy_step
from pvt_jax.sweeps import Column, Measure, Sweep

# The config of each model.
_MODELS = {"pvt_tiny": "pvt_tiny", "pvt_small": "pvt_small", "pvt_v2_b0": "pvt_v2:b0", "pvt_v2_b2": "pvt_v2:b2"}
# Images of a step.
_BATCH = 128
_TITLES = {
    "h200": "128 images of 224² in bfloat16 on one H200, compiled for it",
    "v5e": "128 images of 224² in bfloat16 on one chip of TPU v5e, compiled for it",
    "toy": "A step of a toy for this machine, to see that it runs",
}


def get_sweep(scale: str = "h200") -> Sweep:
    """Scales: h200; v5e; toy."""
    toy = one_of(scale, _TITLES) == "toy"
    return Sweep(
        title=_TITLES[scale],
        scale=scale,
        arms=[toy_step({})] if toy else list(_arms(scale)),
        columns=[
            Column("MB an image", "values.traffic.bytes", ".1f", 1e-6 / _BATCH),
            # XLA counts nothing for a GPU.
            *([Column("by XLA's count", "values.traffic.xla_bytes", ".1f", 1e-6 / _BATCH)] if scale == "v5e" else ()),
            Column("kernels", "values.traffic.kernels", ",.0f"),
            Column("temporary memory, GiB", "values.memory.temporary", ".2f", 2**-30),
            Column("traffic, modelled ms", "values.modelled.seconds.memory", ".1f", 1e3),
            Column("operations, modelled ms", "values.modelled.seconds.compute", ".1f", 1e3),
            Column("compiling, s", "values.compile_seconds", ".0f"),
        ],
    )


def _arms(device: str) -> Iterator[Measure]:
    # The kernels in Pallas are for GPUs.
    for kernels in (True, False) if device == "h200" else (True,):
        for model, config in _MODELS.items():
            name = model if kernels else f"{model}_without_kernels"
            yield compiled_step(name, config, {"batch_size": _BATCH, "kernels": kernels}, {}, f"{device}:1")
