"""ONNX: a model for one image size and any number of images, converted by jax2onnx and run by onnxruntime."""

import contextlib
import importlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import export as jax_export

from pvt_jax.errors import UserError
from pvt_jax.prediction.exported.description import describe, versions
from pvt_jax.prediction.exported.function import Function, Outputs, Size

# The entry of the file's metadata with what ``metadata.json`` has in a file of jax.export; what the images are called.
METADATA, IMAGES = "pvt_jax", "images"


def write(path: Path, function: Function, sizes: Sequence[Size], say: Callable[[str], None]) -> None:
    """Write the file, with the weights; ``say`` takes lines on how far it is.

    Raises UserError: jax2onnx or onnxruntime is missing, there are several sizes, or the model cannot be converted.
    """
    converter, _ = _imported("jax2onnx"), _imported("onnxruntime")
    if len(sizes) > 1:
        raise UserError(f"--format onnx takes one --image_size, not {len(sizes)}: write a file for each")
    (size,) = sizes
    (batch,) = jax_export.symbolic_shape("b")
    _, images = function.arguments(size, batch)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    say(f"converting for images of {size[0]}×{size[1]}: this takes up to minutes")
    try:
        # jax2onnx prints what it meets.
        with contextlib.redirect_stdout(io.StringIO()):
            model = converter.to_onnx(
                lambda images: tuple(function(function.weights, images).values()),
                [images],
                model_name=function.trained.config.model.name,
                input_names=[IMAGES],
                output_names=list(function.outputs),
            )
    except UserError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"jax2onnx cannot convert {', '.join(function.outputs)} of this model ({reason}): docs/export.md says what "
            "it can convert; leave --format out, or choose other --outputs"
        ) from error
    entry = model.metadata_props.add()
    metadata = {**describe(function), "image_size": size, "versions": versions("jax", "jax2onnx", "onnx")}
    entry.key, entry.value = METADATA, json.dumps(metadata)
    path.write_bytes(model.SerializeToString())


def read(path: Path) -> tuple[dict[str, Any], dict[Size, Outputs]]:
    """(metadata, outputs as a function of images by their size), on CPU."""
    runtime = _imported("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    names = [output.name for output in session.get_outputs()]

    def call(images: Any) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(names, {IMAGES: np.asarray(images)}), strict=True))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"onnxruntime cannot run the model on {len(images)} images ({reason}): leave --format out"
            ) from error

    return metadata, {tuple(metadata["image_size"]): call}


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--format onnx needs {name} ({error}): pip install jax2onnx onnxruntime") from error
