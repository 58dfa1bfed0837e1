"""A JSON file in memory, with places in the text that tell places in the file, in UTF-8 and UTF-16."""

import codecs
from dataclasses import dataclass

import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.files.folders import read_file
from pvt_jax.files.text import encoding_of
from pvt_jax.messages import escaped


@dataclass(frozen=True)
class JsonText:
    """A file as one character for each unit of its encoding.

    Attributes:
        units: bytes of UTF-8, or the 16 bits of UTF-16, as characters.
        width: bytes of a unit.
        start: the unit behind a byte order mark.
    """

    units: str
    width: int
    start: int

    @classmethod
    def read(cls, path: str) -> "JsonText":
        """Returns a file; raises UserError: it cannot be read, or is UTF-32."""
        data = read_file(path)
        encoding = encoding_of(data)
        if encoding.startswith("utf-32"):
            raise UserError(f"{escaped(path)} is UTF-32: save the file as UTF-8")
        if encoding.startswith("utf-16"):
            is_big = encoding == "utf-16-be" or data.startswith(codecs.BOM_UTF16_BE)
            units = np.frombuffer(data[: len(data) // 2 * 2], ">u2" if is_big else "<u2").astype("<u4").tobytes()
            return cls(units.decode("utf-32-le", "surrogatepass"), 2, int(encoding == "utf-16"))
        return cls(data.decode("latin-1"), 1, len(codecs.BOM_UTF8) * (encoding == "utf-8-sig"))

    def decoded(self, start: int, end: int) -> str:
        """Returns the units start to end as the characters that they stand for; raises UnicodeDecodeError."""
        if self.width == 1:
            return self.units[start:end].encode("latin-1").decode("utf-8")
        return self.units[start:end].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")

    def line(self, at: int) -> int:
        """Returns the number of the line of a unit."""
        return self.units.count("\n", 0, at) + 1
