"""The command, with few scenes to evaluate on: ``python -m tests.helpers.few_scenes FLAGS``."""

import sys

import pytest

from pvt_jax import main
from pvt_jax.data.formats.digits import scenes

EVALUATED = 32


def evaluate_on_few(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(scenes._COUNTS, "eval", EVALUATED)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        evaluate_on_few(patch)
        sys.exit(main.main())
