"""Trans2Seg, one learnt query per class: "Segmenting Transparent Object in the Wild with Transformer".

arXiv 2101.08461, figures 3 and 4; the PVT paper (arXiv 2102.12122) puts it on PVT-Small for segmentation by
transformers alone. It follows the authors' code, whose sizes give the 32.1 M parameters that the PVT paper reports,
with four differences, explained where they are made: parameters without influence are left out, each class keeps its
own query, resizing has half-pixel centres, and images may have any size.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.heads.trans2seg.class_maps import Kernel, MemoryFusion, Prediction, SeparableConvolution, pointwise
from pvt_jax.heads.trans2seg.layers import EncoderLayer, token_mlp
from pvt_jax.nn.attention import MultiHeadAttention
from pvt_jax.nn.layers import normal_002, resize_position_embedding
from pvt_jax.nn.normalization import BatchNorm
from pvt_jax.nn.settings import check, check_counts, check_num_classes, table_side
from pvt_jax.ops.padding import Maps, inside, shrunk
from pvt_jax.ops.resize import resize_grid, resize_padded


class Trans2SegHead(nn.Module):
    """A backbone's ``c2`` and ``c5`` → logits at stride 4.

    A transformer encodes the tokens of c5. In the decoder one learnt query per class attends to them; the last
    attention's scores before softmax are ``num_heads`` maps per class. Small convolutions, shared by all classes, fuse
    these with the encoder's map; the result is upsampled, added to c2, and reduced to one logit per class.

    Attributes:
      num_classes: channels of the logits.
      dim, depth, num_heads, mlp_ratio: channels of the tokens, layers of the encoder and of the decoder each,
        attention heads, hidden channels / ``dim``. The defaults are the authors' medium configuration.
      channels: of the convolutions.
      image_size: side, or (height, width), of the images that the position tables (stride 32) are for; they are
        resized for other images.
      dtype: of the computation; parameters, softmax, batch norm statistics and logits stay float32.
    """

    num_classes: int
    dim: int = 256
    depth: int = 4
    num_heads: int = 8
    mlp_ratio: int = 3
    channels: int = 64
    image_size: int | Sequence[int] = 512
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Maps, train: bool = False, sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w k"]:
        """Logits, float32. ``sizes``: see ``SegmentationModel``."""
        check_num_classes(self)
        check_counts(self, "dim", "depth", "num_heads", "mlp_ratio", "channels")
        check(self, f"a multiple of head.num_heads, {self.num_heads}", lambda dim: dim % self.num_heads == 0, "dim")
        batch, *grid, _ = maps["c5"].shape
        tokens = grid[0] * grid[1]
        true_grid = shrunk(sizes, 32)
        mask = None if true_grid is None else inside(true_grid, (grid[0], grid[1])).reshape(batch, tokens)

        memory = nn.Dense(self.dim, dtype=self.dtype, kernel_init=normal_002, name="embed")(maps["c5"])
        memory = self._encoded(memory, mask, true_grid)
        scores = self._decoded(memory.reshape(batch, tokens, self.dim), mask)
        # Classes come after positions, so that spatial operations handle all classes and heads at once.
        scores = scores.transpose(0, 3, 2, 1).reshape(batch, *grid, self.num_classes * self.num_heads)
        scores = self._refined(scores, true_grid).reshape(batch, *grid, self.num_classes, self.num_heads)
        x = MemoryFusion(self.channels, self.dtype, name="mix")(memory, scores, train, true_grid)
        x = SeparableConvolution(self.channels, self.dtype, name="smooth")(x, train, true_grid)
        in_dim = maps["c2"].shape[-1]
        fine = pointwise(maps["c2"], Kernel((in_dim, self.channels), in_dim, name="fine")(), self.dtype)
        fine = nn.relu(BatchNorm(self.dtype, name="fine_norm")(fine, not train))
        return Prediction(self.channels, self.dtype, name="prediction")(x, fine, train, sizes)

    def _encoded(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b m"] | None, true_grid: Int[Array, "b 2"] | None
    ) -> Float[Array, "b h w c"]:
        """The feature map after position table, encoder and norm. A class token, as in ViT, is used in here only."""
        batch, rows, columns, dim = x.shape
        table_grid = self._table_grid()
        token = self.param("cls_token", normal_002, (1, 1, dim))
        table = self.param("pos_embed", normal_002, (1, 1 + table_grid[0] * table_grid[1], dim))
        # Half-pixel centres, as in all resizing here; the reference aligns corners.
        positions = resize_position_embedding(table[:, 1:], table_grid, (rows, columns), sizes=true_grid)
        tokens = x.reshape(batch, rows * columns, dim) + positions.astype(x.dtype)
        token = jnp.broadcast_to(token + table[:, :1], (batch, 1, dim)).astype(x.dtype)
        tokens = jnp.concatenate([token, tokens], axis=1)
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        for i in range(self.depth):
            tokens = EncoderLayer(self.num_heads, self.mlp_ratio, self.dtype, name=f"encoder{i}")(tokens, mask)
        return nn.LayerNorm(1e-5, self.dtype, name="norm")(tokens[:, 1:]).reshape(x.shape)

    def _decoded(self, memory: Float[Array, "b m c"], mask: Bool[Array, "b m"] | None) -> Float[Array, "b h k m"]:
        """Attention scores of the last of ``depth`` layers.

        The rest of the reference's last layer has no effect and is left out. Its reshape of the queries puts heads
        before classes, so that a class's heads are slices of other classes' queries; here, as in the paper, they are
        slices of its own.
        """
        learnt = self.param("class_queries", normal_002, (1, self.num_classes, self.dim))
        learnt = jnp.broadcast_to(learnt, (memory.shape[0], *learnt.shape[1:])).astype(self.dtype)
        queries = learnt
        for i in range(self.depth - 1):
            layer = DecoderLayer(self.num_heads, self.mlp_ratio, self.dtype, name=f"decoder{i}")
            queries, memory = layer(queries, memory, mask)
            queries = queries + learnt
        last = DecoderScores(self.num_heads, self.dtype, name=f"decoder{self.depth - 1}")
        return last(queries, memory)

    def _refined(self, scores: Float[Array, "b h w c"], true_grid: Int[Array, "b 2"] | None) -> Float[Array, "b h w c"]:
        """2 s + FeedForward(Norm(s)) along the positions of each score map s: weights connect positions.

        The reference computes this in every decoder layer and uses only the last. Its weights fit one image size; here
        maps of other sizes are resized to it and back, and summed at their own.
        """
        table, batch, maps = self._table_grid(), scores.shape[0], scores.shape[-1]
        table_sizes = None if true_grid is None else jnp.full_like(true_grid, jnp.asarray(table))
        x = _resized(scores, true_grid, table_sizes, table).reshape(batch, table[0] * table[1], maps).swapaxes(1, 2)
        x = token_mlp(nn.LayerNorm(1e-5, self.dtype, name="refine_norm")(x), 3, self.dtype, "refine")
        x = x.swapaxes(1, 2).reshape(batch, *table, maps)
        x = _resized(x, table_sizes, true_grid, (scores.shape[1], scores.shape[2]))
        # The reference adds the scores to themselves, as all of its decoder does: see DecoderLayer.
        return (2.0 * scores + x).astype(self.dtype)

    def _table_grid(self) -> tuple[int, int]:
        height, width = table_side(self.image_size, 32, "head")
        return height // 32, width // 32


class DecoderLayer(nn.Module):
    """Queries attend to the memory; queries and memory then each go through a feed-forward network.

    As in the reference, the attention's residual connection adds its output, not its input, and the memory is added to
    itself: both are doubled, and the incoming queries are dropped.
    """

    num_heads: int
    mlp_ratio: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, queries: Float[Array, "b k c"], memory: Float[Array, "b m c"], mask: Bool[Array, "b m"] | None
    ) -> tuple[Float[Array, "b k c"], Float[Array, "b m c"]]:
        def normed(x: Float[Array, "b n c"], name: str) -> Float[Array, "b n c"]:
            return nn.LayerNorm(1e-5, self.dtype, name=name)(x)

        attention = MultiHeadAttention(queries.shape[-1], self.num_heads, self.dtype, name="attn")
        keys = normed(memory, "norm_memory")
        queries = 2.0 * attention(normed(queries, "norm_queries"), keys, keys, mask)
        memory = 2.0 * memory
        queries = queries + token_mlp(normed(queries, "norm_mlp_queries"), self.mlp_ratio, self.dtype, "mlp_queries")
        memory = memory + token_mlp(normed(memory, "norm_mlp_memory"), self.mlp_ratio, self.dtype, "mlp_memory")
        return queries, memory


class DecoderScores(nn.Module):
    """The part of the decoder's last layer that is used: its attention scores, float32."""

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, queries: Float[Array, "b k c"], memory: Float[Array, "b m c"]) -> Float[Array, "b h k m"]:
        attention = MultiHeadAttention(queries.shape[-1], self.num_heads, self.dtype, name="attn")
        queries = nn.LayerNorm(1e-5, self.dtype, name="norm_queries")(queries)
        return attention.scores(queries, nn.LayerNorm(1e-5, self.dtype, name="norm_memory")(memory))


def _resized(
    maps: Float[Array, "b h w c"],
    source_sizes: Int[Array, "b 2"] | None,
    target_sizes: Int[Array, "b 2"] | None,
    target: tuple[int, int],
) -> Float[Array, "b h2 w2 c"]:
    if source_sizes is None or target_sizes is None:
        return resize_grid(maps, target)
    return resize_padded(maps, source_sizes, target_sizes, target)
