"""RoIAlign: features of boxes by bilinear sampling, from one feature map or from each box's level of a pyramid.

He et al., Mask R-CNN, section 3, as torchvision and mmdetection compute it (``aligned=True``). A bin is the mean of a
grid of samples, so the bins of a box are Σ_yx rows[p, y] columns[q, x] features[y, x]. The part of the map that a box
touches is cut into windows of one size, and a loop multiplies many windows at a time by the two matrices: the cost of
a box grows with its area, and no array has the size of boxes × map.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

# Side of a window in positions, and windows multiplied at a time for each image.
_WINDOW = 16
_CHUNK = 32
# Samples more than half a position apart that may touch a position: 4, and one spare on either side.
_NEAREST = 6

# A TPU would multiply float32 in bfloat16 by default.
_PRECISION = jax.lax.Precision.HIGHEST


def roi_align(
    features: Float[Array, "h w c"], boxes: Float[Array, "r 4"], *, output: int, scale: float, sampling: int = 0
) -> Float[Array, "r {output} {output} c"]:
    """Features of ``output`` × ``output`` bins of each box, in the map's dtype; computed in float32.

    Samples more than one position outside the map are 0, nearer ones repeat its border. With adaptive sampling a box
    without positive width and height has no samples, and its features are 0. No gradient flows to the boxes.

    Args:
      features: one feature map, finite everywhere.
      boxes: (x1, y1, x2, y2) in image pixels.
      output: bins per side.
      scale: 1 / stride of the map.
      sampling: samples per side of each bin; 0 is adaptive: the fewest that are at most one position apart.
    """
    with jax.named_scope("roi_align"):
        levels = jnp.zeros(len(boxes), jnp.int32)
        return _on_levels((features,), boxes, levels, output, (scale,), sampling)


def multilevel_roi_align(
    maps: tuple[Float[Array, "_ _ c"], ...],
    boxes: Float[Array, "r 4"],
    *,
    output: int,
    strides: tuple[int, ...],
    finest_scale: float = 56.0,
    valid: Bool[Array, " r"] | None = None,
) -> Float[Array, "r {output} {output} c"]:
    """``roi_align`` of each box on the pyramid level for its size; 0 where a box is not ``valid``.

    Lin et al., Feature Pyramid Networks, equation 1, as mmdetection's ``SingleRoIExtractor``: level
    ⌊log2(√area / finest_scale + 1e-6)⌋, clipped to the levels that exist.
    """
    with jax.named_scope("multilevel_roi_align"):
        sides = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
        ratio = jnp.sqrt(sides[:, 0] * sides[:, 1]) / finest_scale + 1e-6
        # Comparisons with powers of two are exact; a logarithm might round to the wrong side.
        levels = jnp.sum(ratio[:, None] >= 2.0 ** jnp.arange(1, len(maps)), axis=-1, dtype=jnp.int32)
        if valid is not None:
            levels = jnp.where(valid, levels, -1)
        scales = tuple(1 / stride for stride, _ in zip(strides, maps, strict=True))
        return _on_levels(maps, boxes, levels, output, scales, 0)


class _Settings(NamedTuple):
    """Static arguments; ``scales`` and ``grids`` (rows, columns) have one entry per map."""

    output: int
    scales: tuple[float, ...]
    sampling: int
    grids: tuple[tuple[int, int], ...]


def _on_levels(
    maps: tuple[Array, ...], boxes: Array, levels: Array, output: int, scales: tuple[float, ...], sampling: int
) -> Array:
    """Each box on the map that ``levels`` names; 0 for a level that does not exist."""
    if not len(boxes):
        return jnp.zeros((0, output, output, maps[0].shape[-1]), maps[0].dtype)
    grids = tuple((one.shape[0], one.shape[1]) for one in maps)
    return _align(_Settings(output, scales, sampling, grids), maps, boxes, levels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _align(settings: _Settings, maps: tuple[Array, ...], boxes: Array, levels: Array) -> Array:
    pool = _over_batch(functools.partial(_pool, settings))
    return pool(*_lead((maps, boxes, levels)))[0]


def _align_forward(settings: _Settings, maps: tuple[Array, ...], boxes: Array, levels: Array) -> tuple[Array, Any]:
    return _align(settings, maps, boxes, levels), (boxes, levels)


def _align_backward(settings: _Settings, saved: tuple[Array, Array], gradient: Array) -> tuple[Any, Array, None]:
    boxes, levels = saved
    spread = _over_batch(functools.partial(_spread, settings))
    maps = spread(*_lead((gradient, boxes, levels)))
    return tuple(one[0] for one in maps), jnp.zeros_like(boxes), None


_align.defvjp(_align_forward, _align_backward)


def _lead(arrays: Any) -> Any:
    return jax.tree.map(lambda x: x[None], arrays)


def _over_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of arrays that all have a leading batch axis, which ``vmap`` extends instead of adding one.

    The automatic ``vmap`` of its loop would copy the carry in every iteration, to freeze that of finished images.
    """
    function = custom_vmap(function)

    @function.def_vmap
    def rule(size: int, batched: list[Any], *arguments: Any) -> tuple[Any, Any]:
        def fold(x: Array, is_batched: bool) -> Array:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(size * x.shape[1], *x.shape[2:])

        results = function(*jax.tree.map(fold, arguments, tuple(batched)))
        results = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    return function


def _pool(settings: _Settings, maps: tuple[Array, ...], boxes: Array, levels: Array) -> Array:
    """[b, r, output, output, c] of maps [b, h, w, c], boxes [b, r, 4] and levels [b, r]."""
    output = settings.output
    pooled = jnp.zeros((*levels.shape, output, output, maps[0].shape[-1]), jnp.float32)
    for level, features in enumerate(maps):
        pooled = _by_chunks(settings, level, boxes, levels, _pool_chunk, pooled, features)
    return pooled.astype(maps[0].dtype)


def _pool_chunk(chunk: "_Chunk", pooled: Array, features: Array) -> Array:
    sides = (chunk.rows.shape[-1], chunk.columns.shape[-1], features.shape[-1])
    numbers = jax.lax.GatherDimensionNumbers((1, 2, 3), (), (0, 1))
    windows = jax.lax.gather(features, chunk.corners, numbers, sides, mode="promise_in_bounds")
    bins = jnp.einsum("kpy,kyxc->kpxc", chunk.rows, windows.astype(jnp.float32), precision=_PRECISION)
    bins = jnp.einsum("kpqx,kpxc->kpqc", _for_each_row(chunk), bins, precision=_PRECISION)
    return pooled.at[chunk.boxes].add(bins)


def _spread(settings: _Settings, gradient: Array, boxes: Array, levels: Array) -> tuple[Array, ...]:
    """The transpose of ``_pool``: gradients [b, h, w, c] of the maps from those of the pooled features."""
    batch, channels = len(gradient), gradient.shape[-1]
    spread = []
    for level, grid in enumerate(settings.grids):
        features = jnp.zeros((batch, *grid, channels), jnp.float32)
        features = _by_chunks(settings, level, boxes, levels, _spread_chunk, features, gradient)
        spread.append(features.astype(gradient.dtype))
    return tuple(spread)


def _spread_chunk(chunk: "_Chunk", features: Array, gradient: Array) -> Array:
    bins = gradient[chunk.boxes].astype(jnp.float32)
    bins = jnp.einsum("kpqx,kpqc->kpxc", _for_each_row(chunk), bins, precision=_PRECISION)
    windows = jnp.einsum("kpy,kpxc->kyxc", chunk.rows, bins, precision=_PRECISION)
    numbers = jax.lax.ScatterDimensionNumbers((1, 2, 3), (), (0, 1))
    return jax.lax.scatter_add(features, chunk.corners, windows, numbers, mode="promise_in_bounds")


def _by_chunks(
    settings: _Settings,
    level: int,
    boxes: Array,
    levels: Array,
    of_chunk: Callable[["_Chunk", Array, Array], Array],
    total: Array,
    source: Array,
) -> Array:
    """``total`` [b, …] after ``of_chunk`` has added each chunk's contribution from ``source`` [b, …]."""
    grid = settings.grids[level]
    plan = jax.vmap(functools.partial(_plan, settings, settings.scales[level], grid))(boxes, levels == level)

    def add(number: Array, total: Array) -> Array:
        chunks = jax.vmap(functools.partial(_chunk, settings, grid, number))(plan)
        return jax.vmap(of_chunk)(chunks, total, source)

    # As many rounds as the image with the most windows needs.
    return jax.lax.fori_loop(0, -(-jnp.max(plan.ends) // _CHUNK), add, total)


class _Axis(NamedTuple):
    """Boxes along one axis of a map, in units of its positions.

    Attributes:
      start: the lower edge; position 0 is the centre of the first cell.
      length: from the lower to the upper edge.
      samples: per bin.
      first: the first position that a sample touches.
      windows: number that covers all positions touched.
    """

    start: Float[Array, " r"]
    length: Float[Array, " r"]
    samples: Float[Array, " r"]
    first: Int[Array, " r"]
    windows: Int[Array, " r"]


class _Plan(NamedTuple):
    """The windows of one image's boxes on one map. ``ends`` is the cumulative number of windows."""

    rows: _Axis
    columns: _Axis
    ends: Int[Array, " r"]


def _plan(settings: _Settings, scale: float, grid: tuple[int, int], boxes: Array, used: Array) -> _Plan:
    columns, rows = (_axis(settings, boxes[:, i] * scale, boxes[:, i + 2] * scale, grid[1 - i]) for i in (0, 1))
    windows = jnp.where(used, rows.windows * columns.windows, 0)
    return _Plan(rows, columns, jnp.cumsum(windows))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _axis(settings: _Settings, low: Array, high: Array, side: int) -> _Axis:
    start, length = low - 0.5, (high - 0.5) - (low - 0.5)
    output, sampling = settings.output, settings.sampling
    if sampling:
        samples = jnp.full_like(length, sampling)
    else:
        # XLA multiplies by a rounded 1 / output, which makes ⌈21 / 7⌉ = 4.
        samples = jnp.ceil(length / output)
        samples = samples - ((samples - 1) * output >= length) + (samples * output < length)
    bounds = jnp.stack([jnp.zeros_like(length), output * samples - 1])
    near, far = start + length * (2 * bounds + 1) / (2 * output * jnp.maximum(samples, 1))
    # A box with x2 < x1 or y2 < y1 still has samples if their number is fixed.
    near, far = jnp.minimum(near, far), jnp.maximum(near, far)
    first = jnp.clip(jnp.floor(near), 0, side - 1).astype(jnp.int32)
    last = jnp.clip(jnp.floor(far) + 1, 0, side - 1).astype(jnp.int32)
    inside = (samples > 0) & (far >= -1) & (near <= side)
    windows = jnp.where(inside, (last - first) // min(_WINDOW, side) + 1, 0)
    return _Axis(start, length, samples, first, windows)


class _Chunk(NamedTuple):
    """The windows of one round: their boxes, top left (row, column), and weights of rows and columns in the bins."""

    boxes: Int[Array, " k"]
    corners: Int[Array, "k 2"]
    rows: Float[Array, "k output y"]
    columns: Float[Array, "k output x"]


def _chunk(settings: _Settings, grid: tuple[int, int], number: Array, plan: _Plan) -> _Chunk:
    """Windows number · _CHUNK and the next of all boxes; weights are 0 beyond the last."""
    place = number * _CHUNK + jnp.arange(_CHUNK)
    boxes = jnp.searchsorted(plan.ends, place, side="right", method="compare_all")
    boxes = jnp.minimum(boxes, len(plan.ends) - 1)
    rows, columns = (jax.tree.map(lambda x: x[boxes], axis) for axis in (plan.rows, plan.columns))
    # Counts down from the box's last window to its first.
    place_in_box = plan.ends[boxes] - 1 - place
    used = place_in_box >= 0
    across = jnp.maximum(columns.windows, 1)
    top, row_weights = _weights(settings, rows, place_in_box // across, grid[0])
    left, column_weights = _weights(settings, columns, place_in_box % across, grid[1])
    row_weights = jnp.where(used[:, None, None], row_weights, 0.0)
    return _Chunk(boxes, jnp.stack([top, left], axis=-1), row_weights, column_weights)


def _for_each_row(chunk: _Chunk) -> Float[Array, "k output output x"]:
    """Column weights, repeated for each row of bins: the batched matmul then needs no transpose."""
    return jnp.broadcast_to(chunk.columns[:, None], (*chunk.rows.shape[:2], *chunk.columns.shape[1:]))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _weights(settings: _Settings, axis: _Axis, window: Array, side: int) -> tuple[Array, Array]:
    """First position of each window, and the weights [k, output, window] of its positions in the bins."""
    length = min(_WINDOW, side)
    begin = axis.first + window * length
    origin = jnp.clip(begin, 0, side - length)
    position = (origin[:, None] + jnp.arange(length))[:, None, :, None]
    start, extent, samples = (x[:, None, None, None] for x in (axis.start, axis.length, axis.samples))
    bins = jnp.arange(settings.output, dtype=jnp.float32)[:, None, None]
    parts = 2 * settings.output * jnp.maximum(samples, 1)
    if settings.sampling:
        number = jnp.arange(settings.sampling, dtype=jnp.float32)
    else:
        # The bin's first sample at or after position - 1, and its neighbours.
        nearest = ((position - 1 - start) * parts / jnp.maximum(extent, 1e-6) - 1) / 2 - bins * samples
        number = jnp.maximum(jnp.ceil(nearest) - 1, 0) + jnp.arange(_NEAREST, dtype=jnp.float32)
    at = start + extent * (2 * (bins * samples + number) + 1) / parts
    counts = (number < samples) & (at >= -1) & (at <= side)
    weight = jnp.maximum(1.0 - jnp.abs(jnp.clip(at, 0, side - 1) - position), 0.0)
    weights = jnp.sum(jnp.where(counts, weight, 0.0), axis=-1) / jnp.maximum(samples[..., 0], 1)
    # The last window of an axis is shifted back onto the map; it skips positions that the one before covers.
    return origin, jnp.where(position[..., 0] >= begin[:, None, None], weights, 0.0)
