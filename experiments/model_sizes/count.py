"""Count a model with its head: ``python experiments/model_sizes/count.py pvt_small retinanet --image_size 800 1280``.

Prints one JSON object: ``parameters`` of the whole and ``head_parameters``, what is not of the backbone; and ``macs``,
the multiply-accumulates for one image, and ``backbone_macs``, from the traced program. ``pvt_jax.summary`` counts
classifiers. Heads that look at as many proposals as there are have no ``macs``.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import jax

from pvt_jax import trace
from pvt_jax.models import create_model


def main(arguments: Sequence[str]) -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("head")
    parser.add_argument("--image_size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--num_classes", type=int, default=150)
    parser.add_argument("--channels", type=int, default=0, help="of the head")
    flags = parser.parse_args(arguments)
    settings = {"channels": flags.channels} if flags.channels else {}
    model = create_model(flags.model, flags.head, settings, num_classes=flags.num_classes)
    variables = trace.abstract_variables(model, *flags.image_size)
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in variables["params"].items()}
    found = {"parameters": sum(sizes.values()), "head_parameters": sum(sizes.values()) - sizes["backbone"]}
    try:
        products = trace.traced_multiply_accumulates(model, *flags.image_size, variables=variables)
    except NotImplementedError as error:
        print(f"note: {error}", file=sys.stderr)
    else:
        found["macs"] = sum(part.weights + part.attention for part in products.values())
        found["backbone_macs"] = sum(
            part.weights + part.attention for name, part in products.items() if name.startswith("st")
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
