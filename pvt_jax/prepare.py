"""Prepare a TFDS data set once: ``python -m pvt_jax.prepare imagenet2012 --manual_dir=TARS --data_dir=ROOT``.

TARS holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar. imagenet2012 needs no TensorFlow; other data sets do
(with importlib_resources, which TFDS 4.9.10 forgets to require), once and on any machine.
"""

import sys
from collections.abc import Sequence

from pvt_jax import commands


def run(arguments: Sequence[str]) -> int:
    """Write the data set that the flags name."""
    parser = commands.Parser(prog="python -m pvt_jax.prepare", description="Prepare a TFDS data set once.")
    parser.add_argument("name", help="TFDS name, such as imagenet2012 or cifar10")
    parser.add_argument("--data_dir", default="", help="where to write; TFDS's default when unset")
    parser.add_argument("--manual_dir", default="", help="folder of the originals that TFDS cannot download")
    parser.add_argument(
        "--shorter_side",
        type=int,
        default=0,
        help="of imagenet2012, make training images smaller, to shorter sides of at most so many pixels",
    )
    flags = parser.parse_args(arguments)

    from pvt_jax.data.formats.tfds.prepare import prepare

    prepared = prepare(flags.name, root=flags.data_dir, manual_dir=flags.manual_dir, shorter_side=flags.shorter_side)
    print("prepared in", prepared)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
