"""Leave in good order when the machine is taken away."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notes SIGTERM and Ctrl-C while active, instead of dying of them; a second one acts as usual.

    ``signal_number`` is None until one arrives. With several processes the runtime's own service listens for SIGTERM
    on every host, and this class only asks it. In a thread other than the main one, where Python handles no signals,
    it notes none.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        # A handler of ours would take the place of the service's, and the other hosts would never hear of it.
        ours = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT) if ours else ():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def requested(self, step: int) -> bool:
        """Whether to save and stop after ``step``; all processes get the same answer for the same step."""
        if jax.process_count() == 1:
            return self.signal_number is not None
        # The service names one step for all of them to stop at.
        reached = multihost_utils.reached_preemption_sync_point(step)
        if reached and self.signal_number is None:
            self.signal_number = signal.SIGTERM
        return reached

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, self._previous[number])  # pyright: ignore[reportArgumentType]
