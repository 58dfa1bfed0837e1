"""Grain, without its warning at import that older jaxlibs lack what its profiler of workers needs."""

import contextlib
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


with _errors_only():
    import grain

__all__ = ["grain"]
