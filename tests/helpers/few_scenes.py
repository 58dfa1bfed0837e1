"""The command, with few scenes to evaluate on: ``python -m tests.helpers.few_scenes FLAGS``."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pvt_jax import main
from pvt_jax.data.formats.digits import scenes
from tests.helpers.command import start

EVALUATED = 32


def evaluate_on_few(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(scenes._COUNTS, "eval", EVALUATED)


@pytest.fixture(scope="module")
def few_scenes() -> Iterator[None]:
    """In this process."""
    with pytest.MonkeyPatch.context() as patch:
        evaluate_on_few(patch)
        yield


def start_on_few(flags: list[str], devices: int) -> subprocess.Popen:
    """In a process of its own, on so many devices."""
    return start(flags, module=__name__, JAX_NUM_CPU_DEVICES=str(devices))


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        evaluate_on_few(patch)
        sys.exit(main.main())
