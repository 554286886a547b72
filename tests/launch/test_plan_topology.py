"""Names of hardware, meshes over it, and what its links take: said before anything is compiled."""

import numpy as np
import pytest

from launch.planning.collectives import Transfer, wire_factor
from launch.planning.network import describe, transfer_seconds, wiring_of, wiring_of_gpus
from launch.planning.topology import axis_sizes, load_devices, target_of
from model.mesh import Mesh
from model.sharding import AXES
from tests.launch.absent import absent_mesh


@pytest.mark.parametrize(
    ("name", "n_slices", "words"),
    [
        ("v9:2x2", 1, "no such chip; nearest: v4"),
        ("tpu", 1, "no such chip; nearest: a100"),
        ("v5p", 1, "shape of a slice must be given, not its size; write e.g. v5p:2x2x4"),
        ("v5p-128", 1, "not its size in cores, 2 a chip; write e.g. v5p:2x2x4"),
        ("v5p:4x4", 1, "a v5p has 2 sizes here and needs 3; write e.g. v5p:2x2x4"),
        ("v5e:4x4x4", 1, "a v5e has 3 sizes here and needs 2; write e.g. v5e:4x4"),
        ("v5p:3x3x3", 1, "must be even, since a host has 2x2 chips; round them"),
        ("v5e:32x32", 1, "1024 chips are more than the 256 of a v5e pod; use --slices"),
        ("v5e:0x4", 1, "a size is 0; raise it"),
        ("v5e:4x4", 0, "--slices 0: must be at least 1; raise it"),
        ("h100:8", 2, "GPUs have no slices; give their whole number, h100:16"),
    ],
)
def test_hardware_that_is_not_is_refused_with_the_remedy(name, n_slices, words):
    with pytest.raises(ValueError) as error:
        target_of(name, n_slices)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "n"),
    [("v4:2x2x4", 16), ("v5e:4x8", 32), ("v5p:4x4x4", 64), ("trillium:2x2", 4), ("v6e:1x1", 1)],
)
def test_a_slice_has_one_device_a_chip(name, n):
    target = target_of(name)
    assert target.n_chips == n
    assert len(load_devices(target)) == n


@pytest.mark.parametrize(
    ("mesh", "n_slices", "words"),
    [
        (Mesh(fsdp=3), 1, "mesh (fsdp=3) does not divide the 16 chips of v5p:2x2x4"),
        (Mesh(tensor=3), 1, "mesh (fsdp=-1, tensor=3) does not divide the 16 chips"),
        (Mesh(data=-1), 1, "mesh (data=-1, fsdp=-1) does not divide"),
        (
            Mesh(),
            2,
            "mesh data=1 does not divide over --slices 2, whose network is the outer part of data; set mesh.data=2",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused_with_the_remedy(mesh, n_slices, words):
    with pytest.raises(ValueError) as error:
        axis_sizes(mesh, target_of("v5p:2x2x4", n_slices))
    assert words in str(error.value)


def test_an_open_axis_takes_all_chips_that_are_left():
    assert axis_sizes(Mesh(data=2, tensor=4), target_of("v5p:4x4x4", 2)) == {
        **dict.fromkeys(AXES, 1),
        "data": 2,
        "fsdp": 16,
        "tensor": 4,
    }


def test_slices_are_the_outer_part_of_data():
    mesh = absent_mesh("v5p:2x2x1", 2, data=4, fsdp=2)
    slices = np.array([device.slice_index for device in mesh.devices.flat]).reshape(4, 2)
    assert slices.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    wiring = wiring_of(mesh, target_of("v5p:2x2x1", 2))
    assert (describe(wiring, ("data",)), describe(wiring, ("fsdp",))) == (
        "ICI 2 and DCN 2",
        "ICI 2",
    )


def test_a_mesh_may_split_an_axis_of_the_torus():
    assert absent_mesh("v5p:4x4x4", fsdp=32, tensor=2).devices.size == 64


def of(kind, axes, n, n_bytes=1e9):
    """One call of a collective."""
    return Transfer(kind, axes, n, n_bytes, n_bytes * wire_factor(kind, n), 1.0)


def wired(topology, n_slices=1, **sizes):
    """The wiring of a mesh over a topology."""
    return wiring_of(absent_mesh(topology, n_slices, **sizes), target_of(topology, n_slices))


def test_an_all_reduce_takes_as_long_as_its_scatter_and_gather():
    wiring = wired("v5p:4x4x4", fsdp=16, tensor=4)
    parts = [
        transfer_seconds(wiring, of(kind, ("fsdp",), 16)).inner
        for kind in ("reduce-scatter", "all-gather")
    ]
    assert transfer_seconds(wiring, of("all-reduce", ("fsdp",), 16)).inner == pytest.approx(
        sum(parts)
    )


def test_twice_the_bytes_take_twice_as_long():
    wiring = wired("v5e:4x4", fsdp=16)
    once, twice = (
        transfer_seconds(wiring, of("all-gather", ("fsdp",), 16, n)).inner for n in (1e9, 2e9)
    )
    assert twice == pytest.approx(2 * once)


def test_a_closed_ring_is_twice_a_line():
    ring = transfer_seconds(
        wired("v5e:16x16", fsdp=16, tensor=16), of("all-gather", ("tensor",), 16)
    ).inner
    line = transfer_seconds(
        wired("v5e:2x8", fsdp=2, tensor=8), of("all-gather", ("tensor",), 8)
    ).inner
    assert line / (7 / 8) == pytest.approx(2 * ring / (15 / 16))


def test_more_axes_of_the_torus_take_less_time():
    wiring = wired("v5p:4x4x4", fsdp=16, tensor=4)
    over_two = transfer_seconds(wiring, of("all-gather", ("fsdp",), 16)).inner / (15 / 16)
    over_one = transfer_seconds(wiring, of("all-gather", ("tensor",), 4)).inner / (3 / 4)
    assert over_one == pytest.approx(2 * over_two)


def test_between_slices_only_a_chips_own_part_travels_but_slower():
    wiring = wired("v5p:2x2x1", 2, data=2, fsdp=4)
    alone = transfer_seconds(wiring, of("all-reduce", ("data",), 2))
    whole = transfer_seconds(wiring, of("all-reduce", ("data", "fsdp"), 8))
    assert alone.inner == 0 and whole.inner > 0
    assert whole.outer == pytest.approx(alone.outer / 4)
    assert alone.outer > transfer_seconds(wiring, of("all-reduce", ("fsdp",), 4)).inner


def test_gpus_are_islands_of_eight():
    wiring = wiring_of_gpus({**dict.fromkeys(AXES, 1), "data": 2, "fsdp": 8}, target_of("h100:16"))
    assert (describe(wiring, ("fsdp",)), describe(wiring, ("data",))) == ("NVLink 8", "network 2")
    inside, between = (
        transfer_seconds(wiring, of("all-gather", (axis,), n))
        for axis, n in (("fsdp", 8), ("data", 2))
    )
    assert inside.outer == 0 and between.inner == 0 and between.outer > inside.inner
