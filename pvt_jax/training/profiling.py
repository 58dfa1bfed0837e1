"""A trace of some steps of a run, which xprof and Perfetto open."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.messages import plural

# Of a workdir.
FOLDER = "profile"
_NOTHING = "and the run goes on without a trace"


def check_window(window: tuple[int, ...], total: int) -> None:
    """Raises UserError: the run of ``total`` steps does not have all steps of ``profile_steps``."""
    if window and window[1] > total:
        raise UserError(
            f"profile_steps is {window}, but the run has only {plural(total, 'step')}: choose two of them, as "
            f"--config.profile_steps='({max(total - 5, 1)},{total})'"
        )


class Profiler:
    """Traces steps ``window``, (first, last) as the log counts them, both included, into ``WORKDIR/profile``.

    Of several processes each has one, and the first one alone traces: they run the same program. For a workdir in a
    bucket the trace is written on this machine and sent. A trace that cannot be made is told, and stops no run.

    Args:
      window: ``profile_steps``; () for none.
      workdir: of the run.
      step: after which the run begins or goes on.
      drain: waits for all steps in flight, so that the trace has whole steps.
      written: is called when the trace is written, which takes seconds.
      say: takes lines.
    """

    def __init__(
        self,
        window: tuple[int, ...],
        workdir: Path,
        step: int,
        *,
        drain: Callable[[], None],
        written: Callable[[], None],
        say: Callable[[str], None],
    ):
        self._window, self._workdir = window, workdir
        self._drain, self._written, self._say = drain, written, say
        self._begin = self._step = step
        # The first step of a trace that has begun, and where it is written.
        self._first: int | None = None
        self._local = Path()
        if window and step >= window[1]:
            self._window = ()
            say(f"profile_steps={window} is over: the run goes on after step {step}, and nothing is traced")

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Inside, step ``number`` gets its batch and begins."""
        first, last = self._window or (0, 0)
        if not first <= number <= last:
            yield
            return
        if number == max(first, self._begin + 1):
            self._drain()
            self._start(number)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._step = number
        if number == last:  # All processes alike, as waiting may raise.
            self._drain()
            self.close()
            self._written()

    def close(self) -> None:
        """Write the trace, if one has begun."""
        first, self._first = self._first, None
        if first is None:
            return
        folder = self._workdir / FOLDER
        try:
            jax.profiler.stop_trace()
            if self._local != folder:
                _send(self._local, folder)
        except Exception as error:  # The profiler has no error of its own; a disk may be full, too.
            self._say(f"cannot write the trace of steps to {folder} ({_reason(error)}), {_NOTHING}")
            return
        finally:
            if self._local != folder:
                shutil.rmtree(self._local, ignore_errors=True)
        of = f" of process 0 of {jax.process_count()}" if jax.process_count() > 1 else ""
        steps = f"step {first}" if first == self._step else f"steps {first} to {self._step}"
        self._say(
            f"traced {steps}{of}: look at it with `xprof --logdir {paths.url(folder)}`, or open perfetto_trace.json.gz "
            "in there at ui.perfetto.dev"
        )

    def _start(self, number: int) -> None:
        self._step = number
        if jax.process_index() > 0:
            return
        try:
            folder = self._workdir / FOLDER
            remote = paths.is_bucket(self._workdir)
            self._local = Path(tempfile.mkdtemp(prefix="pvt_jax_")) if remote else folder
            self._local.mkdir(exist_ok=True)
            options = jax.profiler.ProfileOptions()
            # Calls of Python are not what a step is made of, and following those of all threads has ended a process
            # with a segmentation fault (jax 0.7.2 with Python 3.13).
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._local, create_perfetto_trace=True, profiler_options=options)
            self._first = number
        except Exception as error:
            self._say(f"cannot trace steps ({_reason(error)}), {_NOTHING}")


def _send(source: Path, target: Path) -> None:
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        paths.write_whole(target / path.relative_to(source).as_posix(), path.read_bytes())


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
