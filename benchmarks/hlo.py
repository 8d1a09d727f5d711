"""What an optimized HLO module moves and launches: HBM traffic, kernels, cycles, collectives.

`Program(text)` walks a compiled module. A fusion reads its operands and writes its result, as far as
they lie in HBM (memory space 0); what stays inside it costs nothing. The body of a loop counts as
often as the loop runs; of the branches of a conditional the dearest counts, the one that moves most.
`cycles` adds up the estimates of the TPU compiler's static schedule.
"""

import collections
import copy
import math
import re
from typing import Any, NamedTuple

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s4": 0.5, "u4": 0.5, "token": 0,
}  # fmt: skip
_LEAF = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier",
    "copy-done", "all-gather-done", "all-reduce-done", "collective-permute-done", "async-done",
    "async-update", "slice-done", "dynamic-slice-done", "partition-id", "replica-id",
    "add-dependency", "send-done", "recv-done",
}  # fmt: skip
_COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    type: str
    op: str
    operands: list[str]
    attributes: str
    is_root: bool

    def called(self, key: str) -> str | None:
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None


Computation = dict[str, Instruction]


def _leaves(kind: str) -> list[tuple[float, int]]:
    """The size in bytes and the memory space of each array of a type."""
    found = []
    for dtype, dims, layout in _LEAF.findall(kind):
        if dtype in _BYTES:
            count = math.prod(int(d.strip("<=")) for d in dims.split(",") if d)
            space = re.search(r"S\((\d+)\)", layout or "")
            found.append((count * _BYTES[dtype], int(space.group(1)) if space else 0))
    return found


def _in_hbm(kind: str) -> float:
    return sum(size for size, space in _leaves(kind) if space == 0)


def _size(kind: str) -> float:
    return sum(size for size, _ in _leaves(kind))


def _split_type(text: str) -> tuple[str, str]:
    """A type, which may be a tuple, and what follows it."""
    depth = 0
    for i, letter in enumerate(text):
        depth += letter in "{[("
        depth -= letter in "}])"
        if letter == " " and depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def _instruction(line: str) -> Instruction | None:
    is_root = line.startswith("ROOT ")
    found = re.match(r"%?([\w.\-]+) = (.*)$", line.removeprefix("ROOT "))
    if not found:
        return None
    kind, rest = _split_type(found.group(2))
    op = re.match(r"([\w\-]+)\(", rest)
    if not op:
        return None
    depth, end = 0, len(rest)
    for i in range(len(op.group(1)), len(rest)):
        depth += (rest[i] == "(") - (rest[i] == ")")
        if depth == 0:
            end = i
            break
    inside, attributes = rest[len(op.group(1)) + 1 : end], rest[end + 1 :]
    plain = op.group(1) in ("parameter", "constant")
    operands = [inside.strip()] if plain else re.findall(r"%([\w.\-]+)", inside)
    return Instruction(found.group(1), kind, op.group(1), operands, attributes, is_root)


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = computations[head.group(2)] = {}
                entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif found := _instruction(line.strip()):
            current[found.name] = found
    return computations, entry


class Program:
    """The totals of a module; see the head of the file.

    Attributes:
        bytes: HBM traffic.
        kernels: How many kernels run.
        cycles: Estimated cycles, on TPU.
        collectives: How often each collective runs.
        collective_bytes: How much each of them moves.
        unknown_loops: Loops of unknown trip count, which count once.
    """

    def __init__(self, text: str):
        """Walks the entry computation."""
        self._computations, entry = _parse(text)
        self._reset()
        self._walk(entry, 1)

    def _reset(self) -> None:
        self.bytes, self.kernels, self.cycles, self.unknown_loops = 0.0, 0, 0, 0
        self.collectives: collections.Counter[str] = collections.Counter()
        self.collective_bytes: collections.Counter[str] = collections.Counter()

    def _walk(self, name: str, times: int) -> None:
        body = self._computations[name]
        for i in body.values():
            if i.op in _FREE or 'custom_call_target="AllocateBuffer"' in i.attributes:
                continue
            if i.op == "while":
                trips = self._trip_count(i)
                self.unknown_loops += trips is None
                self._walk(i.called("body") or "", times * (trips or 1))
            elif i.op in ("call", "async-start"):
                for key in ("to_apply", "calls", "called_computation"):
                    if target := i.called(key):
                        self._walk(target, times)
                        break
            elif i.op == "conditional":
                self._add(max(self._branches(i, times), key=lambda each: (each.bytes, each.cycles)))
            elif i.op.replace("-start", "") in _COLLECTIVES:
                self._add_collective(i, times)
            else:
                self._add_kernel(i, body, times)

    def _branches(self, i: Instruction, times: int) -> list["Program"]:
        """The totals of each branch of a conditional."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", i.attributes)
        names = re.findall(r"[\w.\-]+", listed.group(1)) if listed else []
        keys = ("true_computation", "false_computation")
        found = []
        for name in names or filter(None, map(i.called, keys)):
            branch = copy.copy(self)
            branch._reset()
            branch._walk(name, times)
            found.append(branch)
        return found

    def _add(self, other: "Program") -> None:
        for total in ("bytes", "kernels", "cycles", "unknown_loops"):
            setattr(self, total, getattr(self, total) + getattr(other, total))
        self.collectives += other.collectives
        self.collective_bytes += other.collective_bytes

    def _add_collective(self, i: Instruction, times: int) -> None:
        base = i.op.replace("-start", "")
        sizes = [size for size, _ in _leaves(i.type)]
        moved = max(sizes, default=0) if i.op.endswith("-start") else sum(sizes)
        self.collectives[base] += times
        self.collective_bytes[base] += int(times * moved)

    def _add_kernel(self, i: Instruction, body: Computation, times: int) -> None:
        cycles = re.search(r'"estimated_cycles":"(\d+)"', i.attributes)
        self.kernels += times
        self.cycles += times * (int(cycles.group(1)) if cycles else 0)
        self.bytes += times * self._traffic(i, body)

    def _traffic(self, i: Instruction, body: Computation) -> float:
        types = {o: body[o].type for o in dict.fromkeys(i.operands) if o in body}
        if i.op in ("copy-start", "slice-start", "dynamic-slice-start"):
            # Of a copy the result comes first; of a slice, after the operands.
            first = 0 if i.op == "copy-start" else sum(len(_leaves(t)) for t in types.values())
            size, space = _leaves(i.type)[first]
            return size * (space == 0) + size * bool(_in_hbm(types[i.operands[0]]))
        if i.op in ("dynamic-slice", "slice", "gather"):
            return _in_hbm(i.type) + _size(i.type) * bool(_in_hbm(types[i.operands[0]]))
        if i.op == "dynamic-update-slice":
            update = body[i.operands[1]].type
            return _in_hbm(update) + _size(update) * bool(_in_hbm(i.type))
        if i.op == "fusion":
            called = i.called("calls") or ""
            self._add_collectives_inside(called)
            read = sum(
                min(self._read(called, i.operands.index(o), _in_hbm(t)), _in_hbm(t))
                for o, t in types.items()
                if _in_hbm(t)
            )
            return read + self._written(called, i.type)
        return _in_hbm(i.type) + sum(map(_in_hbm, types.values()))

    def _add_collectives_inside(self, name: str) -> None:
        for i in self._computations[name].values():
            if i.op.replace("-start", "") in _COLLECTIVES:
                self._add_collective(i, 1)

    def _read(self, name: str, index: int, size: float) -> float:
        """What a fusion reads of an operand: a slice of it, if it only slices."""
        body = self._computations[name]
        parameter = next(
            (i for i in body.values() if i.op == "parameter" and i.operands[0] == str(index)), None
        )
        if parameter is None:
            return size
        total, todo, seen = 0.0, [parameter.name], set()
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            for user in (i for i in body.values() if current in i.operands):
                if user.op in ("slice", "dynamic-slice", "gather") and user.operands[0] == current:
                    total += _size(user.type)
                elif user.op == "dynamic-update-slice" and user.operands[0] == current:
                    continue  # updated in place
                elif user.op == "bitcast":
                    todo.append(user.name)
                elif user.op == "fusion":
                    inner = self._read(
                        user.called("calls") or "", user.operands.index(current), size
                    )
                    total += inner
                    if not inner:
                        todo.append(user.name)
                else:
                    return size
        return min(total, size)

    def _written(self, name: str, kind: str) -> float:
        """What a fusion writes; of an update in place, the update alone."""
        body = self._computations[name]
        root = next((i for i in body.values() if i.is_root), None)

        def of(i: Instruction, outer: str) -> float:
            if i.op == "bitcast":
                return of(body[i.operands[0]], outer)
            if i.op == "dynamic-update-slice":
                return _size(body[i.operands[1]].type) * bool(_in_hbm(outer))
            if i.op == "fusion":
                return self._written(i.called("calls") or "", outer)
            return _in_hbm(outer)

        if root is None:
            return _in_hbm(kind)
        if root.op != "tuple":
            return of(root, kind)
        kinds = [m.group(0) for m in _LEAF.finditer(kind) if m.group(1) in _BYTES]
        if len(kinds) != len(root.operands):
            return _in_hbm(kind)
        return sum(of(body[o], k) for o, k in zip(root.operands, kinds, strict=True))

    def _trip_count(self, loop: Instruction) -> int | None:
        known = re.search(r'known_trip_count"?:\s*\{\s*"n":\s*"(\d+)"', loop.attributes)
        known = known or re.search(r"trip_count=(\d+)", loop.attributes)
        if known:
            return int(known.group(1))
        body: dict[str, Any] = dict(self._computations[loop.called("condition") or ""])
        root = next(i for i in body.values() if i.is_root)
        if root.op == "fusion":
            body |= self._computations[root.called("calls") or ""]
        constants = [i for i in body.values() if i.op == "constant" and i.type.startswith("s32[]")]
        is_number = len(constants) == 1 and constants[0].operands[0].isdigit()
        return int(constants[0].operands[0]) if is_number else None
