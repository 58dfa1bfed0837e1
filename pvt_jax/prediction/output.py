"""The folder of predictions: a line of JSON an image, a table, label maps, pictures."""

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.messages import escaped

LINES, TABLE = "predictions.jsonl", "predictions.csv"
FOLDERS = ("pictures", "label_map", "attention")
_QUALITY = 92


class Output:
    """A folder that fills image by image, in any order; the lines end up in that of the images.

    Lines wait in a file, since masks of many images do not fit in memory.
    """

    def __init__(self, folder: Path, columns: Sequence[str], *, overwrite: bool = False):
        """Make the folder. Raises UserError: it is not empty and not to be overwritten, or cannot be made."""
        self._folder, self._columns = folder, columns
        self._places: dict[int, tuple[int, int]] = {}
        self._rows: dict[int, tuple[Any, ...]] = {}
        try:
            if folder.is_dir() and any(folder.iterdir()):
                if not overwrite:
                    raise UserError(f"{folder} is not empty: choose another --output, or add --overwrite")
                if not (folder / LINES).exists():
                    raise UserError(f"{folder} holds no predictions to overwrite: choose another --output")
                _clear(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._waiting = (folder / f".{LINES}.tmp").open("w+b")
        except FileExistsError:
            raise UserError(f"{folder} is a file: choose another --output") from None
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --output") from error

    def add(self, index: int, path: str, fields: Mapping[str, Any], row: tuple[Any, ...] = ()) -> None:
        """The line of image ``index``, and its row of the table."""
        line = json.dumps({"path": os.fsencode(path).decode("utf-8", "backslashreplace"), **fields}).encode() + b"\n"
        self._places[index] = (self._waiting.seek(0, os.SEEK_END), len(line))
        self._waiting.write(line)
        if self._columns:
            self._rows[index] = (escaped(path), *row)

    def file(self, name: str, content: bytes) -> None:
        """A file by its path in the folder."""
        place = self._folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def picture(self, name: str, picture: np.ndarray) -> None:
        """A picture, uint8 [h, w, 3], as JPEG by its path in the folder."""
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY)
        self.file(name, file.getvalue())

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write lines and table, also of a prediction that was broken off."""
        with self._waiting:
            temporary = self._folder / f"{LINES}.tmp"
            with temporary.open("wb") as lines:
                for index in sorted(self._places):
                    start, length = self._places[index]
                    self._waiting.seek(start)
                    lines.write(self._waiting.read(length))
            os.replace(temporary, self._folder / LINES)
        Path(self._waiting.name).unlink()
        if self._columns:
            with (self._folder / TABLE).open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(("path", *self._columns))
                table.writerows(self._rows[index] for index in sorted(self._rows))


def _clear(folder: Path) -> None:
    """Remove what an earlier prediction wrote."""
    for name in (LINES, TABLE):
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
