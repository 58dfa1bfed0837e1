"""What a compiled program moves: bytes through the memory of a device, and messages between devices.

A bound near the truth: every kernel reads each operand and writes each result once, whatever caches keep, but reads no
more of an operand than it slices out, and writes no more of one than it updates in place. A loop's body counts as often
as it runs.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pvt_jax.planning.groups import Groups, groups_of
from pvt_jax.planning.hlo import Instruction, Program, held, padded, parse, size

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What moves nothing.
_FREE = (
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "add-dependency", "domain", "get-dimension-size", "iota"),
)
_FREE_CALLS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')
_SLICES = ("slice", "dynamic-slice", "gather")
# What a fusion reads through on the way to a slice: as many elements as come out of it.
_VIEWS = ("bitcast", "reshape", "convert", "copy", "transpose")


@dataclass(frozen=True)
class Collective:
    """Messages between devices.

    Attributes:
      kind: one of ``COLLECTIVES``.
      bytes: of the whole array that takes part on a device: summed, gathered, scattered or sent.
      groups: who exchanges with whom.
      times: how often it runs in a step.
    """

    kind: str
    bytes: int
    groups: Groups
    times: int = 1


@dataclass
class Traffic:
    """Of one run of a program on one device.

    Attributes:
      bytes: read and written in memory.
      kernels: how many instructions move them.
      by_kind: bytes by the kind of instruction.
      collectives: in the program's order.
      unknown_loops: loops whose number of rounds the text does not tell, as those that draw until a number fits; their
        bodies count once.
      unknown_bytes: of those bodies.
    """

    bytes: int = 0
    kernels: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    collectives: list[Collective] = field(default_factory=list)
    unknown_loops: int = 0
    unknown_bytes: int = 0

    def add(self, other: "Traffic", times: int = 1) -> None:
        """Add ``other``, run so many times."""
        self.bytes += other.bytes * times
        self.kernels += other.kernels * times
        for kind, moved in other.by_kind.items():
            self.by_kind[kind] += moved * times
        self.collectives += [replace(one, times=one.times * times) for one in other.collectives]
        self.unknown_loops += other.unknown_loops
        self.unknown_bytes += other.unknown_bytes * times


def traffic(text: str, devices: int) -> Traffic:
    """What ``compiled.as_text()``, a program for so many devices, moves. Raises ValueError: it is no such text."""
    return _Walk(parse(text), devices).total()


class _Walk:
    """Adds up a program's computations, each of them once."""

    def __init__(self, program: Program, devices: int):
        self.program, self.devices = program, devices
        self.known: dict[str, Traffic] = {}
        # On a TPU a collective that runs beside other kernels is fused with several of them, under one number.
        self.channels: set[str] = set()

    def total(self) -> Traffic:
        return self.computation(self.program.entry)

    def computation(self, name: str) -> Traffic:
        if name not in self.known:
            self.known[name] = found = Traffic()
            body = self.program.computations.get(name, ())
            shapes = {one.name: one.shape for one in body}
            for instruction in body:
                self.instruction(instruction, shapes, found)
        return self.known[name]

    def instruction(self, one: Instruction, shapes: dict[str, str], found: Traffic) -> None:
        if one.kind == "while":
            trips, body = self.program.trips(one), self.computation(one.attribute("body"))
            found.add(body, 1 if trips is None else trips)
            if trips is None:
                found.unknown_loops += 1
                found.unknown_bytes += body.bytes
        elif one.kind == "conditional":
            found.add(max(map(self.computation, one.branches), key=lambda branch: branch.bytes))
        elif one.kind == "call":
            found.add(self.computation(one.attribute("to_apply")))
        elif one.kind == "async-start":
            found.add(self.computation(one.attribute("calls")))
        elif one.kind not in _FREE and not any(target in one.rest for target in _FREE_CALLS):
            found.collectives += self.collectives(one, shapes)
            moved = sum(self.moved(one, shapes))
            found.bytes += moved
            found.by_kind[one.kind] += moved
            # The end of what began as a kernel of its own.
            found.kernels += not one.kind.endswith("-done")

    def collectives(self, one: Instruction, shapes: dict[str, str]) -> Iterator[Collective]:
        """Those of an instruction, which may be a fusion around them."""
        kind = one.kind.removesuffix("-start")
        if kind in COLLECTIVES:
            yield self.collective(kind, one, sum(size(shapes.get(name, "")) for name in one.operands))
        elif one.kind == "fusion":
            body = self.program.computations.get(one.attribute("calls"), ())
            inner = {own.name: own.shape for own in body}
            for own in body:
                number = re.search(r"\bchannel_id=(\d+)", own.rest)
                if number is None or number[1] not in self.channels:
                    self.channels |= {number[1]} if number else set()
                    yield from self.collectives(own, inner)

    def collective(self, kind: str, one: Instruction, operands: int) -> Collective:
        groups = groups_of(one.rest, self.devices)
        return Collective(kind, operands * (groups.size if kind == "all-gather" else 1), groups)

    def moved(self, one: Instruction, shapes: dict[str, str]) -> Iterator[int]:
        """Bytes that an instruction reads and writes, one number after the other."""
        operands = [held(shapes.get(name, "")) for name in one.operands]
        # What a kernel is given twice, as the keys and values that are halves of one array, it reads once in all.
        distinct = [held(shapes.get(name, "")) for name in dict.fromkeys(one.operands)]
        if one.kind == "slice-start":
            # (what is sliced, the slice, …).
            yield min(operands[0], padded(one.shape) - padded(shapes[one.operands[0]]))
        elif one.kind.endswith("-start"):
            yield from operands
        elif one.kind.endswith("-done"):
            yield held(one.shape)
        elif one.kind in _SLICES:
            # Where to slice is an operand of a few bytes.
            yield from (min(operands[0], padded(one.shape)), held(one.shape), *operands[1:])
        elif one.kind == "dynamic-update-slice":
            yield from (operands[1], operands[1])
        elif one.kind == "fusion":
            yield from self.fused(one, operands)
        else:
            yield from distinct
            yield held(one.shape)

    def fused(self, one: Instruction, operands: list[int]) -> Iterator[int]:
        """Bytes of a fusion, whose computation says which parts of its operands it reads, and of its results writes."""
        name = one.attribute("calls")
        for number, whole in enumerate(operands):
            yield min(whole, self.read(name, number, whole)) if whole else 0
        kept = sum(self.kept(name, own) for own in self.body(name) if own.is_root)
        yield max(held(one.shape) - kept, 0)

    def body(self, name: str) -> tuple[Instruction, ...]:
        return self.program.computations.get(name, ())

    def read(self, name: str, number: int, whole: int) -> int:
        """Bytes that a fusion's computation reads of its parameter of this number, of ``whole`` bytes."""
        users: dict[str, list[Instruction]] = defaultdict(list)
        for own in self.body(name):
            for operand in set(own.operands):
                users[operand].append(own)

        def of_value(value: str) -> int:
            total = 0
            for user in users[value]:
                if user.kind == "fusion":
                    inner = user.attribute("calls")
                    total += sum(self.read(inner, k, whole) for k, own in enumerate(user.operands) if own == value)
                elif user.kind in _SLICES and user.operands[0] == value:
                    total += padded(user.shape)
                elif user.kind == "dynamic-update-slice" and user.operands[0] == value:
                    pass  # It is overwritten in place.
                elif user.kind in _VIEWS and not user.is_root:
                    total += of_value(user.name)
                else:
                    return whole
            return total

        parameter = next((own for own in self.body(name) if _is_parameter(own, number)), None)
        return of_value(parameter.name) if parameter else whole

    def kept(self, name: str, root: Instruction) -> int:
        """Bytes of a fusion's result that it does not write, as they stay what they were."""
        by_name = {own.name: own for own in self.body(name)}
        if root.kind == "tuple":
            return sum(self.kept(name, by_name[operand]) for operand in root.operands)
        while root.kind in _VIEWS:
            root = by_name[root.operands[0]]
        if root.kind == "fusion":
            inner = root.attribute("calls")
            return sum(self.kept(inner, own) for own in self.body(inner) if own.is_root)
        if root.kind != "dynamic-update-slice":
            return 0
        return padded(root.shape) - padded(by_name[root.operands[1]].shape)


def _is_parameter(one: Instruction, number: int) -> bool:
    return one.kind == "parameter" and one.rest.startswith(f"{number})")
