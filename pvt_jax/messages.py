"""Names and lists of names in messages, and what is said of a wait."""

import contextlib
import difflib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

# Seconds that a person waits without being told for what.
PATIENCE = 2.0


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known name nearest to ``name``, or "" when none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """Returns the first names as a list, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def escaped(path: str) -> str:
    """Returns a path as one line of valid UTF-8: other bytes, control characters and line breaks are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: found[0].encode("unicode_escape").decode(), text)


def escaped_name(name: str) -> str:
    """Returns any text, such as a class name with a lone surrogate, as one line of valid UTF-8."""
    return escaped(name.encode("utf-8", "backslashreplace").decode())


def in_units(count: float) -> str:
    """Returns as "1.87 T" or "12.50 G": count in units of 1e15, 1e12, 1e9 or 1e6."""
    for unit, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if count >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{count / 1e6:,.2f} M"


def plural(count: int, noun: str, ending: str = "s") -> str:
    """Returns "1 box" or "2,000 boxes"."""
    return f"{count:,} {noun}{ending * (count != 1)}"


def byte_count(size: float) -> str:
    """Returns "1.25 GiB" or "20.00 MiB"."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.2f} MiB"


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows of a table as lines; the first ``left`` columns start together, the others end together."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
        rest = [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(first + rest).rstrip())
    return lines


def in_python(message: str) -> str:
    """A message that names flags of a command, with the arguments of Python that they stand for."""
    for pattern, replacement in _ARGUMENTS:
        message = re.sub(pattern, replacement, message)
    return message


# As ``--head segformer``, ``--step 5 is for``, ``--config.seed=3``, and flags without a value.
_ARGUMENTS = (
    (r"--config\.([\w.]+)='?([^\s']*)'?", r'overrides=["\1=\2"]'),
    (r"--(model|head) (?!or\b|and\b)(\w+)", r'\1="\2"'),
    (r"--(class_names|step) (\S+?)(?= is\b| has\b| gives\b|[;:,]|$)", r'\1="\2"'),
    (r'(model="\w+") (?=head=)', r"\1, "),
    (r"(?<![\w-])--set\b", "settings"),
    (r"(?<![\w-])--(\w+)", r"\1"),
)


@contextlib.contextmanager
def waiting(text: str, say: Callable[[str], None], seconds: float | None = None) -> Iterator[None]:
    """Says ``text`` if what is inside takes longer than so many seconds, by default ``PATIENCE``, while it does."""
    timer = threading.Timer(PATIENCE if seconds is None else seconds, say, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
