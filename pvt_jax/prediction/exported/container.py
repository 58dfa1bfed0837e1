"""The file of an export: a zip with ``metadata.json``, a program of jax.export for each size, and the weights, once."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from pvt_jax.prediction.exported.description import describe, versions
from pvt_jax.prediction.exported.function import Function, Outputs, Size

FORMAT, METADATA = "pvt_jax export 1", "metadata.json"
# The option of jax for how many lines of source each operation of a program names.
_LINES = "jax_traceback_in_locations_limit"
# Of all files in the zip, so that equal exports are equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


def write(
    path: Path, function: Function, sizes: Sequence[Size], platforms: Sequence[str], say: Callable[[str], None]
) -> None:
    """Write the file; ``say`` takes lines on how far it is.

    Raises UserError: the model takes no images of one of the sizes.
    """
    programs = {}
    for size in sizes:
        say(f"exporting for images of {size[0]}×{size[1]}")
        programs[size] = make_program(function, size, platforms)
    first = next(iter(programs.values()))
    metadata = {
        "format": FORMAT,
        **describe(function),
        "programs": [_described(size, program) for size, program in programs.items()],
        "weights": sorted(function.weights),
        "platforms": first.platforms,
        "versions": {**versions("jax"), "calling_convention": first.calling_convention_version},
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in metadata.items()]
    texts = {METADATA: ("{\n" + ",\n".join(lines) + "\n}\n").encode()}
    texts |= {_place(size): bytes(program.serialize()) for size, program in programs.items()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in texts.items():
            file.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
        for name, leaf in sorted(function.weights.items()):
            # Numbers do not compress, and are read faster as they are.
            with file.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, leaf, allow_pickle=False)


def make_program(function: Function, size: Size, platforms: Sequence[str]) -> jax_export.Exported:
    """The function for images of ``size`` as StableHLO, for all ``platforms`` and batches of any size.

    Raises UserError: the model takes no images of this size.
    """
    (batch,) = jax_export.symbolic_shape("b")
    with _no_source_lines():
        return jax_export.export(jax.jit(function), platforms=platforms)(*function.arguments(size, batch))


def read(path: Path) -> tuple[dict[str, Any], dict[Size, Outputs]]:
    """(metadata, outputs as functions of images by their size), as docs/export.md shows it."""
    with np.load(path) as file:
        metadata = json.loads(file[METADATA])
        weights = jax.device_put({name: file[name] for name in metadata["weights"]})
        programs = {}
        for one in metadata["programs"]:
            program = jax_export.deserialize(bytearray(file[one["file"]]))
            programs[tuple(one["image_size"])] = partial(jax.jit(program.call), weights)
    return metadata, programs


@contextmanager
def _no_source_lines() -> Iterator[None]:
    """Programs made inside do not name the lines that they come from, with the folders of this machine."""
    limit = getattr(jax.config, _LINES)
    jax.config.update(_LINES, 0)
    try:
        yield
    finally:
        jax.config.update(_LINES, limit)


def _place(size: Size) -> str:
    return f"programs/{size[0]}x{size[1]}.jax_export"


def _described(size: Size, program: jax_export.Exported) -> dict[str, Any]:
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    shapes = {
        name: {"shape": [side if isinstance(side, int) else str(side) for side in leaf.shape], "dtype": leaf.dtype.name}
        for name, leaf in outputs.items()
    }
    return {"file": _place(size), "image_size": size, "outputs": shapes}
