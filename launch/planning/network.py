"""Seconds that collectives take on the links of a target."""

import math
from typing import Any, NamedTuple

import numpy as np

from launch.planning.collectives import Transfer
from launch.planning.topology import Target
from model.mesh import slice_of


class Wiring(NamedTuple):
    """Where the chips of a mesh are: their coordinates `places[…, axis of the torus]` and the numbers of
    their `islands[…]`, where … are the axes of the mesh in their order.
    """

    target: Target
    axes: tuple[str, ...]
    places: np.ndarray
    islands: np.ndarray


class Seconds(NamedTuple):
    """Time inside of islands (ICI, NVLink) and between them (data-centre network), at full bandwidth."""

    inner: float
    outer: float


def wiring_of(mesh: Any, target: Target) -> Wiring:
    """The wiring of a mesh over a target's devices."""
    devices = mesh.devices
    # Coordinates have three numbers on every TPU; a v5e's torus has only two.
    coordinates = [device.coords[: len(target.shape)] for device in devices.flat]
    islands = [slice_of(device) for device in devices.flat]
    places = np.array(coordinates).reshape(*devices.shape, -1)
    return Wiring(target, tuple(mesh.axis_names), places, np.array(islands).reshape(devices.shape))


def wiring_of_gpus(sizes: dict[str, int], target: Target) -> Wiring:
    """The wiring of GPUs that are numbered in the order of the mesh."""
    numbers = np.arange(target.n_chips).reshape(tuple(sizes.values()))
    # GPUs with consecutive numbers are assumed to share a host, as schedulers number them.
    return Wiring(target, tuple(sizes), numbers[..., None], numbers // target.chip.island)


def transfer_seconds(wiring: Wiring, transfer: Transfer) -> Seconds:
    """The time of all calls of a transfer, one after another.

    Rings in both directions of every axis of the torus that the group spans (Chan et al. 2007); half of that
    bandwidth where the ring is not closed. Between islands each chip exchanges only its own shard, before or
    after the exchange inside.
    """
    # The group of the first chip stands for all: a mesh divides chips evenly.
    index = tuple(slice(None) if axis in transfer.axes else 0 for axis in wiring.axes)
    places = wiring.places[index].reshape(-1, wiring.places.shape[-1])
    islands = wiring.islands[index].reshape(-1)
    n_islands = len(np.unique(islands))

    n_inside = transfer.n_chips / n_islands
    chip = wiring.target.chip
    extents = _extents(places[islands == islands[0]])
    bandwidth = _bandwidth(wiring.target, extents)
    if transfer.kind in ("collective-permute", "collective-broadcast"):
        one_link = transfer.n_bytes / (
            chip.outer_bandwidth if n_islands > 1 else chip.link_bandwidth
        )
        return Seconds(0.0, one_link) if n_islands > 1 else Seconds(one_link, 0.0)

    # An all-reduce is a reduce-scatter and an all-gather.
    passes = 2 if transfer.kind == "all-reduce" else 1

    # On a torus the data of an all-to-all travels a quarter of the ring on average.
    hops = (
        max(max(extents, default=1) / 4, 1.0)
        if "all-to-all" in transfer.kind and chip.n_dims
        else 1.0
    )

    # In a ring of n chips each sends (n - 1) / n of the array.
    inner = (
        passes * hops * transfer.n_bytes * (n_inside - 1) / n_inside / bandwidth
        if n_inside > 1
        else 0.0
    )
    # Chips of an island share the work between islands, except in an all-to-all, in which every
    # byte has its own receiver.
    spread = 1 if "all-to-all" in transfer.kind else n_inside
    outer = passes * transfer.n_bytes / spread * (n_islands - 1) / n_islands / chip.outer_bandwidth

    return Seconds(inner, outer)


def _extents(places: np.ndarray) -> list[int]:
    """How many positions along each axis of the torus the chips occupy."""
    return [len(np.unique(column)) for column in places.T]


def _bandwidth(target: Target, extents: list[int]) -> float:
    """Bytes a second that a chip can receive from the others of its group."""
    if not target.chip.n_dims:
        return target.chip.link_bandwidth
    # A closed ring brings data from two neighbours; the ends of a line have one.
    links = sum(
        2 if ring and n == size else 1
        for n, ring, size in zip(extents, target.rings, target.shape, strict=True)
        if n > 1
    )
    # At least 1: a group of a single chip has no extent, and its bandwidth is not used.
    return max(links, 1) * target.chip.link_bandwidth


def describe(wiring: Wiring, axes: tuple[str, ...]) -> str:
    """The links along axes of the mesh, such as `ICI 4x4` or `DCN 2`."""
    index = tuple(slice(None) if axis in axes else 0 for axis in wiring.axes)
    places = wiring.places[index].reshape(-1, wiring.places.shape[-1])
    islands = wiring.islands[index].reshape(-1)
    extents = [n for n in _extents(places[islands == islands[0]]) if n > 1]
    inner, outer = ("ICI", "DCN") if wiring.target.chip.n_dims else ("NVLink", "network")
    links = []
    if math.prod(extents) > 1:
        links.append(f"{inner} {'x'.join(map(str, extents))}")
    n_islands = len(np.unique(islands))
    if n_islands > 1:
        links.append(f"{outer} {n_islands}")
    return " and ".join(links)
