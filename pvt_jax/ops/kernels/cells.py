"""Blocks of cells of 2 × 2 pixels, for a depthwise 3×3 convolution in kernels: stride 1, zero padding 1.

The convolution of a cell reads 16 pixels, that of four pixels 36.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from pvt_jax.ops.kernels.blocks import block_of, multiply_add

# Rows below and columns to the right of a cell's first pixel: of its pixels, and of those that its convolution reads.
POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))
_WINDOW = tuple((i, j) for i in range(-1, 3) for j in range(-1, 3))
# Of each row of a window, and of each of its columns, whether it is inside.
Within = tuple[list[Array], list[Array]]


@dataclass(frozen=True)
class Maps:
    """What a convolution takes and gives: ``grid`` is (rows, columns); ``rectified``, it takes the ReLU."""

    grid: tuple[int, int]
    rectified: bool

    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells; the last of an odd side are half empty."""
        return pl.cdiv(self.grid[0], 2), pl.cdiv(self.grid[1], 2)

    def blocks(self, count: int) -> int:
        """How many blocks of ``count`` cells an image has."""
        rows, columns = self.cells()
        return pl.cdiv(rows * columns, count)


class Block:
    """``count`` cells of one image, in row-major order, of maps [images × pixels, channels].

    A map's block is a list, by ``POSITIONS``, of [count, channels]. A pixel is ``within`` the image, or within
    ``sizes`` of it, beyond which the convolution takes 0; none is of an image after the last.
    """

    def __init__(self, maps: Maps, image: Any, number: Any, count: int, sizes: Any) -> None:
        # Of an image after the last one, cells that no image has.
        last = sizes.shape[0] - 1
        number = jax.lax.select(image > last, jnp.int32(maps.blocks(count)), number)
        image = jax.lax.min(image, jnp.int32(last))
        self.maps, self._start = maps, image * (maps.grid[0] * maps.grid[1])
        cell, columns = number * count + jnp.arange(count), maps.cells()[1]
        row = jax.lax.div(cell, columns)
        self._first = 2 * row, 2 * (cell - row * columns)
        self.image, self.valid = self._within(*maps.grid), self._within(sizes[image, 0], sizes[image, 1])

    def _within(self, rows: Any, columns: Any) -> Within:
        row, column = self._first
        return (
            [(row + i >= 0) & (row + i < rows) for i in range(-1, 3)],
            [(column + j >= 0) & (column + j < columns) for j in range(-1, 3)],
        )

    def inside(self, i: int, j: int, within: Within) -> Array:
        """Whether the pixels at (i, j) are inside, [count, 1]."""
        return (within[0][i + 1] & within[1][j + 1])[:, None]

    def read(self, reference: Any, i: int, j: int, within: Within, channels: Array) -> Array:
        """The pixels at (i, j), 0 where they are not inside."""
        inside = self.inside(i, j, within)
        # None may be before the first or after the last.
        place = reference.at[jnp.where(inside, self._pixel(i, j), self._start), channels[None]]
        return triton.load(place, mask=inside, other=0.0)

    def tokens(self, reference: Any) -> list[list[Array]]:
        """All channels: a list of blocks of channels for each position."""
        parts = channels_of(reference.shape[1])
        return [[self.read(reference, *place, self.image, part) for part in parts] for place in POSITIONS]

    def write(self, reference: Any, values: list[Array], channels: Array) -> None:
        """Write a block, but nothing beyond the image."""
        for (i, j), one in zip(POSITIONS, values, strict=True):
            inside = self.inside(i, j, self.image)
            # Where the mask is False the interpreter writes what was there before: not over a pixel of the block.
            place = reference.at[jnp.where(inside, self._pixel(i, j), reference.shape[0]), channels[None]]
            triton.store(place, one.astype(reference.dtype), mask=inside)

    def convolved(self, reference: Any, channels: Array, bias: Array, taps: list[Array]) -> list[Array]:
        """The convolution of ``reference`` + ``bias`` or its ReLU, float32."""
        totals = [jnp.zeros((len(self._first[0]), len(bias)), jnp.float32)] * 4
        for i, j in _WINDOW:
            value = self.taken(self.read(reference, i, j, self.valid, channels), bias, (i, j))
            for position, tap in _taps_between(i, j):
                totals[position] = multiply_add(value, taps[tap], totals[position])
        return totals

    def taken(self, values: Array, bias: Array, place: tuple[int, int]) -> Array:
        """What the convolution takes of ``values`` at ``place``, float32."""
        shifted = values.astype(jnp.float32) + bias.astype(jnp.float32)
        shifted = jnp.maximum(shifted, 0.0) if self.maps.rectified else shifted
        return jnp.where(self.inside(*place, self.valid), shifted, 0.0)

    def upstream(self, reference: Any, channels: Array) -> Iterator[tuple[Array, list[tuple[int, int]]]]:
        """Gradients of some results, float32, and [(position, tap)]: which pixels of the block are in these results."""
        for i, j in _WINDOW:
            values = self.read(reference, i, j, self.image, channels).astype(jnp.float32)
            yield values, [(position, 8 - tap) for position, tap in _taps_between(i, j)]

    def _pixel(self, i: int, j: int) -> Array:
        return (self._start + (self._first[0] + i) * self.maps.grid[1] + self._first[1] + j)[:, None]


def _taps_between(i: int, j: int) -> list[tuple[int, int]]:
    """(position, tap) for each position whose result takes the pixel at (i, j)."""
    steps = ((position, i - row, j - column) for position, (row, column) in enumerate(POSITIONS))
    return [(position, 3 * (k + 1) + m + 1) for position, k, m in steps if max(abs(k), abs(m)) <= 1]


def channels_of(width: int) -> list[Array]:
    """The channels of each block, as ``parts_of``."""
    return [first + jnp.arange(block_of(width)) for first in range(0, width, block_of(width))]
