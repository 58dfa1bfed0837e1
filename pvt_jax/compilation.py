"""Options for XLA that pay on CPU, passed to one compilation and to nothing else; and memory after compiling."""

import ctypes
import sys
from functools import cache
from typing import Any, Literal

import jax

# infer: XLA's library fusion ("YNN") writes out the scalars and biases next to a matmul or a sum as whole arrays;
#   native kernels run a forward pass faster.
# train: library fusion of matmuls and sums makes a step of pvt_v2_b0 a fifth faster. That of convolutions is left out:
#   on maps of more than some 16,000 positions it takes up to five times as long for the gradient of a kernel as XLA's
#   own convolution.
# init: code that runs once need not be fast; compiling the draws of all parameters takes a third of the time.
_CPU_OPTIONS: dict[str, dict[str, Any]] = {
    "infer": {"xla_cpu_experimental_ynn_fusion_type": ""},
    "train": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
    "init": {"xla_backend_optimization_level": "0"},
}
# An event of jax, and from how many seconds on a compilation has used memory worth giving back.
_COMPILED, _LONG = "/jax/core/compile/backend_compile_duration", 1.0


@cache
def compiler_options(use: Literal["infer", "train", "init"], platform: str = "") -> dict[str, Any]:
    """For ``jax.jit(..., compiler_options=)``: empty on other backends than CPU, and where jaxlib does not know it.

    ``platform`` is that of the devices compiled for, by default that of the default ones.

    ``XLA_FLAGS`` would abort the process on an unknown name; this way it is an error that can be caught.
    """
    options = _CPU_OPTIONS[use] if (platform or jax.default_backend()) == "cpu" else {}
    if not options:
        return {}
    try:
        jax.jit(lambda x: x + 1.0, compiler_options=options).lower(1.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


@cache
def trim_after_compiling() -> None:
    """From now on give what a compilation has freed back to the system, before the program runs.

    glibc would keep it: 0.5 GiB of the training step of PVT v2-B0, on top of what the step needs itself. Does nothing
    on systems with other C libraries.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs >= _LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(note)
