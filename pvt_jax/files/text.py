"""Text files of a data set as editors write them, for all code that reads some.

A file is UTF-8 unless a byte order mark, or the zero bytes of UTF-16 and UTF-32, say otherwise. Other encodings cannot
be told from one another, and a wrong guess makes other names without a word: they are refused, with how the place reads
in those that are likely.
"""

import codecs
import json
import re

from pvt_jax.errors import UserError
from pvt_jax.files.folders import read_file
from pvt_jax.messages import escaped

# What Windows writes in western Europe, Japan and China.
_LIKELY = ("CP1252", "CP932", "GB18030")
# Bytes that are shown before and after one that is no UTF-8.
_AROUND = 24
# Blanks, and marks without width: files that were joined have byte order marks between them.
_BLANK = " \t\f\v\xa0\ufeff\u200b"


def encoding_of(data: bytes) -> str:
    """Returns the encoding of a file of text, for ``decode``, from its first bytes."""
    # RFC 4627 describes how the zero bytes tell; it holds for all texts that begin with an ASCII character.
    return json.detect_encoding(data)


def not_utf8(data: bytes, line: int = 1) -> str:
    """Describes the first byte that is no UTF-8, and how the place reads in other encodings; "" if there is none.

    ``line`` is the number of the first line of ``data``.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.start
    else:
        return ""
    line += data.count(b"\n", 0, wrong)
    first = max(data.rfind(b"\n", 0, wrong) + 1, wrong - _AROUND)
    rest = re.split(rb"[\r\n]", data[wrong : wrong + _AROUND])[0]
    before = data[first:wrong].decode("utf-8", "ignore").lstrip(_BLANK)
    readings = []
    for encoding in _LIKELY:
        try:
            # Incremental, as the last character is cut where the line goes on.
            reading = codecs.getincrementaldecoder(encoding)().decode(rest, final=len(rest) < _AROUND)
            readings.append(f"'{before}{reading}' in {encoding}")
        except UnicodeDecodeError:
            continue
    reads = f", which reads {' or '.join(readings)}" * bool(readings)
    return f"byte 0x{data[wrong]:02X} in line {line}{reads}"


def check_utf8(path: str, data: bytes, line: int = 1) -> None:
    """Raises UserError unless ``data`` of file ``path`` is UTF-8; ``line`` is the number of its first line."""
    if wrong := not_utf8(data, line):
        raise UserError(
            escaped(f"{path} is not UTF-8: {wrong}; save it as UTF-8, as `iconv -f {_LIKELY[0]} -t UTF-8` does")
        )


def decode_text(path: str, data: bytes) -> str:
    """Returns the text of file ``path`` with lines that end in a line feed; raises UserError for other encodings."""
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        check_utf8(path, data)
        raise UserError(f"{escaped(path)} is not {encoding.upper()}: save it as UTF-8") from error
    return _with_line_feeds(text)


def read_lines(path: str) -> list[str]:
    """Returns the lines of a file that are not blank, without blanks around; raises UserError as ``decode_text``."""
    return _lines(decode_text(path, read_file(path)))


def file_names(path: str, data: bytes) -> list[str]:
    """Returns the lines of a list of files as ``read_lines``; what is no UTF-8 stays as in names that the system gives.

    On Linux the name of a file may be in any encoding, and a list of such names is in the same.
    """
    if encoding_of(data) in ("utf-8", "utf-8-sig"):
        return _lines(_with_line_feeds(data.decode("utf-8", "surrogateescape")))
    return _lines(decode_text(path, data))


def is_comment(line: str) -> bool:
    """Whether a line is a comment: a "#" and a blank; without the blank it may begin a name."""
    return line.startswith(("# ", "#\t"))


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> list[str]:
    return [line for line in (line.strip(_BLANK) for line in text.split("\n")) if line]
