"""Compares the kernels of ``pvt_jax.ops.kernels`` with XLA on the device that is here.

    python experiments/speed/check_kernels.py

Prints a line for each kernel: the largest difference of its result or of a gradient, over the largest value of XLA's in
float32. Exit code 1 if one is beyond what a run tolerates. With ``--interpret`` jax's interpreter runs them, anywhere.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pvt_jax import commands  # noqa: E402
from pvt_jax.errors import UserError  # noqa: E402


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags."""
    parser = commands.Parser(prog="check_kernels.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--interpret", action="store_true", help="by jax's interpreter, on any device")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Compare, print, and say by the exit code whether all agree."""
    flags = parse(arguments)
    import jax
    import jax.numpy as jnp

    from pvt_jax.ops import target
    from pvt_jax.ops.kernels.check import TOLERANCE, differences
    from pvt_jax.training.sharding import make_mesh

    mesh, device = make_mesh(1, jax.devices()[:1]), jax.devices()[0].device_kind
    with target.compiled_for(mesh):
        if not flags.interpret and not target.has_kernels(jnp.bfloat16):
            raise UserError(f"no kernels run on {device}: use an NVIDIA GPU, Ampere or later, or add --interpret")
    found = differences(mesh, interpret=flags.interpret)
    if flags.json:
        print(json.dumps({"device": device, "tolerance": TOLERANCE, "differences": found}))
    else:
        print(f"{device}: largest difference from XLA, of at most {TOLERANCE}")
        width = max(map(len, found)) + 2
        for name, difference in found.items():
            print(f"{name:<{width}}{difference:.2g}{'  TOO LARGE' * (not difference <= TOLERANCE)}")
    return int(not all(difference <= TOLERANCE for difference in found.values()))


if __name__ == "__main__":
    sys.exit(commands.run(run, None))
