"""The mesh: how many devices each axis has, which devices they are, and what the current mesh can do."""

import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType
from pydantic import BaseModel, field_validator

from model.sharding import ALPHABET, AXES, letters_of, named


class Mesh(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes of the mesh axes; one may be -1: all devices that the others leave."""

    data: int = 1
    stage: int = 1
    fsdp: int = -1
    context: int = 1
    expert: int = 1
    tensor: int = 1

    @field_validator(*AXES)
    @classmethod
    def _size(cls, size: int) -> int:
        if size < 1 and size != -1:
            raise ValueError("must be a positive number of devices, or -1 for all that are left")
        return size

    def make(self, devices: list[Any] | None = None) -> jax.sharding.Mesh:
        """The mesh over `devices` (default: all of the cluster).

        Raises:
            ValueError: the axis sizes do not multiply to the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        sizes = {axis: getattr(self, axis) for axis in AXES}
        open_axes = [
            axis for axis, size in sizes.items() if size == -1
        ]  # "the rest" can go to one alone
        fixed = math.prod(size for size in sizes.values() if size > 0)
        if len(open_axes) == 1 and len(devices) % fixed == 0:
            sizes[open_axes[0]] = len(devices) // fixed
        if len(open_axes) > 1 or math.prod(sizes.values()) != len(devices):
            shown = (
                ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "data=1"
            )
            remedy = "set the sizes so that their product is that number"
            raise ValueError(f"mesh ({shown}) does not divide {len(devices)} devices; {remedy}")
        return make_mesh(devices, **sizes)


def make_mesh(devices: list[Any] | None = None, **sizes: int) -> jax.sharding.Mesh:
    """A mesh with explicit axes; an axis that is not named has size 1 and is off. Axes follow the links
    between the devices.

    Slices (devices with links of their own, between which is the data-centre network) are the outer part of
    `data`.

    Raises:
        ValueError: the slices do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    # all six axes are always there, so that a layout can name any of them
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    # GPUs and CPUs have no slices
    n_slices = len({getattr(device, "slice_index", 0) for device in devices})
    # a torus of links may be split where a mesh axis is shorter than its side
    split = {"allow_split_physical_axes": True}
    if n_slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, **split)
    else:
        if shape[0] % n_slices:
            wanted = n_slices * max(shape[0] // n_slices, 1)
            rule = f"does not divide over {n_slices} slices, whose network is its outer part"
            raise ValueError(f"mesh data={shape[0]} {rule}; set mesh.data={wanted}")
        inside = (shape[0] // n_slices, *shape[1:])
        outside = (n_slices, *[1] * (len(shape) - 1))
        grid = mesh_utils.create_hybrid_device_mesh(inside, outside, devices, **split)
    # explicit: the layout is part of an array's type, and a wrong one an error while tracing
    # instead of a transfer that nobody asked for
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the current mesh, whose devices need not be attached; without a mesh, of
    this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def device_kind() -> str:
    """The name that the devices of the current mesh give themselves, such as `TPU v5`."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind


def on_host(x: jax.Array) -> bool:
    """Whether an array of a traced function is in the memory of the host."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def undivided() -> jax.sharding.use_abstract_mesh:
    """Trace shapes without layouts, so that no size has to divide: under automatic axes, no axis divides a
    letter. Without a mesh, as under one device that nobody has.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = AbstractMesh((1,) * len(AXES), AXES)
    # `axes_of` counts explicit axes alone
    automatic = dict.fromkeys(mesh.axis_names, AxisType.Auto)
    return jax.sharding.use_abstract_mesh(mesh.update_axis_types(automatic))


def check_sizes(shapes: dict[str, tuple[int, ...]], mesh: jax.sharding.Mesh) -> list[str]:
    """One sentence for each parameter whose size does not divide over the mesh; names are dotted and end in
    letters.
    """
    problems = []
    for name, shape in shapes.items():
        letters = letters_of(name)
        entries = named(mesh, letters, shape, at_rest=True).spec
        for letter, size, entry in zip(letters, shape, entries, strict=True):
            axes = (entry,) if isinstance(entry, str) else entry or ()
            n = math.prod(mesh.shape[axis] for axis in axes)
            if size % n:
                what = f"{letter}={size} ({ALPHABET[letter].meaning}) of {name}"
                problems.append(
                    f"mesh {entry}={n} does not divide {what}; change the mesh or the size"
                )
    return problems
