"""What all commands share."""

import subprocess
import sys

import pytest

from pvt_jax import commands
from pvt_jax.errors import UserError


def refusing(error: BaseException):
    def command(arguments):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no such thing: take another"), "error: no such thing: take another\n"),
        (FileNotFoundError(2, "No such file or directory", "x.pth"), "error: x.pth: No such file or directory\n"),
        (OSError("disk on fire"), "error: disk on fire\n"),
    ],
    ids=["user", "file", "other"],
)
def test_bad_input_is_one_line_and_exit_code_2(error, line, capsys):
    assert commands.run(refusing(error), []) == 2
    assert capsys.readouterr() == ("", line)


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        commands.run(refusing(ZeroDivisionError()), [])


def test_a_reader_that_leaves_early_is_no_error():
    """As ``command | head -1``: nothing on stderr, and the exit code of SIGPIPE."""
    script = "import sys; from pvt_jax import commands; sys.exit(commands.run(lambda a: print('x' * 10**6) or 0, []))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


# A thing that fails while the interpreter ends, as what a failed write of Orbax leaves behind.
LEFT_BEHIND = """
import sys
from pvt_jax import commands
from pvt_jax.errors import UserError

class Left:
    def __del__(self, reason=sys.argv[1]):  # Modules are gone when it runs.
        raise RuntimeError(reason)

left = Left()

def command(arguments):
    raise UserError("no space left: make room")

sys.exit(commands.run(command, None))
"""


@pytest.mark.parametrize(("reason", "is_shown"), [("Event loop is closed", False), ("a fault of our own", True)])
def test_nothing_but_other_faults_follows_the_error_line(reason, is_shown):
    done = subprocess.run([sys.executable, "-c", LEFT_BEHIND, reason], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no space left: make room\n")
    assert (reason in done.stderr) == is_shown and ("Traceback" in done.stderr) == is_shown


def test_flags_are_not_abbreviated():
    parser = commands.Parser(prog="python -m pvt_jax.thing")
    parser.add_argument("--batch_size")
    with pytest.raises(UserError, match=r"unrecognized arguments: --batch=3 \(see python -m pvt_jax.thing --help\)"):
        parser.parse_args(["--batch=3"])
