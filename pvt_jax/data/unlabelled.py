"""Images without ground truth, for prediction: read one by one, and what cannot be read is remembered."""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from pvt_jax.data.options import ReadingOptions
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.headers import THREADS, image_header
from pvt_jax.files.images import decode


class Unlabelled:
    """Paths of images, encoded images, or uint8 [H, W, 3], as a source. A task adds what its records hold besides.

    Attributes:
        failures: why an image cannot be read, by its number; filled while records are read.
    """

    # The classes are the model's.
    class_names: tuple[str, ...] = ()

    def __init__(self, images: Sequence[str | bytes | np.ndarray], names: Sequence[str], reading: ReadingOptions):
        self._images, self._names, self._reading = images, names, reading
        self.failures: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """Returns what a person calls the image."""
        return self._names[index]

    def image(self, index: int) -> np.ndarray:
        """Returns uint8 [H, W, 3]; raises CorruptImageError, and remembers why, if there is no such image."""
        image, name = self._images[index], self._names[index]
        try:
            if isinstance(image, str):
                image = _read(image)
            if isinstance(image, bytes):
                image = decode(image, name, self._reading)
            if image.shape[:2] != tuple(self.sizes()[index]):
                raise CorruptImageError("", "its header states another size than it has")
        except OSError as error:
            self.failures[index] = error.strerror or type(error).__name__
        except CorruptImageError as error:
            self.failures[index] = error.reason
        except UserError as error:
            self.failures[index] = str(error).removeprefix(f"{name}: ")
        else:
            return image
        raise CorruptImageError(f"{name}: {self.failures[index]}", self.failures[index])

    def sizes(self) -> np.ndarray:
        """Returns height and width of every image, int32 [n, 2]; (0, 0) of what is none."""
        return self._sizes

    @cached_property
    def _sizes(self) -> np.ndarray:
        with ThreadPoolExecutor(THREADS) as pool:
            return np.array(list(pool.map(self._size, self._images)), np.int32).reshape(-1, 2)

    def _size(self, image: str | bytes | np.ndarray) -> tuple[int, ...]:
        if isinstance(image, np.ndarray):
            return image.shape[:2]
        if isinstance(image, str) and not _is_file(image):
            return 0, 0
        return image_header(image).size(self._reading.exif_orientation)


def _is_file(path: str) -> bool:
    # Opening a pipe waits for who writes to it.
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _read(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CorruptImageError("", "it is no file")
    with open(path, "rb") as file:
        return file.read()
