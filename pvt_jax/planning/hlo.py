"""The text of a compiled XLA program as computations of instructions, with the bytes of their shapes."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Bits of an element; what is not here, as tokens, has none.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_NUMBER = re.compile(r"[suf](\d+)|f8\w+")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?(\S+) = (.*?) ([a-z][\w\-]*)\((.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?(\S+) \(.*\{$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      size: bytes of its elements.
      padded: bytes with its tiles filled up.
      on_chip: whether it is kept there, and takes none of the device's memory.
    """

    size: int
    padded: int
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``rest`` is all that follows its operands."""

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    def attribute(self, name: str) -> str:
        """The name of the computation that ``name=%…`` gives, or ""."""
        found = re.search(rf"\b{name}=%([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations of a ``conditional``."""
        if found := re.search(r"branch_computations=\{([^}]*)\}", self.rest):
            return tuple(_OPERAND.findall(found[1]))
        return tuple(filter(None, (self.attribute("true_computation"), self.attribute("false_computation"))))


@dataclass(frozen=True)
class Program:
    """Computations by name, each a list of instructions in their order."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often the body of a ``while`` runs; None where the text does not tell.

        XLA notes the number for some backends; for others it is the limit that a counter from 0 is compared with.
        """
        if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(found[1])
        condition = list(self.computations[loop.attribute("condition")])
        for instruction in tuple(condition):
            condition += self.computations.get(instruction.attribute("calls"), ())
        tests = [one for one in condition if one.kind == "compare" and "direction=LT" in one.rest]
        limits = {one.rest.partition(")")[0] for one in condition if one.kind == "constant"}
        return int(limits.pop()) if len(tests) == len(limits) == 1 else None


def parse(text: str) -> Program:
    """Reads ``compiled.as_text()``. Raises ValueError: it has no entry."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, body = "", "", list[Instruction]()
    for line in text.splitlines():
        if line.startswith("}"):
            computations[name], body = tuple(body), []
        elif not line.startswith(" "):
            if found := _COMPUTATION.match(line):
                name = found[2]
                entry = name if found[1] else entry
        elif found := _INSTRUCTION.match(line):
            is_root, own, shape, kind, rest = found.groups()
            # A constant's value stands where others have operands.
            operands = () if kind in ("constant", "parameter") else tuple(_OPERAND.findall(rest[: _closing(rest)]))
            body.append(Instruction(own, shape, kind, operands, rest, bool(is_root)))
    if not entry:
        raise ValueError("the text is not of a compiled program: it has no ENTRY")
    return Program(computations, entry)


def _closing(text: str) -> int:
    """Where the parenthesis closes that has opened before ``text``."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def arrays(shape: str) -> Iterator[Array]:
    """The arrays of a shape, in their order if it is a tuple."""
    for dtype, sides, layout in _ARRAY.findall(shape):
        lengths = [int(side.lstrip("<=")) for side in sides.split(",") if side]
        bits = _BITS.get(dtype, 0)
        if not bits and (found := _NUMBER.fullmatch(dtype)):
            bits = int(found[1] or 8)
        size = math.ceil(math.prod(lengths) * bits / 8)
        space = _SPACE.search(layout)
        padded = math.ceil(math.prod(_tiled(lengths, layout)) * bits / 8)
        yield Array(size, padded, on_chip=space is not None and space[1] != "0")


def size(shape: str) -> int:
    """Bytes of the elements of a shape."""
    return sum(array.size for array in arrays(shape))


def padded(shape: str) -> int:
    """Bytes of a shape with its tiles filled up, wherever it is."""
    return sum(array.padded for array in arrays(shape))


def held(shape: str) -> int:
    """Bytes of a shape in the device's memory: tiles are filled up, and what is kept on the chip takes none."""
    return sum(array.padded for array in arrays(shape) if not array.on_chip)


def _tiled(lengths: Sequence[int], layout: str) -> list[int]:
    """Lengths from the outermost axis in memory, those of the last ones filled up to the tile."""
    order, _, rest = layout.partition(":")
    axes = [int(axis) for axis in order.split(",") if axis]
    stored = [lengths[axis] for axis in reversed(axes)] if len(axes) == len(lengths) else list(lengths)
    if found := _TILE.search(rest):
        tile = [int(side) for side in found[1].split(",")][-len(stored) :] if stored else []
        for axis, side in zip(range(len(stored) - len(tile), len(stored)), tile, strict=True):
            stored[axis] = -(-stored[axis] // side) * side
    return stored
