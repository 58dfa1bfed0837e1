"""Feed-forward networks of each kind, blocks of them, and their gradients as computed for a mesh."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pvt_jax.nn.blocks import Block, run_blocks
from pvt_jax.nn.layers import FeedForward
from pvt_jax.ops import target

GRID = (5, 3)
SIZES = jnp.array([[5, 3], [4, 2], [1, 3], [5, 1], [2, 2], [3, 3]])
V1, V2, LINEAR = {}, {"depthwise": True}, {"depthwise": True, "rectified": True}


def layer_and_inputs(settings, dtype=jnp.float32, batch=6):
    layer = FeedForward(8, 32, dtype, **settings)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, 15, 8)), jnp.float32)
    variables = layer.init(jax.random.key(0), x, GRID)
    # No parameter is 0 or 1, where a mistake might not show.
    variables = jax.tree.map(lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), variables)
    return layer, x, variables


def with_gradients(layer, mesh, sizes, variables, x):
    def of(variables, x):
        return layer.apply(variables, x, GRID, sizes)

    with target.compiled_for(mesh):
        result, back = jax.vjp(of, variables, x)
        return result, back(jnp.cos(result))


def compared(layer, mesh, sizes, variables, x, plain=None) -> Iterator[tuple[Any, Any]]:
    """Results and gradients of ``layer`` for ``mesh``, with those of ``plain``, or of itself, that run anywhere."""
    found, expected = (
        jax.jit(partial(with_gradients, one, place, sizes))(variables, x)
        for one, place in ((layer, mesh), (plain or layer, None))
    )
    return zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)


def assert_close(layer, mesh, sizes, variables, x, plain=None):
    """All that ``compared`` gives is equal to 1e-5 of the largest value of each array."""
    for one, other in compared(layer, mesh, sizes, variables, x, plain):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max(initial=0.0)))


class Stack(nn.Module):
    """Two blocks of PVT v2, run as ``how`` says: by scan, remat or both."""

    how: dict[str, bool]

    @nn.compact
    def __call__(self, x: Any, grid: Any, sizes: Any) -> Any:
        block = partial(Block, 8, 1, 4, 1, jnp.float32, depthwise=True, fan_out_init=True)
        return run_blocks(self, block, 2, x, grid, None, sizes, **{"scan": False, "remat": False, **self.how})


def inputs_of_stack():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 15, 8)), jnp.float32)
    return x, Stack({}).init(jax.random.key(0), x, GRID, SIZES)
