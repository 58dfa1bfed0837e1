"""The file of an export: a zip with ``metadata.json``, a program of jax.export for each size, and the weights, once."""

import importlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from pvt_jax.prediction.exported.function import Function

FORMAT, METADATA = "pvt_jax export 1", "metadata.json"
# Of all files in the zip, so that equal exports are equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Program:
    """A program for images of ``size`` (height, width) and any number of them."""

    size: tuple[int, int]
    exported: jax_export.Exported

    @property
    def path(self) -> str:
        """Its place in the zip."""
        height, width = self.size
        return f"programs/{height}x{width}.jax_export"


def make_program(function: Function, size: tuple[int, int], platforms: Sequence[str]) -> Program:
    """The function for images of ``size`` (height, width) as StableHLO, for all ``platforms`` and batches of any size.

    Raises UserError: the model takes no images of this size.
    """
    (batch,) = jax_export.symbolic_shape("b")
    arguments = function.arguments(size, batch)
    return Program(size, jax_export.export(jax.jit(function), platforms=platforms)(*arguments))


def describe(function: Function, programs: Sequence[Program]) -> dict[str, Any]:
    """What the file says of itself, as plain values of JSON."""
    trained = function.trained
    task, options, classes = trained.task, trained.config.batch_transform, trained.classes
    return {
        "format": FORMAT,
        "task": trained.config.task,
        "model": trained.config.model.name,
        "head": trained.config.head.name,
        "dtype": trained.config.model.dtype,
        "class_names": classes.names,
        "palette": classes.colours.tolist() if classes.palette is None else classes.palette,
        "category_ids": classes.category_ids,
        "input": {
            "layout": "batch, height, width, RGB",
            "dtype": function.input_dtype.name,
            "preprocess": function.preprocess,
            "mean": options.mean,
            "std": options.std,
            "preparation": task.preparation,
        },
        "outputs": {name: task.outputs[name] for name in function.outputs},
        "programs": [_described(program) for program in programs],
        "weights": sorted(function.weights),
        "platforms": programs[0].exported.platforms,
        "versions": {
            "pvt_jax": importlib.import_module("pvt_jax").__version__,
            "jax": jax.__version__,
            "calling_convention": programs[0].exported.calling_convention_version,
        },
    }


def write(path: Path, function: Function, programs: Sequence[Program]) -> None:
    """Write the file."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in describe(function, programs).items()]
    texts = {METADATA: ("{\n" + ",\n".join(lines) + "\n}\n").encode()}
    texts |= {program.path: bytes(program.exported.serialize()) for program in programs}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in texts.items():
            file.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
        for name, leaf in sorted(function.weights.items()):
            # Numbers do not compress, and are read faster as they are.
            with file.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(leaf), allow_pickle=False)


@dataclass(frozen=True, eq=False)
class Container:
    """A file that ``write`` made, read by jax and NumPy alone, as docs/export.md shows."""

    metadata: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    programs: Mapping[tuple[int, int], jax_export.Exported]


def read(path: Path) -> Container:
    """Read a file."""
    with np.load(path) as file:
        metadata = json.loads(file[METADATA])
        programs = {
            tuple(one["image_size"]): jax_export.deserialize(bytearray(file[one["file"]]))
            for one in metadata["programs"]
        }
        return Container(metadata, {name: file[name] for name in metadata["weights"]}, programs)


def _described(program: Program) -> dict[str, Any]:
    exported = program.exported
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "file": program.path,
        "image_size": program.size,
        "outputs": {
            name: {
                "shape": [side if isinstance(side, int) else str(side) for side in leaf.shape],
                "dtype": leaf.dtype.name,
            }
            for name, leaf in outputs.items()
        },
    }
