"""Batch normalisation, "Accelerating Deep Network Training by Reducing Internal Covariate Shift" (arXiv 1502.03167),
and layer normalisation, "Layer Normalization" (arXiv 1607.06450).
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pvt_jax.errors import UserError
from pvt_jax.ops import batch_norm, target

# PyTorch's defaults, which every reference keeps. Its momentum weighs the new value, Flax's the old one.
MOMENTUM = 0.1


class BatchNorm(nn.Module):
    """(x - mean) / √(var + ε) · scale + bias per channel, in training and evaluation as PyTorch's ``BatchNorm2d``.

    Training normalises with the batch's mean and biased variance, and moves the running mean and the running
    *unbiased* variance a tenth of the way towards the batch's; Flax's own layer keeps the biased one. Statistics are
    float32; ``dtype`` is that of the result.

    Under ``jit``, ``x`` is the global batch (with gradient accumulation, one microbatch) however it is sharded, so
    statistics are synchronised (SyncBN) by construction and do not depend on the number of devices.

    Variables: params ``scale`` and ``bias`` [c]; batch_stats ``mean`` and ``var`` [c], and ``count``, the int32 number
    of updates (PyTorch's ``num_batches_tracked``).
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"], use_running_average: bool) -> Float[Array, "*rows c"]:
        """Normalised ``x``, in ``dtype``.

        Without ``use_running_average`` the statistics are updated: ``apply`` needs ``mutable=["batch_stats"]``.

        Raises:
          UserError: batch_stats are not mutable in training, or a channel has a single value, hence no variance.
        """
        dim = x.shape[-1]
        scale = jnp.asarray(self.param("scale", nn.initializers.ones, (dim,)))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (dim,)))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (dim,), jnp.float32)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)

        x = x.astype(jnp.float32)
        if use_running_average:
            mean, var = map(jnp.asarray, (running_mean.value, running_var.value))
            y = batch_norm.by_statistics(x, mean, var, scale, bias)
        else:
            y, mean, var = batch_norm.by_batch(x, scale, bias)
            if not self.is_initializing():
                values = self._values_of_a_channel(x.shape)
                running_mean.value += MOMENTUM * (mean - running_mean.value)
                running_var.value += MOMENTUM * (var * (values / (values - 1)) - running_var.value)
                count.value += 1
        return y.astype(self.dtype)

    def _values_of_a_channel(self, shape: tuple[int, ...]) -> int:
        if not self.is_mutable_collection("batch_stats"):
            raise UserError('training updates the batch norm statistics: call apply with mutable=["batch_stats"]')
        values = 1
        for size in shape[:-1]:
            values *= size
        if values < 2:
            raise UserError(
                f"batch norm cannot train on one value per channel, a feature map of {'×'.join(map(str, shape))}: use "
                "larger batches or images"
            )
        return values


class LayerNorm(nn.LayerNorm):
    """Flax's, (x - mean) / √(var + ε) · scale + bias of each row, by a kernel where there is one."""

    @nn.compact
    def __call__(self, x: Any, *, mask: Any = None) -> Float[Array, "*rows c"]:
        """Normalised ``x`` [*rows, c], in ``dtype``; statistics are float32. ``mask``: see Flax."""
        if mask is not None or not self._has_kernel(x):
            return super().__call__(x, mask=mask)
        from pvt_jax.ops.kernels.layer_norm import layer_norm  # imports Pallas

        scale = self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", self.bias_init, x.shape[-1:], self.param_dtype)
        return layer_norm(x, scale, bias, self.epsilon)

    def _has_kernel(self, x: Array) -> bool:
        of_rows = self.use_scale and self.use_bias and (self.reduction_axes, self.feature_axes) == (-1, -1)
        fits = x.ndim > 2 and x.shape[-1] % 32 == 0 and x.dtype == self.dtype
        return of_rows and fits and target.has_kernels(x.dtype)
