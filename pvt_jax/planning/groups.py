"""Which devices exchange messages in a collective, as XLA writes it."""

import math
import re
from dataclasses import dataclass

import numpy as np

_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"replica_groups=\{(\{.*?\}|)\}(?=,|$|\s)")
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}(?=,|$|\s)")


@dataclass(frozen=True)
class Groups:
    """Numbers of devices, in their order on the mesh, by group; of messages from one to another, pairs."""

    members: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Devices of the largest group."""
        return max(map(len, self.members), default=1)

    def hosts(self, per_host: int) -> int:
        """The most hosts that a group spans, where each has so many devices."""
        return max((len({member // per_host for member in group}) for group in self.members), default=1)


def groups_of(rest: str, devices: int) -> Groups:
    """The groups in an instruction's attributes; all devices where it names none."""
    if found := _PAIRS.search(rest):
        return Groups(_lists(found[1]))
    if found := _MESH.search(rest):
        sides, ids, order, axes = found.groups()
        named = {name: int(side) for name, side in re.findall(r"'([^']+)'=(\d+)", sides)}
        numbers = _numbers(ids or str(math.prod(named.values())), order).reshape(tuple(named.values()))
        return Groups(_along(numbers, list(named), axes))
    if found := _IOTA.search(rest):
        shape, source, order = found.groups()
        return Groups(_tuples(_numbers(source, order).reshape([int(side) for side in shape.split(",")])))
    if (found := _LISTS.search(rest)) and found[1]:
        return Groups(_lists(found[1]))
    return Groups((tuple(range(devices)),))


def _numbers(source: str, order: str | None) -> np.ndarray:
    """0, 1, … in an array of these sides, transposed."""
    sides = [int(side) for side in source.split(",")]
    numbers = np.arange(math.prod(sides)).reshape(sides)
    return numbers.transpose([int(axis) for axis in order.split(",")]) if order else numbers


def _along(numbers: np.ndarray, names: list[str], axes: str) -> tuple[tuple[int, ...], ...]:
    """Groups along some axes of a mesh; ``'x':(2)4`` is the part of axis x that has 2 before it and is 4 long."""
    sides, parts, chosen = [], 0, []
    wanted = {name: (int(before or 0), int(size or 0)) for name, before, size in re.findall(_AXIS, axes)}
    for name, side in zip(names, numbers.shape, strict=True):
        before, size = wanted.get(name, (0, 0))
        split = [before, size, side // (before * size)] if size else [side]
        chosen += [parts + (1 if size else 0)] if name in wanted else []
        sides += split
        parts += len(split)
    last = np.moveaxis(numbers.reshape(sides), chosen, range(parts - len(chosen), parts))
    return _tuples(last.reshape(-1, math.prod(sides[axis] for axis in chosen)))


_AXIS = r"'([^']+)'(?::\((\d+)\)(\d+))?"


def _tuples(groups: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, group)) for group in groups)


def _lists(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(one) for one in group.split(",") if one) for group in re.findall(r"\{([\d,]*)\}", text))
