"""Errors that a person can act on: each is one line that names the thing and the way out."""


class UserError(Exception):
    """Bad usage or bad input. Commands print it as one line on stderr and exit with code 2.

    Write the message so that it names what is wrong (a path, a key, a number) and what to do about it.
    """


class ArgumentError(UserError):
    """A ``UserError`` that names arguments of Python; ``of_command`` is its message with the flags of a command."""

    def __init__(self, message: str, of_command: str):
        super().__init__(message)
        self.of_command = of_command


class CorruptImageError(UserError):
    """An image file or record that cannot be decoded; the message names its path or record.

    ``reason`` is what is wrong with it, without its name and the way out.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason or message
