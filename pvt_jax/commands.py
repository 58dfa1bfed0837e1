"""What the commands share: flags that fail with one line, and the exit code of bad input."""

import argparse
import ast
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from pvt_jax import paths
from pvt_jax.errors import ArgumentError, UserError

# What a command that ``pvt_jax/__main__.py`` has started is called by, in place of its module.
_FROM_PACKAGE = re.compile(r"(python -m )?pvt_jax \w+")


class Parser(argparse.ArgumentParser):
    """Flags; a wrong one raises UserError, in place of a usage text on stderr. Nothing is abbreviated."""

    def __init__(self, *, prog: str, description: str | None = None):
        called = sys.argv[0] if _FROM_PACKAGE.fullmatch(sys.argv[0]) else prog
        super().__init__(prog=called, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def path(flag: str) -> Callable[[str], Path]:
    """The type of a flag, by its name, that takes a path on this machine; ``~`` is the home folder."""
    return lambda text: Path(paths.local(text, flag))


def weights(flag: str) -> Callable[[str], Path | str]:
    """The type of a flag, by its name, that takes weights: a path on this machine, or a URL."""

    def read(text: str) -> Path | str:
        found = paths.weights(text, flag)
        return found if paths.scheme(found) else Path(found)

    return read


def workdir(flag: str) -> Callable[[str], Path | str]:
    """The type of a flag, by its name, that takes a workdir, on this machine or in a bucket."""
    return lambda text: paths.url(text) if paths.is_bucket(text) else Path(paths.local(text, flag))


def add_model_flags(parser: Parser) -> None:
    """Flags on what a source of weights holds; ``check_model_flags`` completes what they give."""
    parser.add_argument("--model", metavar="NAME", help="such as pvt_tiny; optional for a run, whose config names it")
    parser.add_argument(
        "--head", metavar="NAME", help="of a dense model, such as segformer; '' extracts its backbone as a classifier"
    )
    parser.add_argument(
        "--num_classes", type=int, metavar="N", help="default: that of the source; another needs a new classifier"
    )
    parser.add_argument("--ema", action="store_true", help="load the moving average of a run's parameters")
    parser.add_argument(
        "--entry", default="", metavar="KEY", help="of a file with several sets of weights, such as model_ema"
    )
    add_set_flag(parser)


def add_set_flag(parser: Parser, more: str = "") -> None:
    """``--set``, of settings that have no flag of their own, and of ``more``; ``check_model_flags`` reads them."""
    text = f"another setting of the model, or head.KEY=VALUE of its head{more}; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


_OWN = MappingProxyType({"num_classes": "--num_classes", "head": "--head"})


def check_model_flags(flags: argparse.Namespace, own: Mapping[str, str] = _OWN) -> None:
    """Put what ``--set`` gave into ``flags.settings``; ``own`` has the keys that are given by another argument.

    Raises UserError: a flag has no meaning.
    """
    flags.settings = dict(_setting(text) for text in flags.set)
    for key in flags.settings:
        if flag := own.get(key.removeprefix("model.")):
            raise UserError(f"use {flag} instead of --set {key}=…")
    if flags.num_classes is not None and flags.num_classes < 1:
        raise UserError(f"--num_classes must be above 0, but is {flags.num_classes}")


def add_source_flags(parser: Parser) -> None:
    """SOURCE, a trained model, and what a person may say of it; ``source_choices`` reads them."""
    parser.add_argument("source", metavar="SOURCE", help="a trained model")
    add_model_flags(parser)
    parser.add_argument("--step", default="latest", help="of a run: latest, best, or a step number")
    parser.add_argument(
        "--class_names", default="", metavar="FILE", help="names of the classes, one a line, or a data set, as imagenet"
    )


def source_choices(flags: argparse.Namespace) -> dict[str, Any]:
    """SOURCE and what the flags say of it, as keyword arguments of ``pvt_jax.Predictor``."""
    named = ("head", "num_classes", "settings", "ema", "entry", "step", "class_names", "overrides")
    chosen = {name: getattr(flags, name) for name in named}
    return {"source": paths.weights(flags.source, "SOURCE"), "model": flags.model or "", **chosen}


def image_size(sides: Sequence[int]) -> tuple[int, int]:
    """(height, width) from what ``--image_size`` was given. Raises UserError: that is neither one side nor two."""
    if len(sides) > 2 or min(sides) < 1:
        raise UserError("--image_size takes one side, or height and width, in pixels")
    return sides[0], sides[-1]


def parse_with_overrides(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Flags, with ``--config.KEY=VALUE`` and ``--config.KEY VALUE`` collected in ``overrides``."""
    known: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            known.append(word)
            continue
        key = word.removeprefix("--config.")
        if "=" not in key and rest and not rest[0].startswith("--"):
            key += "=" + rest.pop(0)
        overrides.append(key)
    flags = parser.parse_args(known)
    flags.overrides = overrides
    return flags


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"--set takes KEY=VALUE, such as --set depths=2,2,2,2, not {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key, value


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None) -> int:
    """The exit code of ``command(arguments)``, of the process's own arguments if None.

    Bad usage and bad input become one line on stderr and exit code 2.
    """
    try:
        code = command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # a full disk behind it is an error of this command
        return code
    except UserError as error:
        message = error.of_command if isinstance(error, ArgumentError) else str(error)
        return _refuse(message, leaving=arguments is None)
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
