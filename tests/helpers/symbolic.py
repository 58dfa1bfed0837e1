"""Programs with a batch of any size, which the check of signatures takes for no shape."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def unchecked_signatures() -> Iterator[None]:
    """Signatures are not checked inside."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
