"""The mesh: how many devices each axis has, and which devices they are.

All meshes have explicit axes: a wrong layout is an error while tracing.
"""

import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from pydantic import BaseModel, field_validator

from model.sharding import AXES


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
