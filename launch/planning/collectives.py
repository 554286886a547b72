"""Which chips talk in a collective, and along which axes of the mesh."""

import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from launch.planning.hlo import Instruction, Scope
from launch.planning.walk import Occurrence

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "collective-broadcast",
    "ragged-all-to-all",
)
# The form of Shardy (XLA's partitioner): mesh['a'=2,'b'=8] {'b'} are the groups along axis b.
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(([^)]*(?:\([^)]*\))?)\))?\s*\{([^}]*)\}"
)
# The form [4,2]<=[2,4]T(1,0), which spares large programs a list of all chips.
IOTA_GROUPS = re.compile(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
LISTED_GROUPS = re.compile(r"replica_groups=\{((?:\{[^}]*\},?\s*)*)\}")
# libtpu's name for the transport between slices is megascale.
BETWEEN_SLICES = re.compile(
    r'_xla_megascale_target="\{([\d,:]+)\}.*_xla_megascale_transfer_type="(\w+)"'
)
PAIRS = re.compile(r"source_target_pairs=\{((?:\{[^}]*\},?\s*)*)\}")


class Transfer(NamedTuple):
    """Collectives of one kind along the same axes: sums over a step, for one chip.

    `n_bytes` counts the larger array of a collective: the result of an all-gather, the operand of a
    reduction, a permute or an all-to-all. `wire_bytes` is what a chip sends: (n-1)/n of that for gather and
    scatter among n chips, twice as much for an all-reduce.
    """

    kind: str
    axes: tuple[str, ...]
    n_chips: int  # that talk with one another
    n_bytes: float
    wire_bytes: float
    n_calls: float


def transfers_of(occurrences: Iterable[Occurrence], mesh: Mapping[str, int]) -> list[Transfer]:
    """The collectives of a step, by kind and axes; `mesh` is axis → size, in the order of the devices'
    numbers.
    """
    sums: dict[tuple[str, tuple[str, ...], int], np.ndarray] = {}
    for each in _without_repeats(occurrences):
        kind = kind_of(each.instruction)
        groups = groups_of(each.instruction, math.prod(mesh.values()))
        # Groups of one collective may differ in size; the largest decides the time.
        n = max(map(len, groups))
        payload = payload_bytes(each, n)
        wire = payload * wire_factor(kind, n)
        key = (kind, axes_between(groups, mesh), n)
        sums[key] = sums.get(key, np.zeros(3)) + each.times * np.array([payload, wire, 1.0])
    # key[1]: without axes a group is a single chip, which exchanges nothing.
    return [Transfer(*key, *map(float, total)) for key, total in sorted(sums.items()) if key[1]]


def _without_repeats(occurrences: Iterable[Occurrence]) -> Iterable[Occurrence]:
    """Collectives, each once: on a TPU one that overlaps with products appears in several fusions (start,
    products, end) of one computation.
    """
    seen = set()
    for each in occurrences:
        if kind_of(each.instruction) is None:
            continue
        if each.fused and (channel := re.search(r"channel_id=(\d+)", each.instruction.rest)):
            key = (
                id(_unfused(each.scope)),
                each.instruction.op,
                channel[1],
                each.instruction.shapes,
            )
            if key in seen:
                continue
            seen.add(key)
        yield each


def kind_of(instruction: Instruction) -> str | None:
    """The collective that begins here, None for other instructions. Between slices a TPU program has a `send`
    to its runtime, whose attributes name the collective.
    """
    if instruction.op == "send":
        match = BETWEEN_SLICES.search(instruction.rest)
        return match[2].lower().replace("_", "-") if match else None
    # An asynchronous collective is counted at its start; its -done moves nothing more.
    kind = instruction.op.removesuffix("-start")
    return kind if kind in KINDS else None


def _unfused(scope: Scope) -> object:
    """The computation around the outermost fusion, as it is called this time."""
    while scope.caller is not None and scope.caller.op == "fusion":
        scope = scope.outer
    return scope


def payload_bytes(occurrence: Occurrence, n: int) -> int:
    """Bytes of the larger array; the result of an all-gather is n times its operand."""
    instructions = occurrence.scope.computation.instructions
    operands = [instructions[name] for name in occurrence.instruction.operands]
    # Not the result: an asynchronous start returns its operands too.
    operand_bytes = sum(shape.n_bytes for operand in operands for shape in operand.shapes)
    return operand_bytes * (n if occurrence.instruction.op.startswith("all-gather") else 1)


def wire_factor(kind: str, n: int) -> float:
    """Bytes that each of n chips sends for a byte of the larger array."""
    share = (n - 1) / n
    return {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(
        kind, share
    )


def groups_of(instruction: Instruction, n_chips: int) -> list[tuple[int, ...]]:
    """Groups of chips that exchange data, as partition numbers, in any of the forms that XLA prints."""
    if instruction.op == "send":
        n_slices = _n_numbers(BETWEEN_SLICES.search(instruction.rest)[1])
        # A chip exchanges with those that have the same number within the other slices.
        return [tuple(range(i, n_chips, n_chips // n_slices)) for i in range(n_chips // n_slices)]
    if match := MESH_GROUPS.search(instruction.rest):
        return _mesh_groups(*match.groups())
    if match := IOTA_GROUPS.search(instruction.rest):
        return [tuple(map(int, group)) for group in _iota(match[1])]
    listed = (PAIRS if "permute" in instruction.op else LISTED_GROUPS).search(instruction.rest)
    members = re.findall(r"\{([\d,\s]+)\}", listed[1]) if listed else []
    groups = [tuple(map(int, group.split(","))) for group in members]
    return groups or [tuple(range(n_chips))]  # no groups in the text: all chips are one


@functools.cache
def _mesh_groups(mesh: str, device_ids: str | None, axes: str) -> list[tuple[int, ...]]:
    """`mesh['a'=2,'b'=8] {'b'}`: groups along axis b; `'b':(2)4` is the sub-axis of b with size 4 that comes
    after one of size 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    ids = np.arange(math.prod(sizes.values())) if device_ids is None else _device_ids(device_ids)
    named = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    wanted = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in named}
    split, inside = [], []
    for name, size in sizes.items():
        before, sub_axis = wanted.get(name, (size, 1))
        inside.append(len(split) + 1)
        # Each axis becomes three: those before the sub-axis, the sub-axis, those after it.
        split += [before, sub_axis, size // (before * sub_axis)]
    outside = [i for i in range(len(split)) if i not in inside]
    groups = (
        ids.reshape(split)
        .transpose(*outside, *inside)
        .reshape(-1, math.prod(split[i] for i in inside))
    )
    return [tuple(map(int, group)) for group in groups]


def _n_numbers(text: str) -> int:
    """How many numbers a list such as `1,2` or a range such as `1:4` holds."""
    ends = [[int(end) for end in part.split(":")] for part in text.split(",")]
    return sum(end[-1] - end[0] + 1 for end in ends)


def _device_ids(text: str) -> np.ndarray:
    if "<=" in text or "T(" in text:
        return _iota(text).reshape(-1)
    return np.array([int(i) for i in text.split(",")])


def _iota(text: str) -> np.ndarray:
    """`[4,2]<=[2,4]T(1,0)`: numbers 0, 1, … shaped [2,4], transposed, reshaped to [4,2]."""
    shape, given, order = re.fullmatch(
        r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", text
    ).groups()
    sizes = [int(size) for size in (given or shape).split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    ids = ids.transpose([int(i) for i in order.split(",")]) if order else ids
    return ids.reshape([int(size) for size in shape.split(",")])


def axes_between(groups: list[tuple[int, ...]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of the mesh along which the members of a group differ."""
    several = [list(group) for group in groups if len(group) > 1] or [[0]]
    members = np.array(np.unravel_index(several, tuple(mesh.values())))  # [axis, group, member]
    # compared with the first member of the group
    differ = (members != members[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, yes in zip(mesh, differ, strict=True) if yes)
