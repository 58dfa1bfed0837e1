"""A mesh of one device: what is traced for it takes the forms for one CPU."""

import jax
import numpy as np
from jax.sharding import Mesh

ONE_DEVICE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
