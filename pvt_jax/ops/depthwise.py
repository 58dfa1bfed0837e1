"""Depthwise 3×3 convolution as shifted multiply-adds, with a custom gradient."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TAPS = tuple((i, j) for i in range(3) for j in range(3))
# Float32 values in 2 MiB, about the second-level caches of two cores.
_CACHED_VALUES = 2**19


@jax.custom_vjp
def depthwise_conv3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"]) -> Float[Array, "b h w c"]:
    """Depthwise convolution with stride 1 and zero padding 1; ``x`` and ``kernel`` have one dtype.

    Nine shifted multiply-adds: XLA's grouped convolution is ten times slower on CPU. Autodiff would turn nine slices
    into nine padded sums; here the input's gradient is the same correlation with the kernel flipped, and the kernel's
    is nine products summed over batch and space, in float32. Reverse mode only: ``jax.jvp`` fails.
    """
    return _correlate(x, kernel)


def _correlate(x: Array, kernel: Array) -> Array:
    height, width = x.shape[1:3]
    padded = _padded(x)
    return functools.reduce(jnp.add, (padded[:, i : i + height, j : j + width] * kernel[i, j, 0] for i, j in _TAPS))


def _padded(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _correlate(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    products = jax.lax.platform_dependent(x, gradient, cpu=_products_by_rows, default=_products)
    kernel_gradient = products.reshape(kernel.shape).astype(kernel.dtype)
    return _correlate(gradient, kernel[::-1, ::-1]), kernel_gradient


def _products(x: Array, gradient: Array) -> Array:
    """Gradient times shifted input, summed over batch and space: [9, c], float32."""
    height, width = x.shape[1:3]
    padded = _padded(x)
    return jnp.stack(
        [jnp.sum(padded[:, i : i + height, j : j + width].astype(jnp.float32) * gradient, (0, 1, 2)) for i, j in _TAPS]
    )


def _products_by_rows(x: Array, gradient: Array) -> Array:
    """As ``_products``, by nine running sums over the images and over groups of their rows, which stay in the cache.

    For CPU, ten to twenty times as fast there, as XLA writes all nine products to memory before it sums them. Other
    devices would idle in a loop. With a batch sharded over CPU devices each device computes the whole sum: correct,
    but no faster than one.
    """
    _, height, width, channels = x.shape
    rows = _rows_in_cache(height, width * channels)

    def add(sums: tuple[Array, ...], image: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
        padded, upstream = jnp.pad(image[0], ((1, 1), (1, 1), (0, 0))), image[1]

        def add_rows(group: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            inputs = jax.lax.dynamic_slice_in_dim(padded, group * rows, rows + 2)
            factors = jax.lax.dynamic_slice_in_dim(upstream, group * rows, rows)
            return tuple(
                total + inputs[i : i + rows, j : j + width].astype(jnp.float32) * factors
                for total, (i, j) in zip(sums, _TAPS, strict=True)
            )

        return jax.lax.fori_loop(0, height // rows, add_rows, sums), None

    sums, _ = jax.lax.scan(add, (jnp.zeros((rows, width, channels), jnp.float32),) * 9, (x, gradient))
    return jnp.stack([total.sum((0, 1)) for total in sums])


def _rows_in_cache(height: int, row: int) -> int:
    """The largest divisor of ``height`` for which nine sums of that many rows of ``row`` values fit the cache, or 1."""
    most = max(1, _CACHED_VALUES // (9 * row))
    return next(rows for rows in range(min(most, height), 0, -1) if height % rows == 0)


depthwise_conv3x3.defvjp(_forward, _backward)
