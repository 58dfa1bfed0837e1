"""Reading variables back, for use outside a training run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from orbax.checkpoint import v1 as ocp

from pvt_jax.errors import UserError


def load_variables(path: str | Path, model: nn.Module, *, ema: bool = False) -> dict[str, Any]:
    """Variables for ``model.apply`` from an Orbax checkpoint of a run, every parameter checked against ``model``.

    Args:
      path: a workdir, its ``checkpoints`` folder (of both the newest step is taken), or the folder of one step.
      model: as made by ``pvt_jax.create_model``, with the settings that it was trained with.
      ema: take the moving average of the parameters instead.

    Returns:
      ``{"params": …}``, with ``batch_stats`` if the model has them; arrays on the default device.

    Raises:
      UserError: there is no checkpoint, it has no such item, or its parameters are not the model's.
    """
    step = _step_folder(Path(path).expanduser())
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *_image_size(model), 3)))
    names = {"params": "ema_params" if ema else "params"}
    names.update({collection: collection for collection in expected if collection != "params"})
    missing = [name for name in names.values() if not (step / name).is_dir()]
    if missing:
        raise UserError(f"{step} has no {missing[0]}: it was written by a run without")
    shapes: Any = ocp.checkpointables_metadata(str(step.absolute())).metadata
    problems = compare_shapes({collection: shapes[name] for collection, name in names.items()}, expected)
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"{step} does not hold this model: {'; '.join(problems[:4])}{more}. Create the model with the name, "
            "num_classes and other settings in the run's config.json"
        )
    # Asking for NumPy arrays makes Orbax forget the devices that the checkpoint was saved on.
    wanted = {name: jax.tree.map(lambda a: np.empty(a.shape, a.dtype), shapes[name]) for name in names.values()}
    saved: Any = ocp.load_checkpointables(str(step.absolute()), wanted)
    return jax.tree.map(jnp.asarray, {collection: saved[name] for collection, name in names.items()})


def compare_shapes(found: Any, expected: Any) -> list[str]:
    """One line for each leaf that is missing, unexpected or of another shape, by its path; empty if all fit."""
    have, want = _shapes(found), _shapes(expected)
    problems = []
    for path in sorted(have.keys() | want.keys()):
        if path not in have:
            problems.append(f"{path} is missing")
        elif path not in want:
            problems.append(f"{path} is unexpected")
        elif have[path] != want[path]:
            problems.append(f"{path} is {have[path]}, here {want[path]}")
    return problems


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _image_size(model: nn.Module) -> tuple[int, int]:
    side = getattr(model, "image_size", 224)
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _step_folder(path: Path) -> Path:
    if (path / "params").is_dir() or (path / "ema_params").is_dir():
        return path
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = [int(folder.name) for folder in root.iterdir() if folder.name.isdigit()] if root.is_dir() else []
    if not steps:
        raise UserError(f"no Orbax checkpoint in {path}: give a workdir, its checkpoints folder, or one step's folder")
    return root / str(max(steps))
