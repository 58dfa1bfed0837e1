"""The former name of the command ``python -m pvt_jax.prepare``, kept for scripts."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pvt_jax.prepare", run_name="__main__")
