"""Whether a run can use the kernels of ``pvt_jax.ops.kernels``."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from pvt_jax.errors import UserError
from pvt_jax.messages import waiting
from pvt_jax.ops import target
from pvt_jax.tasks.options import TaskConfig


def check_kernels(config: TaskConfig, mesh: Mesh, say: Callable[[str], None]) -> None:
    """Compare the kernels that a run on ``mesh`` would use with XLA.

    Raises UserError: one of them computes something else, or does not run here.
    """
    with target.compiled_for(mesh):
        wanted = config.kernels and target.has_kernels(config.model.dtype)
    if not wanted:
        return
    from pvt_jax.ops.kernels.check import TOLERANCE, differences  # imports Pallas

    device = mesh.devices.flat[0].device_kind
    way_out = "--config.kernels=False trains without them; please report it"
    try:
        with waiting("checking the kernels", say):
            # On a device of each process: that others share the batch does not matter to what a kernel computes.
            found = differences(Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), mesh.axis_names))
    except jax.errors.JaxRuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the kernels do not run on {device} ({first}): {way_out}") from error
    for name, difference in found.items():
        if difference > TOLERANCE:
            raise UserError(
                f"on {device} the kernel of the {name} differs from XLA by {difference:.2g} of the largest value: "
                f"{way_out}"
            )
