"""Layers that the transformers share; each follows one equation of the PVT papers (arXiv 2102.12122, 2106.13797).

Shapes: b batch, h and w rows and columns of a feature map, n query tokens, m key tokens, c channels.
Parameters are float32 and layers compute in ``dtype``; softmax and normalisation statistics are float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pvt_jax.nn.normalization import LayerNorm
from pvt_jax.ops import feed_forward as feed_forward_in_parts
from pvt_jax.ops import target, tpu_feed_forward
from pvt_jax.ops.convolution import convolve
from pvt_jax.ops.depthwise import depthwise_conv3x3
from pvt_jax.ops.gelu import gelu
from pvt_jax.ops.linear import matmul
from pvt_jax.ops.padding import inside, zero_outside
from pvt_jax.ops.pooling import adaptive_average_pool
from pvt_jax.ops.resize import resize_grid, resize_padded

# The references truncate at ±2 in absolute terms, 100 standard deviations away, so nothing is truncated.
normal_002 = nn.initializers.normal(0.02)


def uniform_fan_in(fan_in: int) -> Callable:
    """Initialiser U(-1/√fan_in, 1/√fan_in): PyTorch's default for a convolution's weight and bias, kept by PVT v1."""
    return partial(_uniform, 1.0 / math.sqrt(fan_in))


def _uniform(bound: float, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def normal_fan_out(fan_out: int) -> Callable:
    """Initialiser N(0, 2 / fan_out): PVT v2's for convolutions (He et al., arXiv 1502.01852)."""
    return nn.initializers.normal(math.sqrt(2.0 / fan_out))


def stochastic_depth_scales(
    key: PRNGKeyArray, max_rate: float, depth: int, batch: int
) -> Float[Array, "depth 2 batch"]:
    """Factors for every residual branch of a network: 0 where a sample drops the branch, else 1 / (keep probability).

    Drop rates grow linearly from 0 at the first block to ``max_rate`` at the last ("Deep Networks with Stochastic
    Depth", arXiv 1603.09382); a block's attention and feed-forward branches draw independently. All draws are made at
    once, so they do not depend on how blocks are run (unrolled, scanned, rematerialised).
    """
    keep = 1.0 - jnp.linspace(0.0, max_rate, depth)[:, None, None]
    return jax.random.bernoulli(key, keep, (depth, 2, batch)) / keep


def resize_position_embedding(
    table: Float[Array, "1 n c"],
    source: tuple[int, int],
    target: tuple[int, int],
    method: Literal["bilinear", "bicubic"] = "bilinear",
    sizes: Int[Array, "b 2"] | None = None,
) -> Float[Array, "_b m c"]:
    """Position embeddings of a ``source`` grid (rows, columns), interpolated to a ``target`` grid.

    As in the references: half-pixel centres, no antialiasing; bilinear in PVT, bicubic in ViT. With ``sizes`` each
    sample's table is interpolated to its own valid region; without, one table serves all samples.
    """
    grid = table.reshape(1, *source, table.shape[-1])
    if sizes is None:
        grid = resize_grid(grid, target, method)
    else:
        tables = jnp.broadcast_to(grid, (sizes.shape[0], *grid.shape[1:]))
        grid = resize_padded(tables, jnp.full_like(sizes, jnp.asarray(source)), sizes, target, method)
    return grid.reshape(grid.shape[0], target[0] * target[1], table.shape[-1])


class Dense(nn.Module):
    """activation(x W + b), with the parameters of ``nn.Dense``; W starts from N(0, 0.02²), b from 0.

    The backward pass recomputes bias and activation from the matmul's output instead of storing the activation's
    residuals: less memory, and faster on CPU.
    """

    dim: int
    dtype: DTypeLike = jnp.float32
    activation: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"]) -> Float[Array, "*rows dim"]:
        kernel = self.param("kernel", normal_002, (x.shape[-1], self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x, activation = matmul(x, kernel), self.activation
        if activation is None:
            return x + bias
        return jax.checkpoint(lambda x, bias: activation(x + bias))(x, bias)


class Parameters(nn.Module):
    """Kernel of this ``shape`` and bias, 0 without ``use_bias``, of a layer that the parent module computes."""

    shape: tuple[int, ...]
    init: Callable
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "..."], Float[Array, " d"]]:
        kernel, dim = self.param("kernel", self.init, self.shape), self.shape[-1:]
        return kernel, self.param("bias", nn.initializers.zeros, dim) if self.use_bias else jnp.zeros(dim)


class PatchProjection(nn.Module):
    """Projection of non-overlapping square patches: a convolution whose kernel equals its stride, without padding.

    [b, h, w, c] → [b, h // patch, w // patch, dim]; rows and columns beyond the last whole patch are dropped, as in
    the reference. The kernel has a convolution's shape, [patch, patch, c, dim]; reshape + matmul is the same
    arithmetic and faster on CPU.
    """

    dim: int
    patch: int
    dtype: DTypeLike = jnp.float32
    # PVT v1 and ViT keep PyTorch's default initialisation; PVT v2 does not.
    fan_out_init: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 dim"]:
        b, h, w, c = x.shape
        p, rows, columns = self.patch, h // self.patch, w // self.patch
        init, bias_init = uniform_fan_in(p * p * c), uniform_fan_in(p * p * c)
        if self.fan_out_init:
            init, bias_init = normal_fan_out(p * p * self.dim), nn.initializers.zeros
        kernel = self.param("kernel", init, (p, p, c, self.dim))
        bias = self.param("bias", bias_init, (self.dim,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x[:, : rows * p, : columns * p].reshape(b, rows, p, columns, p, c)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows, columns, p * p * c)
        return matmul(x, kernel.reshape(p * p * c, self.dim)) + bias


class OverlappingPatchProjection(nn.Module):
    """Overlapping patch embedding: a convolution with zero padding of half its kernel (PVT v2, section 3.3).

    [b, h, w, c] → [b, ⌈h / stride⌉, ⌈w / stride⌉, dim] for PVT v2's odd kernels larger than the stride. ``sizes``
    are the input's: see ``padding.py``.
    """

    dim: int
    kernel_side: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h2 w2 dim"]:
        x = zero_outside(x, sizes)
        side = self.kernel_side
        kernel = self.param("kernel", normal_fan_out(side * side * self.dim), (side, side, x.shape[-1], self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolve(x, kernel, self.stride) + bias


class DepthwiseConvolution(nn.Module):
    """activation(depthwise 3×3 convolution + bias), zero padding 1: PVT v2's source of position information.

    ``sizes``: see ``padding.py``.
    """

    dtype: DTypeLike = jnp.float32
    activation: Callable[[Array], Array] = gelu

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None = None) -> Float[Array, "b h w c"]:
        x = zero_outside(x, sizes)
        kernel = self.param("kernel", normal_fan_out(9), (3, 3, 1, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x, activation = depthwise_conv3x3(x, kernel), self.activation
        return jax.checkpoint(lambda x, bias: activation(x + bias))(x, bias)


@struct.dataclass
class AttentionMap:
    """Attention weights of one block, [b, heads, n queries, m keys], float32; each row sums to 1.

    Queries and keys are the positions of ``query_grid`` and ``key_grid`` (rows, columns) in row-major order.
    ``extra_tokens`` class tokens precede the queries, and the keys too where both grids are equal. Of padded images,
    ``query_sizes`` and ``key_sizes`` int32 [b, 2] are the rows and columns in the valid region; None: all.
    """

    weights: Float[Array, "b h n m"]
    query_grid: tuple[int, int] = struct.field(pytree_node=False)
    key_grid: tuple[int, int] = struct.field(pytree_node=False)
    extra_tokens: int = struct.field(pytree_node=False, default=0)
    query_sizes: Int[Array, "b 2"] | None = None
    key_sizes: Int[Array, "b 2"] | None = None

    def of_keys(self) -> Float[Array, "b rows columns"]:
        """The weight of each position of ``key_grid``, averaged over heads: for the class token, or for all queries.

        The class token's own weight is left out.
        """
        weights = self.weights[:, :, 0] if self.extra_tokens else self._mean_over_queries()
        rows, columns = self.key_grid
        return weights.mean(1)[:, weights.shape[2] - rows * columns :].reshape(len(weights), rows, columns)

    def _mean_over_queries(self) -> Float[Array, "b h m"]:
        if self.query_sizes is None:
            return self.weights.mean(2)
        valid = inside(self.query_sizes, self.query_grid).reshape(len(self.weights), 1, -1, 1)
        return jnp.where(valid, self.weights, 0.0).sum(2) / valid.sum(2)


class SpatialReductionAttention(nn.Module):
    """Multi-head attention with keys and values from a feature map reduced by ``sr_ratio`` (PVT v1, section 3.3).

    SRA(x) = Concat(head_0 … head_N) W_O, head_j = Attention(Q W_Q, SR(K) W_K, SR(V) W_V),
    SR(x) = Norm(Reshape(x, sr_ratio) W_S). The cost falls by sr_ratio². Ratio 1 is ordinary self-attention, and then
    ``x`` may hold a class token before the map's tokens.

    ``pooled_side`` makes it PVT v2's linear SRA (section 3.2): average pooling to a fixed side,
    SR(x) = GELU(Norm(AveragePool(x) W_S)), so that the cost is linear in the image's area.

    With ``sizes`` (see ``padding.py``) padding is masked: no query attends to it.
    """

    dim: int
    num_heads: int
    sr_ratio: int
    dtype: DTypeLike = jnp.float32
    pooled_side: int = 0
    fan_out_init: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], grid: tuple[int, int], sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b n c"]:
        head_dim = self.dim // self.num_heads
        query = Dense(self.dim, self.dtype, name="q")(x) * head_dim**-0.5
        source, key_grid = self._reduced(x, grid, sizes)
        # One fused projection, in the reference's order: all keys, then all values.
        key_value = Dense(2 * self.dim, self.dtype, name="kv")(source)
        valid = None
        if sizes is not None and not self.pooled_side:
            valid = inside(sizes // self.sr_ratio, key_grid).reshape(x.shape[0], key_grid[0] * key_grid[1])
            # A class token comes first and is never masked.
            valid = jnp.pad(valid, ((0, 0), (source.shape[1] - valid.shape[1], 0)), constant_values=True)
        wants_map = self.is_mutable_collection("intermediates")
        if target.has_kernels(self.dtype, head_dim) and head_dim in (32, 64, 128) and not wants_map:
            from pvt_jax.ops.kernels.attention import attention  # imports Pallas

            out = attention(query, key_value, head_dim, valid)
        else:
            out, weights, total = _attention(query, key_value, head_dim, valid)
            if wants_map:
                self._keep_map(weights / total, grid, key_grid, sizes)
        return Dense(self.dim, self.dtype, name="proj")(out)

    def _keep_map(
        self,
        weights: Float[Array, "b h n m"],
        grid: tuple[int, int],
        key_grid: tuple[int, int],
        sizes: Int[Array, "b 2"] | None,
    ) -> None:
        key_sizes = sizes
        if sizes is not None:
            # Pooling leaves the padding out.
            whole = jnp.broadcast_to(jnp.array(key_grid, sizes.dtype), sizes.shape)
            key_sizes = whole if self.pooled_side else sizes // self.sr_ratio
        extra_tokens = weights.shape[2] - grid[0] * grid[1]
        self.sow("intermediates", "map", AttentionMap(weights, grid, key_grid, extra_tokens, sizes, key_sizes))

    def _reduced(
        self, x: Float[Array, "b n c"], grid: tuple[int, int], sizes: Int[Array, "b 2"] | None
    ) -> tuple[Float[Array, "b m c"], tuple[int, int]]:
        """The tokens that keys and values are computed from, and their grid (rows, columns)."""
        pooled, ratio = self.pooled_side, 1 if self.pooled_side else self.sr_ratio
        if not pooled and ratio == 1:
            return x, grid
        x = x.reshape(x.shape[0], *grid, self.dim)
        if pooled:
            x = adaptive_average_pool(x, pooled, sizes)
        x = PatchProjection(self.dim, ratio, self.dtype, self.fan_out_init, name="sr")(x)
        rows, columns = x.shape[1:3]
        x = LayerNorm(1e-5, self.dtype, name="sr_norm")(x.reshape(x.shape[0], rows * columns, self.dim))
        return gelu(x) if pooled else x, (rows, columns)


def _attention(
    query: Float[Array, "b n c"],
    key_value: Float[Array, "b m c2"],
    head_dim: int,
    key_mask: Bool[Array, "b m"] | None,
) -> tuple[Float[Array, "b n c"], Float[Array, "b h n m"], Float[Array, "b h n 1"]]:
    """(output, float32 weights before they are divided by their sum, that sum); ``query`` is scaled."""
    query_of_heads = _split_heads(query, head_dim)
    key, value = (_split_heads(tokens, head_dim) for tokens in jnp.split(key_value, 2, axis=-1))
    # Softmax that divides after the sum over values: n × d divisions instead of n × m.
    with jax.named_scope("attention"):
        logits = jnp.einsum("bhnd,bhmd->bhnm", query_of_heads, key, preferred_element_type=jnp.float32)
        if key_mask is not None:
            logits = jnp.where(key_mask[:, None, None], logits, jnp.finfo(logits.dtype).min)
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32) / total
    return out.astype(value.dtype).transpose(0, 2, 1, 3).reshape(query.shape), weights, total


def _split_heads(x: Float[Array, "b k c"], head_dim: int) -> Float[Array, "b h k {head_dim}"]:
    # Not -1 for the heads: of an empty batch they could not be told.
    return x.reshape(*x.shape[:2], x.shape[2] // head_dim, head_dim).transpose(0, 2, 1, 3)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between: the position-wise feed-forward network of a transformer block.

    ``depthwise`` adds a 3×3 depthwise convolution before the GELU (PVT v2, section 3.4), and ``rectified`` a ReLU
    before that convolution (PVT v2's linear SRA variants). ``sizes``: see ``padding.py``.
    """

    dim: int
    hidden_dim: int
    dtype: DTypeLike = jnp.float32
    depthwise: bool = False
    rectified: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], grid: tuple[int, int], sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b n c"]:
        as_one = self._as_one(x.shape[-1])
        if as_one is not None:
            return self._of_parameters(x, grid, sizes, *as_one)
        first = (jax.nn.relu if self.rectified else None) if self.depthwise else gelu
        hidden = Dense(self.hidden_dim, self.dtype, activation=first, name="fc1")(x)
        if self.depthwise:
            maps = hidden.reshape(hidden.shape[0], *grid, self.hidden_dim)
            hidden = DepthwiseConvolution(self.dtype, name="dwconv")(maps, sizes).reshape(hidden.shape)
        return Dense(self.dim, self.dtype, name="fc2")(hidden)

    def _as_one(self, dim: int) -> tuple[Callable[..., Array], Callable[..., Array]] | None:
        """Functions of the whole network, without and with the convolution, that move fewer hidden maps.

        None if the target has no such functions for ``dim`` channels in this ``dtype``.
        """
        if target.has_kernels(self.dtype, dim, self.dim) and self.hidden_dim % 32 == 0:
            from pvt_jax.ops.kernels.depthwise_feed_forward import depthwise_feed_forward  # imports Pallas
            from pvt_jax.ops.kernels.feed_forward import feed_forward

            return feed_forward, depthwise_feed_forward
        if target.is_tpu():
            return tpu_feed_forward.feed_forward, tpu_feed_forward.depthwise_feed_forward
        if target.is_one_cpu() and jnp.dtype(self.dtype) == jnp.float32:
            return feed_forward_in_parts.feed_forward, feed_forward_in_parts.depthwise_feed_forward
        return None

    def _of_parameters(
        self,
        x: Float[Array, "b n c"],
        grid: tuple[int, int],
        sizes: Int[Array, "b 2"] | None,
        feed_forward: Callable[..., Array],
        depthwise_feed_forward: Callable[..., Array],
    ) -> Float[Array, "b n c"]:
        """Applies one of the functions of ``_as_one`` to the parameters of fc1, fc2 and dwconv."""
        shapes = ((x.shape[-1], self.hidden_dim), (self.hidden_dim, self.dim))
        first, second = (
            Parameters(shape, normal_002, name=name)() for shape, name in zip(shapes, ("fc1", "fc2"), strict=True)
        )
        x, *weights = promote_dtype(x, *first, *second, dtype=self.dtype)
        if not self.depthwise:
            return feed_forward(x, *weights)
        kernel, bias = Parameters((3, 3, 1, self.hidden_dim), normal_fan_out(9), name="dwconv")()
        kernel, bias = promote_dtype(kernel, bias, dtype=self.dtype)
        kernel1, bias1, kernel2, bias2 = weights
        inputs = x, kernel1, bias1, kernel, bias, kernel2, bias2
        return depthwise_feed_forward(*inputs, grid=grid, sizes=sizes, rectified=self.rectified)
