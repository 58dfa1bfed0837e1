"""Options of XLA: a jaxlib that no longer knows one would train several times slower, and say nothing.

And memory that compiling has freed, which a step would come on top of.
"""

import platform
import subprocess
import sys

import jax
import pytest

from pvt_jax.compilation import compiler_options

# As a compiler does: many small pieces of memory, of which the last one in use keeps all before it from the system.
_COMPILES = """
import jax
from pvt_jax import machine
from pvt_jax.compilation import trim_after_compiling

trim_after_compiling()
pieces = [bytes(2000) for _ in range(100_000)]
last = pieces[-1]
pieces.clear()
held = machine.resident_bytes()
jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", {seconds})
print(held - machine.resident_bytes())
"""


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="jaxlib has the options from 0.10 on")
@pytest.mark.parametrize("use", ["infer", "train", "init"])
def test_jaxlib_knows_the_options_for_cpu(use):
    assert compiler_options(use, "cpu")
    assert not compiler_options(use, "gpu")


def test_jax_reports_compilations():
    """By the name that the memory below waits for."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: seen.append((event, seconds)))
    jax.jit(lambda x: x + 2.0).lower(1.0).compile()
    assert any(event == "/jax/core/compile/backend_compile_duration" and seconds > 0 for event, seconds in seen)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no such memory")
@pytest.mark.parametrize(("seconds", "gives_back"), [(5.0, True), (0.1, False)])
def test_what_compiling_has_freed_goes_back_to_the_system(seconds, gives_back):
    code = _COMPILES.format(seconds=seconds)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (int(found.stdout) > 150e6) is gives_back
