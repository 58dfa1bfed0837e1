"""The steps of a model of ``pvt_jax``, for ``turns.py``."""

import dataclasses
import time
from typing import Any

import flax
import jax

from experiments.speed.cases import (
    DETECTORS,
    IMAGE_CLASSES,
    OBJECT_CLASSES,
    OBJECTS,
    PIXEL_CLASSES,
    SEGMENTERS,
    Case,
    Side,
)
from experiments.speed.turns import resident_peak
from pvt_jax import devices, programs, trace
from pvt_jax.compilation import trim_after_compiling
from pvt_jax.planning.traffic import traffic

# Multiply-accumulates of a step over those of a forward pass: a backward pass has twice as many.
_PASSES = {"infer": 1, "train": 3}


class JaxSteps:
    """The jitted program of ``python -m pvt_jax.benchmark``, compiled."""

    def __init__(self, case: Case, side: Side):
        trim_after_compiling()
        program = programs.program(subject(case, side), case.mode, case.batch_size)  # pyright: ignore[reportArgumentType]
        start = time.perf_counter()
        compiled = program.function.lower(*program.abstract).compile()
        device = jax.devices()[0]
        self.facts = {
            "parameters": program.parameters,
            "versions": f"jax {jax.__version__}, flax {flax.__version__}, {device.device_kind}",
            "compile_seconds": time.perf_counter() - start,
            **(work_of(program, compiled, case) if case.device != "cpu" else {}),
        }
        self.start_one = program.runner(compiled, waits=False)
        self.results: Any = None

    def start(self) -> None:
        """Hand the next step over."""
        self.results = self.start_one()

    def wait(self) -> None:
        """Wait for the last step, which comes after all others."""
        jax.block_until_ready(self.results)

    def peak_bytes(self) -> int:
        """Of the device, or of the process where devices do not say."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use") or resident_peak()


def subject(case: Case, side: Side) -> programs.Subject:
    """The model, without dropout and stochastic depth, as the baseline has it."""
    name, _, head = case.model.partition("+")
    settings: dict[str, Any] = {"drop_path_rate": 0.0, "dtype": case.dtype}
    classes = IMAGE_CLASSES
    if case.model in SEGMENTERS:
        classes = PIXEL_CLASSES
        settings["head.dropout_rate"] = 0.0
    elif case.model in DETECTORS:
        classes = OBJECT_CLASSES
        settings["detection.max_objects"] = OBJECTS
    found = programs.subject(name, head, image_size=case.image_size, num_classes=classes, settings=settings)
    return dataclasses.replace(found, config=dataclasses.replace(found.config, kernels=side.kernels))


def work_of(program: programs.Program, compiled: Any, case: Case) -> dict[str, Any]:
    """FLOPs of a step and bytes that its kernels move, with what the device can do at most, None if not known."""
    products = trace.function_products(program.forward, *program.forward_inputs)
    sheet = devices.find(jax.devices()[0].device_kind)
    return {
        "flops": 2 * _PASSES[case.mode] * (products.weights + products.attention),
        "bytes": traffic(compiled.as_text(), jax.device_count()).bytes,
        "peak_flops": sheet and devices.peak_flops(jax.devices()[0].device_kind, case.dtype),
        "bandwidth": sheet and sheet.bandwidth,
        "planned_bytes": (programs.allocated(compiled) or {}).get("total"),
    }
