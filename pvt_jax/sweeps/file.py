"""Find and run the file of a sweep."""

import importlib.util
import sys
from pathlib import Path

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.sweeps.spec import Sweep


def load(spec: str) -> tuple[Path, Sweep]:
    """(the file, its sweep) of ``PATH`` or ``PATH:SCALE``: what its ``get_sweep(scale)`` gives.

    A sweep may import from the folder above its own: ``from experiments.common import …``. Raises UserError: there is
    no such file, or it is wrong.
    """
    name, _, scale = spec.partition(":")
    file = Path(paths.local(name, "SWEEP"))
    if file.is_dir():
        file /= "sweep.py"
    if not file.is_file():
        known = sorted(str(path) for path in file.parent.parent.glob("*/sweep.py"))
        raise UserError(f"no sweep {file}{': there are ' + ', '.join(known) if known else ''}")
    file = file.resolve()
    searched = str(file.parents[2])
    sys.path.insert(0, searched)
    try:
        found = importlib.util.spec_from_file_location(f"pvt_jax_sweep_{file.parent.name}", file)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        sweep = module.get_sweep(scale) if scale else module.get_sweep()
        if not isinstance(sweep, Sweep):
            raise UserError(f"get_sweep gives {type(sweep).__name__} in place of pvt_jax.sweeps.Sweep")
        sweep.check()
    except UserError as error:
        raise UserError(f"{file.parent.name}/{file.name}: {error}") from error
    except Exception as error:
        raise UserError(f"{file.parent.name}/{file.name} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(searched)
    return file, sweep
