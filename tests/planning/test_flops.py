"""Operations of products in traced programs, by hand and by XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pvt_jax.planning.flops import count_flops


def zeros(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(image, kernel, **settings):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(image, kernel, dimension_numbers=numbers, **settings)


def test_products():
    assert count_flops(lambda a, b: a @ b, zeros(3, 5), zeros(5, 7)) == 2 * 3 * 5 * 7
    assert count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), zeros(2, 3, 5), zeros(2, 5, 7)) == 420
    assert count_flops(lambda a: jnp.exp(a) * 2 + a, zeros(3, 5)) == 0


def test_loops_branches_and_recomputation():
    def chain(a, b):
        return lax.scan(lambda carry, _: (carry @ b, None), a, length=6)[0]

    square = zeros(4, 4)
    assert count_flops(chain, square, square) == 6 * 2 * 64
    hasty = jax.jit(chain, compiler_options={"xla_backend_optimization_level": "0"})
    assert count_flops(hasty, square, square) == 6 * 2 * 64

    def loss(a, b, body):
        return body(a, b).sum()

    # Forward, and a product for the gradient of each factor.
    assert count_flops(jax.grad(lambda a, b: loss(a, b, chain), (0, 1)), square, square) == 3 * 6 * 2 * 64
    sine = jax.checkpoint(lambda a, b: jnp.sin(jnp.sin(a @ b) @ b))
    # The second product is not needed again.
    assert count_flops(jax.grad(lambda a, b: loss(a, b, sine), (0, 1)), square, square) == (2 + 2 + 4) * 2 * 64

    def branches(a, b):
        return lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ b)

    assert count_flops(branches, square, square) == 2 * 2 * 64
    # How often it runs depends on the data.
    until = lambda a, b: lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ b, a)  # noqa: E731
    assert count_flops(until, square, square) == 2 * 64


def test_parts_of_devices_count_for_all():
    """Eight rows on eight devices: two each on four of them and the same on four others, or one each."""
    mesh = AbstractMesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    batch, whole = PartitionSpec("data"), PartitionSpec()
    product = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(batch, whole), out_specs=batch)
    # The other axis has copies, which compute the same again.
    assert count_flops(product, zeros(8, 3), zeros(3, 5)) == 2 * 2 * 8 * 3 * 5
    batch = PartitionSpec(("data", "fsdp"))
    product = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(batch, whole), out_specs=batch)
    assert count_flops(product, zeros(8, 3), zeros(3, 5)) == 2 * 8 * 3 * 5


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"window_strides": (1, 1), "padding": "SAME"}, 1),
        ({"window_strides": (2, 3), "padding": ((2, 1), (0, 3))}, 1),
        ({"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)}, 1),
        ({"window_strides": (1, 1), "padding": ((3, 3), (2, 2)), "lhs_dilation": (3, 2)}, 1),
        ({"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 2}, 2),
        ({"window_strides": (1, 1), "padding": "SAME", "batch_group_count": 2}, 1),
    ],
)
def test_convolutions_are_those_of_xla(settings, groups):
    function = lambda image, kernel: convolve(image, kernel, **settings)  # noqa: E731
    inputs = zeros(4, 9, 11, 6), zeros(3, 4, 6 // groups, 8)
    expected = jax.jit(function).lower(*inputs).cost_analysis()
    assert count_flops(function, *inputs) == expected["flops"]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


def test_gradients_of_a_convolution():
    """Each pair of an element and a tap counts once in each gradient, as it does in the forward pass."""

    def loss(image, kernel):
        return convolve(image, kernel, window_strides=(2, 2), padding="SAME").sum()

    inputs = zeros(4, 9, 11, 6), zeros(3, 3, 6, 8)
    forward = count_flops(loss, *inputs)
    assert count_flops(jax.grad(loss, (0, 1)), *inputs) == 3 * forward
