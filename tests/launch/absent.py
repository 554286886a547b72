"""Chips that are not here, for the tests of the planning: their devices, meshes and programs."""

import os
from functools import cache
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from launch.planning.environment import SETTINGS
from launch.planning.topology import load_devices, target_of
from model.mesh import make_mesh
from model.sharding import AXES

os.environ.update(SETTINGS)  # before libtpu is loaded; jax has been told to use the CPU by conftest


@cache
def absent_mesh(topology: str, n_slices: int = 1, **sizes: int) -> Any:
    """A mesh over a TPU topology."""
    target = target_of(topology, n_slices)
    return make_mesh(load_devices(target), **sizes)


def mesh_here(**sizes: int) -> Any:
    """A mesh over the 8 CPU devices."""
    axis_types = (jax.sharding.AxisType.Explicit,) * len(AXES)
    return jax.make_mesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES, axis_types=axis_types)


def shape_on(
    mesh: Any, shape: tuple[int, ...], *layout: Any, dtype: Any = "float32"
) -> jax.ShapeDtypeStruct:
    """An array that is only a shape and a layout."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*layout)))


def text_of(function: Any, mesh: Any, *shapes: jax.ShapeDtypeStruct) -> str:
    """The optimized program."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*shapes).compile().as_text()
