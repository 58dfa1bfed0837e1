"""How fast a run is, and whether its data keeps up."""

import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from typing import Any

import jax
import numpy as np

from pvt_jax import machine
from pvt_jax.tasks.options import TaskConfig

# Percent of the time that devices wait for data, and seconds over which they do, from which on it is said.
LIMIT, SPAN = 20.0, 30.0


class Pace:
    """Images per second from line to line, and the share of that time in which the devices waited for data.

    They wait while all steps that were handed to them are done and the next batch is not there. The host may wait
    longer: it runs ahead of them. Compilation and evaluation do not count.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        # Notes when the last step ends; the loop looks at results only some steps later.
        self._watch = ThreadPoolExecutor(1, "pace")
        self._last: Future[float] | None = None
        self._since: float | None = None
        self._step, self._waited = 0, 0.0
        self._span, self._waited_in_span, self._is_told = 0.0, 0.0, False

    def next_batch(self, batches: Generator[dict[str, np.ndarray], None, None]) -> dict[str, np.ndarray]:
        """The next batch, with a look at the clock."""
        start = time.monotonic()
        with jax.profiler.TraceAnnotation("waiting for data"):
            batch = next(batches)
        if self._last is None:
            return batch
        if self._last.done() and not self._last.exception():
            self._waited += max(0.0, time.monotonic() - max(start, self._last.result()))
        return batch

    def handed_over(self, results: Any) -> None:
        """A step with these results is on its way to the devices."""
        self._last = self._watch.submit(_end_of, results)

    def begin(self, step: int) -> None:
        """Time counts from here on, at the end of ``step``."""
        self._since, self._step, self._waited = time.monotonic(), step, 0.0

    def begin_once(self, step: int) -> None:
        """As ``begin``, the first time."""
        if self._since is None:
            self.begin(step)

    def line(self, step: int) -> dict[str, float]:
        """``images_per_second`` and ``data_wait``, in percent, since the last line or the beginning."""
        assert self._since is not None
        seconds = time.monotonic() - self._since
        rate = (step - self._step) * self._batch_size / max(seconds, 1e-3)
        waited = min(self._waited, seconds)
        self._span, self._waited_in_span = self._span + seconds, self._waited_in_span + waited
        self.begin(step)
        return {"images_per_second": rate, "data_wait": 100 * waited / max(seconds, 1e-3)}

    def trouble(self) -> float | None:
        """Percent of the last ``SPAN`` seconds or more, if they were ``LIMIT`` or more; once."""
        if self._span < SPAN or self._is_told:
            return None
        share = 100 * self._waited_in_span / self._span
        self._span, self._waited_in_span, self._is_told = 0.0, 0.0, share >= LIMIT
        return share if self._is_told else None

    def close(self) -> None:
        """End the watch."""
        self._watch.shutdown(wait=False)


def slow_data(share: float, config: TaskConfig) -> str:
    """What to say where the devices waited for data for this share of the time, in percent."""
    cores, workers, ways = machine.cores(), config.data.workers, []
    if workers < cores:
        ways.append(f"--config.data.workers={cores}, as many as this machine has cores (now {workers})")
    ways += [
        f"--config.{key}={value}, in a new run"
        for key, value in dict(config.faster_loading).items()
        if reduce(getattr, key.split("."), config) != value
    ]
    ways.append("a copy of the data with smaller images")
    return (
        f"note: data is what limits this run: the devices waited for it {share:.0f} % of the time (this note comes "
        f"from {LIMIT:.0f} % on). What helps: {'; '.join(ways)}"
    )


def _end_of(results: Any) -> float:
    jax.block_until_ready(results)
    return time.monotonic()
