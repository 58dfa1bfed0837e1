"""Metrics and pictures for a tracking service, beside the files of the workdir. Its package is an extra."""

import contextlib
import importlib
import importlib.util
import math
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pvt_jax import paths
from pvt_jax.errors import UserError

# The package of each service and what its ``init`` takes besides; their other calls are the same. A run of Trackio is
# known by its name, one of Weights & Biases by its id.
_SERVICES: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "trackio": lambda workdir, key: {"name": f"{workdir.name}-{key}"},
    "wandb": lambda workdir, key: {
        **{"name": workdir.name, "id": key, "allow_val_change": True},
        # It keeps files of its own, which a bucket cannot hold.
        **({} if paths.is_bucket(workdir) else {"dir": str(workdir)}),
    },
}
# Holds what tells the runs of one project apart, so that a run that goes on is the same there.
_KEY = "tracking_key"


def check(service: str) -> None:
    """Raises UserError: the package of the service is not installed."""
    if service and importlib.util.find_spec(service) is None:
        raise UserError(
            f"tracking={service} needs the package {service}: pip install {service}, or leave tracking away"
        )


class Tracker:
    """A run at a service. If it fails later, the training goes on without it, and a line says so.

    Raises UserError: the service cannot be started, as without a login.

    Args:
      say: takes the line.
    """

    def __init__(
        self, service: str, project: str, workdir: Path, config: Mapping[str, Any], say: Callable[[str], None]
    ):
        self._service, self._say = service, say
        check(service)
        workdir = workdir if paths.is_bucket(workdir) else workdir.resolve()
        key = _key(workdir)
        settings = _SERVICES[service](workdir, key)
        try:
            # stdout is for the result of the command.
            with contextlib.redirect_stdout(sys.stderr):
                self._module = importlib.import_module(service)
                self._run: Any = self._module.init(project=project, config=dict(config), resume="allow", **settings)
        except Exception as error:
            raise UserError(
                f"tracking={service} does not start ({_line(error)}): log in, or see the documentation of {service} "
                "for working offline, or leave tracking away"
            ) from error

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Metrics as ``SPLIT/NAME``; those that are not finite are left out."""
        finite = {f"{split}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        self._send(lambda run: run.log(finite, step=step))

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures, uint8 [h, w, 3], as ``eval/NAME``."""
        self._send(
            lambda run: run.log(
                {f"eval/{name}": self._module.Image(image) for name, image in pictures.items()}, step=step
            )
        )

    def close(self) -> None:
        """Wait until everything is sent."""
        self._send(lambda run: run.finish())
        self._run = None

    def _send(self, call: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            with contextlib.redirect_stdout(sys.stderr):
                call(self._run)
        except Exception as error:
            self._run = None
            self._say(f"tracking={self._service} has failed ({_line(error)}): the run goes on without it")


def _key(workdir: Path) -> str:
    path = workdir / _KEY
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
