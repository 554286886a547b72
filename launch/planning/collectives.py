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
# Shardy's own form, in which groups are named by axes of a mesh.
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(([^)]*(?:\([^)]*\))?)\))?\s*\{([^}]*)\}"
)
# The form [4,2]<=[2,4]T(1,0), by which large programs avoid listing every chip.
IOTA_GROUPS = re.compile(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
LISTED_GROUPS = re.compile(r"replica_groups=\{((?:\{[^}]*\},?\s*)*)\}")
# libtpu's name for the transport between slices is megascale.
BETWEEN_SLICES = re.compile(
    r'_xla_megascale_target="\{([\d,:]+)\}.*_xla_megascale_transfer_type="(\w+)"'
)
PAIRS = re.compile(r"source_target_pairs=\{((?:\{[^}]*\},?\s*)*)\}")


class Transfer(NamedTuple):
    """Collectives of one kind along the same axes: sums over a step, of one chip.

    `n_bytes` counts the whole array that a collective is about: what an all-gather gives, what the
    reductions, a permute and an all-to-all take. `wire_bytes` is what a chip sends of it: (n-1)/n for
    gather and scatter among n chips, twice that for an all-reduce.
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
        # whole arrays, which are easier to compare with a model's sizes than shards
        payload = payload_bytes(each, n)
        wire = payload * wire_factor(kind, n)
        key = (kind, axes_between(groups, mesh), n)
        sums[key] = sums.get(key, np.zeros(3)) + each.times * np.array([payload, wire, 1.0])
    # Without axes nothing is exchanged: a group of a single chip.
    return [Transfer(*key, *map(float, total)) for key, total in sorted(sums.items()) if key[1]]


def _without_repeats(occurrences: Iterable[Occurrence]) -> Iterable[Occurrence]:
    """Collectives, each once: on a TPU one that runs beside products stands in several fusions (begin,
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
    """Which collective begins here, None for other instructions. Between slices a TPU program sends to its
    runtime, and the instruction's attributes say for which collective.
    """
    if instruction.op == "send":
        found = BETWEEN_SLICES.search(instruction.rest)
        return found[2].lower().replace("_", "-") if found else None
    # An asynchronous collective is counted at its start; its -done moves nothing more.
    kind = instruction.op.removesuffix("-start")
    return kind if kind in KINDS else None


def _unfused(scope: Scope) -> object:
    """The computation that the outermost fusion stands in, as it is called this time."""
    while scope.caller is not None and scope.caller.op == "fusion":
        scope = scope.outer
    return scope


def payload_bytes(occurrence: Occurrence, n: int) -> int:
    """The whole array's bytes; an all-gather gives n times what it takes."""
    known = occurrence.scope.computation.instructions
    # Operands and not the result: a tuple's result may repeat them.
    taken = sum(
        shape.n_bytes for name in occurrence.instruction.operands for shape in known[name].shapes
    )
    return taken * (n if occurrence.instruction.op.startswith("all-gather") else 1)


def wire_factor(kind: str, n: int) -> float:
    """Bytes that a chip sends, of each byte of the whole array, among n chips."""
    share = (n - 1) / n
    return {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(
        kind, share
    )


def groups_of(instruction: Instruction, n_chips: int) -> list[tuple[int, ...]]:
    """Who talks with whom, as numbers of partitions, whichever way the text says it."""
    if instruction.op == "send":
        n_slices = _n_numbers(BETWEEN_SLICES.search(instruction.rest)[1])
        # Chips of different slices at the same place in their slice talk with each other.
        return [tuple(range(i, n_chips, n_chips // n_slices)) for i in range(n_chips // n_slices)]
    if found := MESH_GROUPS.search(instruction.rest):
        return _mesh_groups(*found.groups())
    if found := IOTA_GROUPS.search(instruction.rest):
        return [tuple(map(int, group)) for group in _iota(found[1])]
    listed = (PAIRS if "permute" in instruction.op else LISTED_GROUPS).search(instruction.rest)
    members = re.findall(r"\{([\d,\s]+)\}", listed[1]) if listed else []
    groups = [tuple(map(int, group.split(","))) for group in members]
    return groups or [tuple(range(n_chips))]  # no groups in the text: all with all


@functools.cache
def _mesh_groups(mesh: str, device_ids: str | None, axes: str) -> list[tuple[int, ...]]:
    """`mesh['a'=2,'b'=8] {'b'}`: groups along axis b; `'b':(2)4` is the part of size 4 of b behind a part
    of size 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    ids = np.arange(math.prod(sizes.values())) if device_ids is None else _device_ids(device_ids)
    named = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    wanted = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in named}
    split, inside = [], []
    for name, size in sizes.items():
        before, part = wanted.get(name, (size, 1))
        inside.append(len(split) + 1)
        # Each axis is split into what lies before the part, the part, and what lies behind it.
        split += [before, part, size // (before * part)]
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
    # Compared with the group's first member.
    differ = (members != members[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, yes in zip(mesh, differ, strict=True) if yes)
