"""What holds for every test: a compilation cache, checked shapes, and the same Hypothesis examples in every run."""

import gc
import importlib.metadata
import os
from pathlib import Path

# Set before jax is imported, and in the environment so that the commands that tests start share the cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling takes most of the time of the suite, and what is compiled runs a few times. The last flag halves what the
# others leave; later versions of jaxlib abort on it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import hypothesis
import jax
import jaxtyping
import pytest

from pvt_jax import messages

# Every call of these rooms' functions is checked against its signature: types, and shapes as "b h w c". Installed
# before anything imports them.
CHECKED = (
    *("ops", "nn", "backbones", "heads", "models", "fields", "trace"),
    *("tasks.classification.metrics", "tasks.classification.mixing"),
    *("tasks.segmentation.loss", "tasks.segmentation.metrics", "tasks.segmentation.pixel_logits"),
    *("tasks.segmentation.sliding", "tasks.detection.metrics", "tasks.detection.instance_masks"),
)
jaxtyping.install_import_hook([f"pvt_jax.{room}" for room in CHECKED], "beartype.beartype")

# A busy machine is slow, and tests compare all that is said.
messages.PATIENCE = 3600.0

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


# Files that take longest, longest first: what is left at the end fills up all workers.
LONGEST = (
    "end_to_end",
    "test_notebooks",
    "training/",
    "prediction/",
    "test_export",
    "test_odd_pictures",
    "test_worked_examples",
    "test_docs",
    "test_main",
    "heads/",
    "backbones/",
    "tasks/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first. A file stays whole on one worker, so that its fixtures and programs are made once."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        return next((place for place, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_modules():
    """Compiled programs go with the module that needed them: three workers that keep all of them fill the memory."""
    yield
    jax.clear_caches()
    gc.collect()
