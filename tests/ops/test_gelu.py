"""GELU against SciPy's normal distribution, in both forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from pvt_jax.ops.gelu import gelu, gelu_of_one_erf


@pytest.mark.parametrize("function", [gelu, gelu_of_one_erf])
def test_values_and_derivatives(function):
    x = np.linspace(-8.0, 8.0, 1001, dtype=np.float32)
    exact = x.astype(np.float64)
    values, back = jax.vjp(function, jnp.asarray(x))
    np.testing.assert_allclose(values, exact * norm.cdf(exact), rtol=1e-6, atol=1e-6)
    (slopes,) = back(jnp.full_like(values, 2.0))
    np.testing.assert_allclose(slopes, 2.0 * (norm.cdf(exact) + exact * norm.pdf(exact)), rtol=1e-6, atol=1e-6)
