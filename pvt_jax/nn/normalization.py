"""Batch normalisation, "Accelerating Deep Network Training by Reducing Internal Covariate Shift" (arXiv 1502.03167)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pvt_jax.errors import UserError

# PyTorch's defaults, which every reference keeps. Its momentum is the weight of the new value, Flax's of the old.
MOMENTUM = 0.1
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """(x - mean) / √(var + ε) · scale + bias by channel, in training and evaluation as PyTorch's ``BatchNorm2d``.

    Training normalises with the mean and the biased variance of the batch, and moves the running mean and the running
    *unbiased* variance a tenth of the way to them; Flax's own layer takes the biased one there too. Both are float32
    whatever ``dtype``, the type of the result.

    The batch is all that ``x`` holds. Under ``jit`` that is the global batch (with gradient accumulation one part of
    it), however it is sharded over devices: the statistics are synchronised (SyncBN) by construction, and do not depend
    on the number of devices.

    Variables: params ``scale`` and ``bias`` [c]; batch_stats ``mean`` and ``var`` [c], and ``count``, an int32 scalar:
    the updates so far (PyTorch's ``num_batches_tracked``).
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"], use_running_average: bool) -> Float[Array, "*rows c"]:
        """Normalised ``x``, in ``dtype``.

        With ``use_running_average`` nothing changes; without it ``apply`` needs ``mutable=["batch_stats"]``.

        Raises:
          UserError: batch_stats must change and cannot, or a channel has a single value, which has no variance.
        """
        dim = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (dim,))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (dim,), jnp.float32)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)

        x = x.astype(jnp.float32)
        if use_running_average:
            centred, var = x - running_mean.value, running_var.value
        else:
            # Two passes: squares of what is far from 0 would cancel. What rounding leaves of the mean after the first
            # is removed by the second, through which alone gradients go: a pass over the map less than through both.
            axes = tuple(range(x.ndim - 1))
            rough_mean = jax.lax.stop_gradient(x.mean(axes))
            centred = x - rough_mean
            rest = centred.mean(axes)
            var = jnp.maximum(jnp.square(centred).mean(axes) - jnp.square(rest), 0.0)
            centred = centred - rest
            if not self.is_initializing():
                values = self._values_of_a_channel(x.shape)
                running_mean.value += MOMENTUM * (rough_mean + rest - running_mean.value)
                running_var.value += MOMENTUM * (var * (values / (values - 1)) - running_var.value)
                count.value += 1
        return (centred * (scale * jax.lax.rsqrt(var + EPSILON)) + bias).astype(self.dtype)

    def _values_of_a_channel(self, shape: tuple[int, ...]) -> int:
        if not self.is_mutable_collection("batch_stats"):
            raise UserError('training changes the batch statistics: call apply with mutable=["batch_stats"]')
        values = 1
        for size in shape[:-1]:
            values *= size
        if values < 2:
            raise UserError(
                f"batch norm cannot train on one value a channel, a map of {'×'.join(map(str, shape))}: give larger "
                "batches or images"
            )
        return values
