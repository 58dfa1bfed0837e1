"""The feed-forward network of PVT v2: GELU(depthwise 3×3 convolution of (x W₁ + b₁) + b) W₂ + b₂.

Of the hidden maps only x W₁ is in memory, and in the backward pass the gradient of the convolution's result. XLA
computes x W₁. The forward pass has one kernel, with a block of pixels a program. The backward pass has three: for the
gradients of the convolution's result, b and W₂, with a block of channels and some images a program; for that of x, with
a block of pixels; and for those of W₁, b₁ and the convolution's kernel, with a block of channels and some images.
Reverse mode only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import (
    BY_COLUMNS,
    BY_ROWS,
    block_of,
    call,
    multiply_add,
    parts_of,
    product,
    sum_of_products,
    whole,
)
from pvt_jax.ops.kernels.cells import POSITIONS, Block, Maps, channels_of
from pvt_jax.ops.kernels.gelu import gelu, of_gelu

# Cells of a block; fewer where a program has sums for the weights, so that its registers suffice.
_CELLS, _FEWER = 32, 16
# How many programs have sums of their own at most.
_PROGRAMS = 512


def depthwise_feed_forward(
    x: Float[Array, "b n c"],
    kernel1: Float[Array, "c hidden"],
    bias1: Float[Array, " hidden"],
    kernel: Float[Array, "3 3 1 hidden"],
    bias: Float[Array, " hidden"],
    kernel2: Float[Array, "hidden c"],
    bias2: Float[Array, " c"],
    *,
    grid: tuple[int, int],
    sizes: Int[Array, "b 2"] | None = None,
    rectified: bool = False,
) -> Float[Array, "b n c"]:
    """All of one dtype; c and hidden are multiples of 32, n the pixels of ``grid`` (rows, columns).

    The convolution has stride 1 and zero padding 1; beyond ``sizes`` (rows, columns) it takes x W₁ + b₁ for 0.
    ``rectified``: it takes ReLU(x W₁ + b₁).
    """
    if sizes is None:
        sizes = jnp.broadcast_to(jnp.array(grid, jnp.int32), (x.shape[0], 2))
    taps = kernel.reshape(9, kernel.shape[-1])
    return _network(Maps(grid, rectified), x, kernel1, bias1, taps, bias, kernel2, bias2, sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _network(maps: Maps, x: Array, *others: Array) -> Array:
    return _forward(maps, x, *others)[0]


def _forward(maps: Maps, x: Array, *others: Array) -> tuple[Array, tuple[Array, ...]]:
    kernel1, *weights, sizes = others
    tokens = x.reshape(-1, x.shape[-1])
    hidden = (tokens @ kernel1).reshape(*x.shape[:-1], kernel1.shape[1])
    of_each = target.on_each_device(partial(_output, maps), (True, True, *(False,) * 5), (False,))
    (y,) = of_each(hidden, sizes, *weights)
    return y, (hidden, x, *others)


def _backward(maps: Maps, residuals: tuple[Array, ...], gradient: Array) -> tuple[Any, ...]:
    hidden, x, *weights, sizes = residuals
    batched = (*(True,) * 4, *(False,) * 6)
    of_each = target.on_each_device(partial(_gradients, maps), batched, (False, *(True,) * 6))
    gradients = of_each(hidden, x, sizes, gradient, *weights)
    return *(one.astype(of.dtype) for one, of in zip(gradients, (x, *weights), strict=True)), None


_network.defvjp(_forward, _backward)


def _output(maps: Maps, hidden: Array, sizes: Array, *weights: Array) -> tuple[Array]:
    images, pixels, width = hidden.shape
    dim = len(weights[-1])
    inputs = hidden.reshape(images * pixels, width), sizes, *weights
    y = call(
        partial(_output_kernel, maps=maps),
        grid=(maps.blocks(_CELLS), images),
        in_specs=[whole(*one.shape) for one in inputs],
        out_specs=whole(images * pixels, dim),
        out_shape=jax.ShapeDtypeStruct((images * pixels, dim), hidden.dtype),
        warps=8,
    )(*inputs)
    return (y.reshape(images, pixels, dim),)


def _gradients(
    maps: Maps,
    hidden: Array,
    x: Array,
    sizes: Array,
    gradient: Array,
    kernel1: Array,
    bias1: Array,
    taps: Array,
    bias: Array,
    kernel2: Array,
    _bias2: Array,
) -> tuple[Array, ...]:
    """Of x and the weights; float32 but that of x."""
    images, (dim, width) = len(sizes), kernel1.shape
    hidden, tokens, gradient = (one.reshape(-1, one.shape[-1]) for one in (hidden, x, gradient))
    block = block_of(width)
    # How many images a program has; the last may have fewer.
    share = pl.cdiv(images, max(_PROGRAMS // (width // block), 1))
    shares = pl.cdiv(images, share)

    def columns(*sides: int) -> pl.BlockSpec:
        return pl.BlockSpec((*sides, block), lambda j, _: (*(0,) * len(sides), j))

    def sums(*sides: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        """One for each share."""
        spec = pl.BlockSpec((None, *sides, block), lambda j, share: (share, *(0,) * len(sides), j))
        return spec, jax.ShapeDtypeStruct((shares, *sides, width), jnp.float32)

    every, of_hidden = whole(*tokens.shape), jax.ShapeDtypeStruct(hidden.shape, x.dtype)
    specs, shapes = zip((columns(len(hidden)), of_hidden), sums(), sums(dim), strict=True)
    of_convolved, of_bias, of_kernel2 = call(
        partial(_convolved_kernel, maps=maps, share=share),
        grid=(width // block, shares),
        in_specs=[
            columns(len(hidden)),
            whole(*sizes.shape),
            every,
            columns(),
            columns(9),
            columns(),
            pl.BlockSpec((block, dim), lambda j, _: (j, 0)),
        ],
        out_specs=specs,
        out_shape=shapes,
        warps=4 if dim <= 64 else 8,
    )(hidden, sizes, gradient, bias1, taps, bias, kernel2)
    inputs = of_convolved, tokens, sizes, kernel1, bias1, taps
    of_x = call(
        partial(_x_kernel, maps=maps),
        grid=(maps.blocks(_CELLS), images),
        in_specs=[whole(*one.shape) for one in inputs],
        out_specs=every,
        out_shape=jax.ShapeDtypeStruct(tokens.shape, x.dtype),
        warps=8,
    )(*inputs)
    specs, shapes = zip(sums(dim), sums(), sums(9), strict=True)
    of_others = call(
        partial(_weights_kernel, maps=maps, share=share),
        grid=(width // block, shares),
        in_specs=[columns(len(hidden)), every, whole(*sizes.shape), columns(dim), columns(), columns(9)],
        out_specs=specs,
        out_shape=shapes,
        warps=8,
    )(*inputs)
    of_weights = [one.sum(0) for one in (*of_others, of_bias)]
    return of_x.reshape(x.shape), *of_weights, of_kernel2.sum(0).T, gradient.astype(jnp.float32).sum(0)


def _output_kernel(
    hidden: Any, sizes: Any, bias1: Any, taps: Any, bias: Any, kernel2: Any, bias2: Any, y: Any, *, maps: Maps
) -> None:
    block, width = Block(maps, pl.program_id(1), pl.program_id(0), _CELLS, sizes), block_of(kernel2.shape[0])
    parts = parts_of(kernel2.shape[1])

    def add(j: Any, sums: list[list[Array]]) -> list[list[Array]]:
        some = pl.ds(j * width, width)
        convolved = block.convolved(hidden, j * width + jnp.arange(width), bias1[some], _taps(taps, some))
        active = [gelu(one + bias[some].astype(jnp.float32)).astype(hidden.dtype) for one in convolved]
        return [_plus(sums[i], [product(one, kernel2[some, part]) for one in active]) for i, part in enumerate(parts)]

    zeros = [[jnp.zeros((_CELLS, part.size), jnp.float32)] * 4 for part in parts]
    sums = jax.lax.fori_loop(0, kernel2.shape[0] // width, add, zeros)
    for of_part, part, channels in zip(sums, parts, channels_of(kernel2.shape[1]), strict=True):
        block.write(y, [one + bias2[part].astype(jnp.float32) for one in of_part], channels)


def _convolved_kernel(
    hidden: Any,
    sizes: Any,
    gradient: Any,
    bias1: Any,
    taps: Any,
    bias: Any,
    kernel2: Any,
    of_convolved: Any,
    of_bias: Any,
    of_kernel2: Any,
    *,
    maps: Maps,
    share: int,
) -> None:
    parts, every, channels = parts_of(kernel2.shape[1]), slice(None), jnp.arange(bias1.shape[0])
    kernels, shift = [kernel2[:, part] for part in parts], bias[...].astype(jnp.float32)

    def add(block: Block, sums: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        biases, products = sums
        convolved = block.convolved(hidden, channels, bias1[...], _taps(taps, every))
        of_block = []
        for one, gradients in zip(convolved, block.tokens(gradient), strict=True):
            active, of_one = of_gelu(one + shift, gradients, kernels)
            rounded = active.astype(hidden.dtype)
            # In this order Triton computes GELU and the convolution once: in the other, once for each use.
            products = _plus(products, [product(some, rounded, BY_COLUMNS) for some in gradients])
            biases += of_one
            of_block.append(of_one)
        block.write(of_convolved, of_block, channels)
        return biases, products

    zeros = [jnp.zeros((part.size, len(channels)), jnp.float32) for part in parts]
    nothing = jnp.zeros((_FEWER, len(channels)), jnp.float32), zeros
    biases, products = _over_images(maps, share, sizes, add, nothing)
    of_bias[...] = biases.sum(0)
    for one, part in zip(products, parts, strict=True):
        of_kernel2[part, :] = one


def _x_kernel(
    of_convolved: Any, x: Any, sizes: Any, kernel1: Any, bias1: Any, taps: Any, of_x: Any, *, maps: Maps
) -> None:
    block, width = Block(maps, pl.program_id(1), pl.program_id(0), _CELLS, sizes), block_of(kernel1.shape[1])
    parts = parts_of(kernel1.shape[0])

    def add(j: Any, sums: list[list[Array]]) -> list[list[Array]]:
        some = pl.ds(j * width, width)
        kernels1, nine = [kernel1[part, some] for part in parts], _taps(taps, some)
        totals = [jnp.zeros((_CELLS, width), jnp.float32)] * 4
        for one, uses in block.upstream(of_convolved, j * width + jnp.arange(width)):
            for position, tap in uses:
                totals[position] = multiply_add(one, nine[tap], totals[position])
        of_hidden = []
        for total, place in zip(totals, POSITIONS, strict=True):
            here = block.inside(*place, block.valid)
            if maps.rectified:
                tokens = [block.read(x, *place, block.image, part) for part in channels_of(x.shape[1])]
                here = _taken(block, tokens, kernels1, bias1[some], place) > 0
            of_hidden.append(jnp.where(here, total, 0.0).astype(x.dtype))
        return [_plus(sums[i], [product(one, kernels1[i], BY_ROWS) for one in of_hidden]) for i in range(len(parts))]

    zeros = [[jnp.zeros((_CELLS, part.size), jnp.float32)] * 4 for part in parts]
    sums = jax.lax.fori_loop(0, kernel1.shape[1] // width, add, zeros)
    for of_part, channels in zip(sums, channels_of(kernel1.shape[0]), strict=True):
        block.write(of_x, of_part, channels)


def _weights_kernel(
    of_convolved: Any,
    x: Any,
    sizes: Any,
    kernel1: Any,
    bias1: Any,
    taps: Any,
    of_kernel1: Any,
    of_bias1: Any,
    of_taps: Any,
    *,
    maps: Maps,
    share: int,
) -> None:
    parts, every, channels = parts_of(kernel1.shape[0]), slice(None), jnp.arange(bias1.shape[0])
    kernels1, shift = [kernel1[part, :] for part in parts], bias1[...]

    def add(block: Block, sums: tuple[list[Array], Array, list[Array]]) -> tuple[list[Array], Array, list[Array]]:
        products, biases, of_nine = sums[0], sums[1], list(sums[2])
        nine, tokens = _taps(taps, every), block.tokens(x)
        values = [_taken(block, tokens[i], kernels1, shift, place) for i, place in enumerate(POSITIONS)]
        totals = [jnp.zeros_like(one) for one in values]
        for one, uses in block.upstream(of_convolved, channels):
            for position, tap in uses:
                totals[position] = multiply_add(one, nine[tap], totals[position])
                of_nine[tap] = multiply_add(one, values[position], of_nine[tap])
        for i, place in enumerate(POSITIONS):
            here = values[i] > 0 if maps.rectified else block.inside(*place, block.valid)
            of_hidden = jnp.where(here, totals[i], 0.0)
            rounded = of_hidden.astype(x.dtype)
            products = _plus(products, [product(some, rounded, BY_COLUMNS) for some in tokens[i]])
            biases += of_hidden
        return products, biases, of_nine

    zeros = [jnp.zeros(one.shape, jnp.float32) for one in kernels1]
    vector = jnp.zeros((_FEWER, len(channels)), jnp.float32)
    nothing = zeros, vector, [vector] * 9
    products, biases, of_nine = _over_images(maps, share, sizes, add, nothing)
    for one, part in zip(products, parts, strict=True):
        of_kernel1[part, :] = one
    of_bias1[...] = biases.sum(0)
    for number, one in enumerate(of_nine):
        of_taps[number, :] = one.sum(0)


def _over_images(maps: Maps, share: int, sizes: Any, add: Callable[[Block, Any], Any], nothing: Any) -> Any:
    """The sums after ``add`` of every block of the images of a program; ``share``: how many images."""
    first, blocks = pl.program_id(1) * share, maps.blocks(_FEWER)

    def of_block(number: Any, sums: Any) -> Any:
        image = jax.lax.div(number, blocks)
        return add(Block(maps, first + image, number - image * blocks, _FEWER, sizes), sums)

    return jax.lax.fori_loop(0, share * blocks, of_block, nothing)


def _taken(block: Block, tokens: list[Array], kernels1: list[Array], bias1: Array, place: tuple[int, int]) -> Array:
    """What the convolution takes at ``place``, float32."""
    return block.taken(sum_of_products(tokens, kernels1).astype(tokens[0].dtype), bias1, place)


def _taps(taps: Any, channels: Any) -> list[Array]:
    return [taps[number, channels].astype(jnp.float32) for number in range(9)]


def _plus(a: list[Array], b: list[Array]) -> list[Array]:
    return [one + other for one, other in zip(a, b, strict=True)]
