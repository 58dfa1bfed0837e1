"""Options of XLA: a jaxlib that no longer knows one would train several times slower, and say nothing."""

import jax
import pytest

from pvt_jax.compilation import compiler_options


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="jaxlib has the options from 0.10 on")
@pytest.mark.parametrize("use", ["infer", "train", "init"])
def test_jaxlib_knows_the_options_for_cpu(use):
    assert compiler_options(use, "cpu")
    assert not compiler_options(use, "gpu")
