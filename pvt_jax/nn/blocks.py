"""The transformer block, and stacks of blocks, unrolled, rematerialised or scanned."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.nn.layers import FeedForward, SpatialReductionAttention, stochastic_depth_scales
from pvt_jax.nn.normalization import LayerNorm
from pvt_jax.ops import target

BlockType = type[nn.Module] | partial[Any]


class Block(nn.Module):
    """Pre-norm transformer block: x + SRA(Norm(x)), then x + FeedForward(Norm(x)).

    ``depthwise``, ``pooled_side`` and ``fan_out_init`` are PVT v2's: see ``FeedForward`` and
    ``SpatialReductionAttention``.
    """

    dim: int
    num_heads: int
    mlp_ratio: int
    sr_ratio: int
    dtype: DTypeLike
    depthwise: bool = False
    pooled_side: int = 0
    fan_out_init: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        grid: tuple[int, int],
        branch_scales: Float[Array, "2 b"] | None,
        sizes: Int[Array, "b 2"] | None = None,
    ) -> Float[Array, "b n c"]:
        """``branch_scales`` multiply each sample's two residual branches (stochastic depth); None keeps both.

        ``sizes``: see ``padding.py``.
        """
        reduction = {"pooled_side": self.pooled_side, "fan_out_init": self.fan_out_init}
        attention = SpatialReductionAttention(
            self.dim, self.num_heads, self.sr_ratio, self.dtype, **reduction, name="attn"
        )
        hidden, rectified = self.mlp_ratio * self.dim, self.pooled_side > 0
        feed_forward = FeedForward(self.dim, hidden, self.dtype, self.depthwise, rectified, name="mlp")
        x = x + _scaled(attention(LayerNorm(1e-6, self.dtype, name="norm1")(x), grid, sizes), branch_scales, 0)
        return x + _scaled(feed_forward(LayerNorm(1e-6, self.dtype, name="norm2")(x), grid, sizes), branch_scales, 1)


def _scaled(
    branch: Float[Array, "b n c"], branch_scales: Float[Array, "2 b"] | None, index: int
) -> Float[Array, "b n c"]:
    if branch_scales is None:
        return branch
    return branch * branch_scales[index, :, None, None].astype(branch.dtype)


def run_blocks(
    parent: nn.Module,
    block: BlockType | Sequence[BlockType],
    depth: int,
    x: Float[Array, "b n c"],
    grid: tuple[int, int],
    branch_scales: Float[Array, "depth 2 b"] | None,
    sizes: Int[Array, "b 2"] | None = None,
    *,
    remat: bool,
    scan: bool,
) -> Float[Array, "b n c"]:
    """``x`` after ``depth`` blocks, submodules ``block0``, ``block1``, … of ``parent``; call it in a compact method.

    ``block`` is a module class, or a ``partial`` of one with its settings, called as ``Block`` is; several alternate.
    ``remat`` recomputes each block in the backward pass, ``scan`` compiles each of ``block`` once; neither changes the
    parameters or the results.
    """
    turns = tuple(block) if isinstance(block, Sequence) else (block,)
    # What modules make or record on the way needs the modules themselves.
    if parent.is_initializing() or parent.is_mutable_collection("intermediates"):
        for i in range(depth):
            scales = None if branch_scales is None else branch_scales[i]
            x = turns[i % len(turns)](name=f"block{i}")(x, grid, scales, sizes)
        return x

    stored = [parent.variables["params"][f"block{i}"] for i in range(depth)]
    jitted = _applied_inline if target.is_tpu() else _applied
    applied = [partial(jitted, make(parent=None), grid, target.current()) for make in turns]
    if not scan or depth % len(turns):
        if remat:
            applied = [jax.checkpoint(one) for one in applied]
        for i in range(depth):
            scales = None if branch_scales is None else branch_scales[i]
            x = applied[i % len(turns)](stored[i], x, scales, sizes)
        return x

    # Parameters are stored per block; stacking them costs one copy of the stage's parameters per step.
    stacked = [jax.tree.map(lambda *p: jnp.stack(p), *stored[i :: len(turns)]) for i in range(len(turns))]
    if branch_scales is not None:
        branch_scales = branch_scales.reshape(-1, len(turns), *branch_scales.shape[1:])

    def step(x: Array, inputs: tuple[Any, Array | None]) -> tuple[Any, None]:
        parameters, scales = inputs
        for i, apply in enumerate(applied):
            x = apply(parameters[i], x, None if scales is None else scales[i], sizes)
        return x, None

    return jax.lax.scan(jax.checkpoint(step) if remat else step, x, (stacked, branch_scales))[0]


def _apply(
    block: nn.Module,
    grid: tuple[int, int],
    compiled_for: target.Target | None,
    parameters: Any,
    x: Float[Array, "b n c"],
    branch_scales: Float[Array, "2 b"] | None,
    sizes: Int[Array, "b 2"] | None,
) -> Float[Array, "b n c"]:
    """``block`` with its ``parameters``.

    ``compiled_for`` is what is set while it is traced: another one makes another trace.
    """
    # Left to itself a compiler divides the channels of a map as the weights in a scan are divided, and moves maps.
    x = target.of_each_device(x)
    return block.apply({"params": parameters}, x, grid, branch_scales, sizes)  # type: ignore[return-value]


# Equal blocks share one trace and its derivatives and, unless inlined, one lowering. XLA for TPU lays out the arguments
# and results of a call row by row, like those of a whole program, and so would copy the hidden maps of every block.
_applied = jax.jit(_apply, static_argnums=(0, 1, 2))
_applied_inline = jax.jit(_apply, static_argnums=(0, 1, 2), inline=True)


def stochastic_depth_of_stages(
    parent: nn.Module, rate: float, depths: Sequence[int], batch: Any
) -> list[Float[Array, "_depth 2 _batch"] | None]:
    """``branch_scales`` of each stage's blocks, from ``parent``'s ``dropout`` stream; None if ``rate`` is 0.

    ``batch`` is an integer, or a symbolic dimension in an exported model.
    """
    if not 0 <= rate < 1:
        raise UserError(f"model.drop_path_rate must be at least 0 and below 1, but is {rate}")
    if rate == 0:
        return [None] * len(depths)
    drawn = stochastic_depth_scales(parent.make_rng("dropout"), rate, sum(depths), batch)
    return list(jnp.split(drawn, [sum(depths[:i]) for i in range(1, len(depths))]))
