"""Whole matrices on single devices: how optimizers multiply, invert and rotate what lies divided over the
mesh.

A stack [N, D, F] rests with D and F divided. Its devices exchange parts so that each holds some layers
whole, work on those, and
exchange them back: a device sends and takes no more than its own share, each way. Gathering would send
every matrix to every device.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from model.sharding import letters_of, spec


class Matrix(NamedTuple):
    """The letters of a stack of matrices: those that count matrices, those of rows, those of columns."""

    stack: str
    rows: str
    columns: str


def matrix_of(name: str) -> Matrix:
    """`layers.wq_NDHA` -> (N, D, HA): what a product takes in, and what it gives. Heads with their widths
    are one side.
    """
    match = re.fullmatch("(N?E?)([HK]A|[A-Z])(.+)", letters_of(name))
    assert match, name  # only for names that are matrices
    return Matrix(*match.groups())


def on_whole_matrices(
    fn: Callable[..., dict[str, Any]],
    arrays: dict[str, Array],
    matrices: dict[str, Matrix],
    *scalars: Any,
    out: Sequence[str],
) -> dict[str, Array]:
    """fn(name -> [matrices, rows, columns], *scalars) on arrays at rest; it gives `out`, some of the names
    with other numbers.

    Each device has some of the matrices, the same ones of all arrays; where they do not divide over the
    devices, some get zeros.
    """
    layouts = {name: spec("".join(matrices[name]), x.shape, at_rest=True) for name, x in arrays.items()}
    moves = {name: _moves(matrices[name], layout) for name, layout in layouts.items()}
    axes = tuple(dict.fromkeys(axis for dims in moves.values() for axis in dims))

    def on_blocks(blocks: dict[str, Array], *scalars: Any) -> dict[str, Array]:
        sizes = {axis: jax.lax.axis_size(axis) for axis in axes}
        whole = {
            name: _gather(block, len(matrices[name].stack), moves[name], sizes)
            for name, block in blocks.items()
        }
        sides = {name: (len(whole[name]), *_sides(matrices[name], whole[name].shape[1:])) for name in blocks}
        found = fn({name: x.reshape(sides[name]) for name, x in whole.items()}, *scalars)
        return {
            name: _scatter(found[name].reshape(whole[name].shape), blocks[name].shape, moves[name], sizes)
            for name in out
        }

    if all(entry is None for layout in layouts.values() for entry in layout):
        return on_blocks(arrays, *scalars)
    in_specs = (layouts, *(PartitionSpec() for _ in scalars))
    out_specs = {name: layouts[name] for name in out}
    return jax.shard_map(on_blocks, in_specs=in_specs, out_specs=out_specs, check_vma=False)(arrays, *scalars)


def _moves(matrix: Matrix, layout: PartitionSpec) -> dict[str, int]:
    """Mesh axis -> the dimension of [matrices, *rows, *columns] that it divides."""
    first = len(matrix.stack)
    return {axis: i + 1 for i, axis in enumerate(layout[first:]) if axis is not None}


def _sides(matrix: Matrix, shape: tuple[int, ...]) -> tuple[int, int]:
    n = len(matrix.rows)
    return math.prod(shape[:n]), math.prod(shape[n:])


def _gather(block: Array, n_stack: int, dims: dict[str, int], sizes: dict[str, int]) -> Array:
    """A device's part of all matrices -> its matrices whole: [matrices, *rows, *columns]."""
    x = block.reshape(math.prod(block.shape[:n_stack]), *block.shape[n_stack:])
    missing = -len(x) % math.prod(sizes.values())
    x = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
    for axis, size in sizes.items():
        if axis in dims:
            x = jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=dims[axis], tiled=True)
        else:
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * (len(x) // size), len(x) // size)
    return x


def _scatter(x: Array, shape: tuple[int, ...], dims: dict[str, int], sizes: dict[str, int]) -> Array:
    """The inverse of `_gather`, to a block of this shape."""
    for axis in reversed(sizes):
        if axis in dims:
            x = jax.lax.all_to_all(x, axis, split_axis=dims[axis], concat_axis=0, tiled=True)
        else:
            x = jax.lax.all_gather(x, axis, tiled=True)
    return x[: math.prod(shape[: len(shape) - x.ndim + 1])].reshape(shape)
