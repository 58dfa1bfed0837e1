"""Look at training examples: ``python -m pvt_jax.browse --config configs/digits.py --output examples``."""

import argparse
import sys
from collections.abc import Sequence

from pvt_jax import commands
from pvt_jax import config as config_lib
from pvt_jax.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags, with ``--config.KEY=VALUE`` collected in ``overrides``."""
    parser = commands.Parser(prog="python -m pvt_jax.browse", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="config file, as configs/pvt_tiny.py")
    parser.add_argument(
        "--output", required=True, metavar="DIR", type=commands.path("--output"), help="folder that gets the pictures"
    )
    parser.add_argument("--count", type=int, default=16, metavar="N", help="examples (default: 16)")
    parser.add_argument("--step", type=int, default=0, metavar="S", help="the first step to show (default: 0)")
    flags = commands.parse_with_overrides(parser, arguments)
    if flags.count < 1:
        raise UserError(f"--count must be 1 or more, but is {flags.count}")
    if flags.step < 0:
        raise UserError(f"--step must be 0 or more, but is {flags.step}")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Draw the examples of the first steps."""
    flags = parse(arguments)
    config = config_lib.read(config_lib.load(flags.config, flags.overrides))
    # Importing jax takes seconds; a mistyped flag or key is answered before.
    from PIL import Image

    from pvt_jax.training.examples import drawn_examples
    from pvt_jax.visualization.panels import sheet

    drawn = drawn_examples(config, flags.count, flags.step)
    folder = flags.output / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, picture) in enumerate(drawn):
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    Image.fromarray(sheet(drawn)).save(flags.output / "examples.png")
    print(f"done: {len(drawn)} examples in {flags.output} (examples.png, examples/)")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
