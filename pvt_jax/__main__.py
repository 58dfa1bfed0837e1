"""All commands by one name: ``pvt_jax train --config digits --workdir runs/digits``, or ``python -m pvt_jax train …``.

``pvt_jax COMMAND`` takes the flags of its module, as ``python -m pvt_jax.MODULE`` does, and has its exit codes.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvt_jax import commands
from pvt_jax.errors import UserError
from pvt_jax.huge_pages import restart_with_huge_pages
from pvt_jax.messages import did_you_mean


@dataclass(frozen=True)
class Row:
    """A command.

    Attributes:
      module: its module, which has ``main(arguments)``; imported when the command is called.
      does: what it does, in a line.
      settled: flags that this command stands for, as (``"--mode"``, ``"eval"``).
      computes: whether it starts again with huge pages where they help, as its module does when Python runs that.
    """

    module: str
    does: str
    settled: tuple[str, ...] = ()
    computes: bool = False


COMMANDS: dict[str, Row] = {
    "train": Row("pvt_jax.main", "train a model, or go on with a run", ("--mode", "train"), computes=True),
    "eval": Row("pvt_jax.main", "evaluate a checkpoint of a run", ("--mode", "eval"), computes=True),
    "browse": Row("pvt_jax.browse", "draw training examples as the model sees them"),
    "compare": Row("pvt_jax.compare", "a table and curves of runs"),
    "convert": Row("pvt_jax.convert", "convert weights from and to PyTorch's files"),
    "export": Row("pvt_jax.export", "write a model that runs with jax alone"),
    "predict": Row("pvt_jax.predict", "predict images with a trained model", computes=True),
    "summary": Row("pvt_jax.summary", "what a model costs in parameters, MACs and memory"),
    "sweep": Row("pvt_jax.sweep", "run an experiment: its runs, table and figures"),
    "benchmark": Row("pvt_jax.benchmark", "time a step of a model, and what it takes of memory", computes=True),
    "prepare": Row("pvt_jax.prepare", "prepare a TFDS data set once"),
}


def run(arguments: Sequence[str]) -> int:
    """Start the command that comes first; its exit code. It finds its own arguments, and how it is called, in ``sys``.

    Raises UserError: there is no such command, or a flag is given that the command stands for.
    """
    name, *rest = arguments or [""]
    called = "python -m pvt_jax" if Path(sys.argv[0]).name == "__main__.py" else "pvt_jax"
    if name in ("--help", "-h"):
        print(_help(called))
        return 0
    if name == "--version":
        print("pvt_jax", importlib.import_module("pvt_jax").__version__)
        return 0
    if name not in COMMANDS:
        what = f"no command {name!r}{did_you_mean(name, COMMANDS)}" if name else "which command?"
        raise UserError(f"{what}: the commands are {', '.join(COMMANDS)} (see {called} --help)")
    row = COMMANDS[name]
    for flag in row.settled[::2]:
        if any(word.partition("=")[0] == flag for word in rest):
            others = [other for other, it in COMMANDS.items() if it.module == row.module and other != name]
            raise UserError(f"{called} {name} takes no {flag}: leave it out, or call {called} {' or '.join(others)}")
    sys.argv[:] = [f"{called} {name}", *row.settled, *rest]
    return importlib.import_module(row.module).main()


def _help(called: str) -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {row.does}" for name, row in COMMANDS.items()]
    return "\n".join([f"usage: {called} COMMAND …", "", *rows, "", f"{called} COMMAND --help lists the flags of one."])


def main() -> int:
    """All commands, of this process's arguments; the exit code."""
    return commands.run(run, None)


def start() -> int:
    """The console script ``pvt_jax``, which may begin the process anew."""
    row = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if row is not None and row.computes:
        restart_with_huge_pages()
    return main()


if __name__ == "__main__":
    sys.exit(start())
