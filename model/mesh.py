"""The mesh: how many devices each axis has, which devices they are, and what the current mesh can do."""

import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType
from pydantic import BaseModel, field_validator

from model.sharding import ALPHABET, AXES, letters_of, spec


class Mesh(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes of the mesh axes; one may be -1, which takes all devices that the others leave."""

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

    def sizes(self) -> dict[str, int]:
        """The size of each axis, -1 where it takes all that are left."""
        # a pydantic model iterates over its fields
        return dict(self)

    def make(self, devices: list[Any] | None = None) -> jax.sharding.Mesh:
        """The mesh over `devices` (default: all of the run).

        Raises:
            ValueError: the product of the axis sizes is not the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        return make_mesh(devices, **self.sizes_on(len(devices)))

    def sizes_on(self, n_devices: int) -> dict[str, int]:
        """The size of each axis on so many devices, which need not be here.

        Raises:
            ValueError: the product of the axis sizes is not that number.
        """
        sizes = self.sizes()
        # "all the rest" is defined for one axis alone
        open_axes = [axis for axis, size in sizes.items() if size == -1]
        fixed = math.prod(size for size in sizes.values() if size > 0)
        if len(open_axes) == 1 and n_devices % fixed == 0:
            sizes[open_axes[0]] = n_devices // fixed
        if len(open_axes) > 1 or math.prod(sizes.values()) != n_devices:
            shown = (
                ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "data=1"
            )
            remedy = "set the sizes so that their product is that number"
            raise ValueError(f"mesh ({shown}) does not divide {n_devices} devices; {remedy}")
        return sizes


def make_mesh(devices: list[Any] | None = None, **sizes: int) -> jax.sharding.Mesh:
    """A mesh with explicit axes; axes that are not named have size 1. Devices are ordered so that mesh axes
    run along the links between them.

    TPU slices, which are connected to each other only by the data-centre network, are the outer part of
    `data`.

    Raises:
        ValueError: the slices do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    # every mesh has all six axes, so that a layout can name any of them
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    n_slices = len(set(map(slice_of, devices)))
    # a physical axis of the torus may be split into several mesh axes
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
    # Explicit axes make the layout part of an array's type: a wrong layout is an error while tracing instead
    # of a silent transfer.
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def slice_of(device: Any) -> int:
    """The number of the slice that a device belongs to."""
    # jax's: GPUs and CPUs have no such attribute, and devices of a single slice may have None
    return getattr(device, "slice_index", None) or 0


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: the platform of the current mesh, whose devices need not be attached; without a
    mesh, that of this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def device_kind() -> str:
    """`device_kind` of the current mesh's devices, such as `TPU v5`; without a mesh, of this process's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind


def on_host(x: jax.Array) -> bool:
    """Whether an array of a traced function is in host memory."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def undivided() -> jax.sharding.use_abstract_mesh:
    """A context in which shapes are traced without layouts, so that sizes need not divide over the mesh. It
    makes all axes automatic; without a mesh it sets an abstract one of a single device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = AbstractMesh((1,) * len(AXES), AXES)
    # `axes_of` gives a letter explicit axes only, so here no letter is sharded
    automatic = dict.fromkeys(mesh.axis_names, AxisType.Auto)
    return jax.sharding.use_abstract_mesh(mesh.update_axis_types(automatic))


def check_sizes(
    shapes: dict[str, tuple[int, ...]], mesh: jax.sharding.Mesh | AbstractMesh
) -> list[str]:
    """A sentence for each size that does not divide over the mesh; `shapes` are by dotted parameter name."""
    problems = []
    for name, shape in shapes.items():
        letters = letters_of(name)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            entries = spec(letters, shape, at_rest=True)
        for letter, size, entry in zip(letters, shape, entries, strict=True):
            axes = (entry,) if isinstance(entry, str) else entry or ()
            n = math.prod(mesh.shape[axis] for axis in axes)
            if size % n:
                what = f"{letter}={size} ({ALPHABET[letter].meaning}) of {name}"
                problems.append(
                    f"mesh {entry}={n} does not divide {what}; change the mesh or the size"
                )
    return problems
