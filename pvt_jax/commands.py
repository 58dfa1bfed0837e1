"""What the commands share: flags that fail with one line, and the exit code of bad input."""

import argparse
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pvt_jax import paths
from pvt_jax.errors import UserError

# What a command that ``pvt_jax/__main__.py`` has started is called by, in place of its module.
_FROM_PACKAGE = re.compile(r"(python -m )?pvt_jax \w+")


class Parser(argparse.ArgumentParser):
    """Flags; a wrong one raises UserError, in place of a usage text on stderr. Nothing is abbreviated."""

    def __init__(self, *, prog: str, description: str | None = None):
        called = sys.argv[0] if _FROM_PACKAGE.fullmatch(sys.argv[0]) else prog
        super().__init__(prog=called, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def path(flag: str) -> Callable[[str], Path]:
    """The type of a flag, by its name, that takes a path on this machine; ``~`` is the home folder."""
    return lambda text: Path(paths.local(text, flag))


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None) -> int:
    """The exit code of ``command(arguments)``, of the process's own arguments if None.

    Bad usage and bad input become one line on stderr and exit code 2.
    """
    try:
        code = command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # a full disk behind it is an error of this command
        return code
    except UserError as error:
        return _refuse(str(error), leaving=arguments is None)
    except BrokenPipeError:
        # Who reads the output has seen enough (``| head``); what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error), arguments is None)


def _refuse(message: str, leaving: bool) -> int:
    """The exit code of bad input, once the line is out; ``leaving`` says that the process ends with it."""
    if leaving:
        # A failed write of Orbax leaves coroutines and an event loop behind, which complain while the interpreter ends:
        # the error line has said why, and stays the last one.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        sys.unraisablehook = _report_unless_loop_is_closed
    print(f"error: {message}", file=sys.stderr, flush=True)
    if "jax" in sys.modules and sys.modules["jax"].process_count() > 1:
        # The usual way out waits for the other processes, and they wait for this one in the middle of a step.
        os._exit(2)
    return 2


def _report_unless_loop_is_closed(left: "sys.UnraisableHookArgs") -> None:
    if str(left.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(left)
