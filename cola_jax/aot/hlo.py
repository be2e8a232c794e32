"""The cost of a compiled program from its HLO text: matmul FLOPs, bytes, collectives, cycles, with loops multiplied out.

XLA's own cost analysis counts the body of a loop once. Here every computation counts as often as it runs: a while loop
by its `known_trip_count`, or by the constant that its condition compares with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BYTES = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "c64": 8,
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
OPERATION = re.compile(r" ([\w\-]+)\(")


class Collective(NamedTuple):
    """Collectives of one kind and size on one device: how often they run in a step, and the bytes of each one's result."""

    kind: str
    count: int
    bytes: int


@dataclass
class Totals:
    """The cost of one run of a program on one device.

    Attributes:
      flops: of matmuls and convolutions.
      bytes: read and written by instructions outside fusions, each operand and result once.
      cycles: sum of the compiler's estimates, if its backend gives any, without overlap.
      collectives: {(kind, bytes): count}.
      unknown_loops: loops whose trip count could not be read; they count once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    collectives: dict[tuple[str, int], int] = field(default_factory=dict)
    unknown_loops: int = 0

    def add(self, other: Totals, times: int) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        self.cycles += times * other.cycles
        self.unknown_loops += other.unknown_loops
        for key, count in other.collectives.items():
            self.collectives[key] = self.collectives.get(key, 0) + times * count

    def listed(self) -> list[Collective]:
        """The collectives, largest traffic first."""
        found = [Collective(kind, count, size) for (kind, size), count in self.collectives.items()]
        return sorted(found, key=lambda c: -c.count * c.bytes)


class Instruction(NamedTuple):
    name: str
    operation: str
    text: str  # after the name: type, operation, operands, attributes
    operands: tuple[str, ...]


def read(text: str) -> Totals:
    """Adds up a compiled module's text, `compiled.as_text()`."""
    computations, entry = _computations(text)
    return _Reader(computations).total(entry)


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and " -> " in line and not line.startswith(" "):
            head = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            current = found.setdefault(head, [])
            entry = head if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}":  # attributes of kernels run over several lines
            current = None
        elif current is not None and (match := INSTRUCTION.match(line)):
            current.append(_instruction(*match.groups()))
    return found, entry


def _instruction(name: str, text: str) -> Instruction:
    # A tuple's type is in brackets, which its members' layouts have too.
    operation = OPERATION.match(text, len(_inside(text[1:])) + 2 if text.startswith("(") else text.find(" "))
    if operation is None:
        return Instruction(name, "", text, ())
    rest = text[operation.end() :]
    operands = re.sub(r"\[[^\]]*\]|\{[^}]*\}|/\*[^*]*\*/", "", _inside(rest)).split(",")
    names = tuple(operand.strip().split(" ")[-1].lstrip("%") for operand in operands if operand.strip())
    return Instruction(name, operation.group(1), text, names)


def _inside(text: str) -> str:
    """The operands of an instruction: the text before its closing bracket."""
    depth = 1
    for index, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return text[:index]
    return text


def dims_of(text: str) -> tuple[int, ...]:
    """The dimensions of the first shape in a type."""
    match = SHAPE.search(text)
    return tuple(int(d) for d in match.group(2).split(",") if d) if match else ()


def bytes_of(text: str) -> int:
    """The bytes of a type, a tuple's members added up."""
    size = lambda dtype: BYTES.get(dtype, 1 if dtype.startswith("f8") or dtype.endswith("8") else 4)
    shapes = SHAPE.findall(text)
    return int(sum(size(dtype) * math.prod(int(d) for d in dims.split(",") if d) for dtype, dims in shapes))


def _type(instruction: Instruction) -> str:
    return instruction.text.split(f" {instruction.operation}(", 1)[0]


class _Reader:
    """Adds up computations, each one once."""

    def __init__(self, computations: dict[str, list[Instruction]]):
        self._computations = computations
        self._done: dict[str, Totals] = {}

    def total(self, name: str) -> Totals:
        """The cost of a computation with its loops and calls."""
        if name in self._done:
            return self._done[name]
        total, types = Totals(), self._types(name)
        channels: set[str] = set()
        for one in self._computations[name]:
            if one.operation == "while":
                body, condition = _called(one, "body"), _called(one, "condition")
                trips = self._trips(one, condition[0], body[0])
                total.unknown_loops += trips is None
                total.add(self.total(body[0]), trips or 1)
            elif one.operation in ("call", "conditional"):
                for called in _called(one, "to_apply") + _called(one, "branch_computations"):
                    total.add(self.total(called), 1)
            else:
                total.flops += self._flops(one, types)
                total.bytes += _moved(one, types)
                for inner in self._reached(one, types):
                    _note_collective(total, *inner, channels)
            cycles = re.search(r'"estimated_cycles":"(\d+)"', one.text)
            total.cycles += int(cycles.group(1)) if cycles else 0
        self._done[name] = total
        return total

    def _types(self, name: str) -> dict[str, str]:
        return {one.name: _type(one) for one in self._computations[name]}

    def _reached(self, one: Instruction, types: dict[str, str]) -> Iterator[tuple[Instruction, dict[str, str]]]:
        """The cost of an instruction, including the fusions or asynchronous computations it calls."""
        yield one, types
        for called in _called(one, "calls") + _called(one, "called_computations"):
            inner = self._types(called)
            for instruction in self._computations[called]:
                yield from self._reached(instruction, inner)

    def _flops(self, one: Instruction, types: dict[str, str]) -> float:
        return sum(_matmul(inner, inner_types) for inner, inner_types in self._reached(one, types))

    def _trips(self, loop: Instruction, condition: str, body: str) -> int | None:
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
        if known:
            return int(known.group(1))
        inside = {one.name: one for one in self._computations[condition]}
        root = self._computations[condition][-1]
        limit = _constant(inside.get(root.operands[-1])) if root.operands else None
        if limit is None or "direction=LT" not in root.text:
            return None
        counter = re.search(r"index=(\d+)", inside[root.operands[0]].text)
        return -(-limit // self._stride(body, int(counter.group(1)))) if counter else limit

    def _stride(self, body: str, counter: int) -> int:
        """The step of a loop counter: more than 1 if the compiler has unrolled the loop."""
        inside = {one.name: one for one in self._computations[body]}
        added = inside.get(self._computations[body][-1].operands[counter])
        while added is not None and added.operation in ("copy", "bitcast"):
            added = inside.get(added.operands[0])
        if added is None or added.operation != "add":
            return 1
        return next((value for name in added.operands if (value := _constant(inside.get(name)))), 1)


def _constant(one: Instruction | None) -> int | None:
    match = re.search(r"constant\((\d+)\)", one.text) if one is not None and one.operation == "constant" else None
    return int(match.group(1)) if match else None


def _called(one: Instruction, attribute: str) -> list[str]:
    match = re.search(rf"\b{attribute}=(?:\{{([^}}]+)\}}|(%?[\w.\-]+))", one.text)
    return [name.strip().lstrip("%") for name in (match.group(1) or match.group(2)).split(",")] if match else []


def _moved(one: Instruction, types: dict[str, str]) -> int:
    """Bytes read and written; instructions that only rename or regroup values move none."""
    still = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "")
    if one.operation in still or one.operation.endswith("-done"):
        return 0
    return bytes_of(_type(one)) + sum(bytes_of(types.get(name, "")) for name in one.operands)


def _note_collective(total: Totals, one: Instruction, types: dict[str, str], channels: set[str]) -> None:
    kind = one.operation.removesuffix("-start")
    if kind not in COLLECTIVES:
        return
    channel = re.search(r"channel_id=(\d+)", one.text)
    if channel:
        if channel.group(1) in channels:  # one collective that is split over several fusions
            return
        channels.add(channel.group(1))
    size = bytes_of(_type(one))
    if one.operation.endswith("-start"):  # its type holds the operands too
        size -= sum(bytes_of(types.get(name, "")) for name in one.operands)
    total.collectives[kind, size] = total.collectives.get((kind, size), 0) + 1


def _matmul(one: Instruction, types: dict[str, str]) -> float:
    if one.operation == "dot":
        left = dims_of(types.get(one.operands[0], ""))
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text).group(1)
        return 2.0 * math.prod(dims_of(_type(one))) * math.prod(left[int(d)] for d in contracted.split(",") if d)
    return _convolution(one, types) if one.operation == "convolution" else 0.0


def _convolution(one: Instruction, types: dict[str, str]) -> float:
    """2 x batch x input features x output features x the pairs of output and window places that meet an input."""
    left, right = (dims_of(types.get(name, "")) for name in one.operands[:2])
    labels, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.text).groups(), dims_of(_type(one))
    groups = re.search(r"batch_group_count=(\d+)", one.text)
    flops = 2.0 * left[labels[0].index("b")] / (int(groups.group(1)) if groups else 1)
    flops *= right[labels[1].index("i")] * right[labels[1].index("o")]
    window = re.search(r"window=\{([^}]*)\}", one.text)
    settings = dict(part.split("=") for part in window.group(1).split()) if window else {}
    for place in range(len(labels[0]) - 2):
        inputs, outputs = left[labels[0].index(str(place))], out[labels[2].index(str(place))]
        flops *= _meetings(inputs, outputs, settings, place)
    return flops


def _meetings(inputs: int, outputs: int, settings: dict[str, str], place: int) -> int:
    """How often, along one spatial dimension, an output place and a window place meet an input."""
    at = lambda name, default: settings[name].split("x")[place] if name in settings else default
    size, stride, dilate, rhs = (int(at(name, "1")) for name in ("size", "stride", "lhs_dilate", "rhs_dilate"))
    low = int(at("pad", "0_0").split("_")[0])
    index = np.arange(outputs)[:, None] * stride + np.arange(size)[None, :] * rhs - low
    return int(np.sum((index % dilate == 0) & (index >= 0) & (index // dilate < inputs)))
