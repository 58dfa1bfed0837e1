"""Values of more than 8 bits, and the 256 steps that they are read in."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class DeepValues:
    """The values of an image, [h, w] or [h, w, 3], as the file stores them.

    Attributes:
        values: of any type of numbers.
        kind: what they are in words, as "16 bits".
        full: the range that they may have; None if the type says nothing of it.
        inverted: whether the least is white.
    """

    values: np.ndarray
    kind: str
    full: Range | None
    inverted: bool = False

    def spread(self) -> "Spread":
        """How far the finite values spread."""
        finite = self.values[np.isfinite(self.values)]
        if not finite.size:
            finite = np.zeros(1, self.values.dtype)
        # In NumPy's fewest digits: 0.1 of a float32 is no 0.10000000149.
        lowest, highest = (
            float(str(value)) if finite.dtype.kind == "f" else int(value) for value in (finite.min(), finite.max())
        )
        return Spread(self.kind, lowest, highest, self.full, self.inverted)

    def to_bytes(self, value_range: Range) -> np.ndarray:
        """uint8 of the same shape: ``value_range``, or ``full`` for (0, 0), in 256 equal steps.

        Of 16 bits that is the high byte, as Pillow and OpenCV have it, of 10 bits the value without its last two. What
        is no number is black. Raises ValueError where neither range is known.
        """
        chosen = value_range if any(value_range) else self.full
        if chosen is None:
            raise ValueError("no range")
        if self.values.dtype == np.uint16:
            steps = _table(*chosen)[self.values]
        else:
            steps = _steps(self.values, *chosen)
        return 255 - steps if self.inverted else steps


@dataclass(frozen=True)
class Spread:
    """Lowest and highest value, integers or floats, of one or more images; the rest as in ``DeepValues``."""

    kind: str
    lowest: float
    highest: float
    full: Range | None
    inverted: bool

    @classmethod
    def over(cls, spreads: Sequence["Spread"]) -> "Spread":
        """That of images of one kind."""
        lowest, highest = min(one.lowest for one in spreads), max(one.highest for one in spreads)
        return replace(spreads[0], lowest=lowest, highest=highest)

    def steps(self, black: float, white: float) -> tuple[int, int]:
        """What lowest and highest are read as, 0 to 255."""
        first, last = _steps(np.array([self.lowest, self.highest]), black, white).tolist()
        return (255 - first, 255 - last) if self.inverted else (first, last)


def deep_values(values: np.ndarray, bits: int = 0, inverted: bool = False) -> DeepValues:
    """What stands in ``values``, integers or floats; of unsigned integers ``bits`` are used, 0 for all."""
    kind, size = values.dtype.kind, values.dtype.itemsize * 8
    if kind == "f":
        return DeepValues(values, "floats", (0, 1), inverted)
    if kind == "u" and size == 16:
        return DeepValues(values, f"{bits or size} bits", (0, 2 ** (bits or size) - 1), inverted)
    return DeepValues(values, f"{'signed ' * (kind == 'i')}{size} bits", None, inverted)


@functools.lru_cache(maxsize=4)
def _table(black: float, white: float) -> np.ndarray:
    return _steps(np.arange(1 << 16, dtype=np.uint16), black, white)


def _steps(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """The step of each value, 0 to 255. Integers fill whole steps: white is the last value that has the last one."""
    width = white - black + (values.dtype.kind != "f")
    scaled = (values.astype(np.float64) - black) * (256 / width)
    return np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255).astype(np.uint8)
