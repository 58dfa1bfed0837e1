"""One step of a model of ``pvt_jax``, for ``compare_pytorch.py``."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import flax
import jax

from experiments.speed.cases import DETECTORS, IMAGE_CLASSES, OBJECT_CLASSES, OBJECTS, PIXEL_CLASSES, SEGMENTERS
from pvt_jax import programs


def jax_step(arguments: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A function that runs one step and waits for it, and facts about the model and its compilation."""
    program = programs.program(subject(arguments), arguments.mode, arguments.batch_size)
    start = time.perf_counter()
    compiled = program.function.lower(*program.abstract).compile()
    facts = {
        "parameters": program.parameters,
        "versions": f"jax {jax.__version__}, flax {flax.__version__}, {jax.default_backend()}",
        "compile_seconds": time.perf_counter() - start,
    }
    return program.runner(compiled), facts


def subject(arguments: argparse.Namespace) -> programs.Subject:
    """The model, without dropout and stochastic depth, as the baseline has it."""
    name, _, head = arguments.model.partition("+")
    settings: dict[str, Any] = {"drop_path_rate": 0.0}
    classes = IMAGE_CLASSES
    if arguments.model in SEGMENTERS:
        classes = PIXEL_CLASSES
        settings["head.dropout_rate"] = 0.0
    elif arguments.model in DETECTORS:
        classes = OBJECT_CLASSES
        settings["detection.max_objects"] = OBJECTS
    return programs.subject(name, head, image_size=arguments.image_size, num_classes=classes, settings=settings)
