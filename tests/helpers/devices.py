"""Meshes of one device: what is traced for them takes the forms for one CPU, or those for TPUs."""

import jax
import numpy as np
from jax.sharding import Mesh

ONE_DEVICE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))


class _Tpu:
    platform = "tpu"


# Nothing in the forms for TPUs is specific to them, so tests run them anywhere.
ONE_TPU = Mesh(np.array([_Tpu()]).reshape(1, 1), ("data", "fsdp"))
