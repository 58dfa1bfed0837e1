"""What holds for every test: a compilation cache, checked shapes, and the same Hypothesis examples in every run."""

import os
from pathlib import Path

# Set before jax is imported, and in the environment so that the commands that tests start share the cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import jaxtyping
from absl import flags

# Every call of these rooms' functions is checked against its signature: types, and shapes as "b h w c". Installed
# before anything imports them.
CHECKED = ("models", "ops", "losses", "evaluation")
jaxtyping.install_import_hook([f"pvt_jax.{room}" for room in CHECKED], "beartype.beartype")

# Grain asks absl for flags when it starts worker processes, and finds them unparsed where no absl app runs.
flags.FLAGS.mark_as_parsed()

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")
