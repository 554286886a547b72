"""The work of a compiled training step, read from its HLO text."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from launch.planning.collectives import transfers_of
from launch.planning.flops import kernel_flops, product_flops
from launch.planning.hlo import parse
from launch.planning.roofline import Work
from launch.planning.traffic import hbm_bytes, host_bytes
from launch.planning.walk import Occurrence, walk


class _Kernels(NamedTuple):
    flops: float
    unknown: tuple[str, ...]


def work_of(text: str, mesh: Mapping[str, int]) -> Work:
    """FLOPs, bytes and collectives of one chip in one step of optimized HLO `text`; `mesh` is axis → size
    in the order of the devices.
    """
    module = parse(text)
    occurrences = list(walk(module))
    kernels = _kernels(occurrences)
    endless = sorted({each.instruction.name for each in occurrences if each.endless})
    notes = [f"kernel {name}: its FLOPs are not known and count as 0" for name in kernels.unknown]
    notes += [f"loop {name}: its length is not in the text, and it counts once" for name in endless]

    return Work(
        matmul_flops=float(sum(product_flops(each) * each.times for each in occurrences)),
        kernel_flops=kernels.flops,
        hbm_bytes=float(sum(hbm_bytes(module, each) * each.times for each in occurrences)),
        transfers=tuple(transfers_of(occurrences, mesh)),
        host_bytes=float(sum(host_bytes(each) * each.times for each in occurrences)),
        notes=tuple(notes),
    )


def _kernels(occurrences: Iterable[Occurrence]) -> _Kernels:
    flops, unknown = 0.0, set()
    for each in occurrences:
        known_flops = kernel_flops(each)
        if known_flops is None:
            # XLA numbers the calls of a kernel (name.1, name.2 …); one note is enough for all.
            unknown.add(each.instruction.name.split(".")[0])
        flops += (known_flops or 0) * each.times
    return _Kernels(flops, tuple(sorted(unknown)))
