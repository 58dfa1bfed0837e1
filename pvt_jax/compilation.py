"""XLA options that speed up CPU, set for each compilation by itself."""

from functools import cache
from typing import Any, Literal

import jax

# infer: XLA's library fusion ("YNN") writes out the scalars and biases next to a matmul or a sum as whole arrays;
#   native kernels run a forward pass faster. For a train step it made no difference that could be measured.
# init: code that runs once need not be fast; compiling the draws of all parameters takes a third of the time.
_CPU_OPTIONS: dict[str, dict[str, Any]] = {
    "infer": {"xla_cpu_experimental_ynn_fusion_type": ""},
    "train": {},
    "init": {"xla_backend_optimization_level": "0"},
}


@cache
def compiler_options(use: Literal["infer", "train", "init"]) -> dict[str, Any]:
    """For ``jax.jit(..., compiler_options=)``: empty on backends other than CPU, and where jaxlib lacks the option.

    An unknown name in ``XLA_FLAGS`` would abort the process; here it raises an error.
    """
    options = _CPU_OPTIONS[use] if jax.default_backend() == "cpu" else {}
    if not options:
        return {}
    try:
        jax.jit(lambda x: x + 1.0, compiler_options=options).lower(1.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
