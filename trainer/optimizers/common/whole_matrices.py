"""Whole matrices on single devices: how optimizers multiply, invert and rotate matrices that are sharded.

At rest a stack [N, D, F] is sharded along D and F. The devices exchange shards (all-to-all) so that each has
some layers completely, work on those, and exchange them back. Each way, a device sends and receives no more
than its own share, while all-gathering would send every matrix to every device.

    at rest, over fsdp=2                  while an optimizer works on them
    device 0: [N, D/2, F] of all layers   device 0: [N/2, D, F], layers 0 to N/2 - 1
    device 1: [N, D/2, F] of all layers   device 1: [N/2, D, F], layers N/2 to N - 1
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
    """`layers.wq_NDHA` -> (N, D, HA): rows are a product's inputs, columns its outputs.

    Heads and head width together are one side.
    """
    # "(.+)": the columns may be several letters, and a letter may have a digit, such as A2
    match = re.fullmatch("(N?E?)([HK]A|[A-Z])(.+)", letters_of(name))
    assert match, name  # only for names that are matrices
    return Matrix(*match.groups())


def on_whole_matrices(
    fn: Callable[..., dict[str, Array]],
    arrays: dict[str, Array],
    matrices: dict[str, Matrix],
    *scalars: Any,
    out: Sequence[str],
) -> dict[str, Array]:
    """Apply fn(name -> [matrices, rows, columns], *scalars), which returns those in `out`, to arrays at rest.

    Each device gets some of the matrices, the same ones of all arrays. Where their number does not divide
    over the devices it is padded with matrices of zeros, which fn must accept.
    """
    layouts = {
        name: spec("".join(matrices[name]), x.shape, at_rest=True) for name, x in arrays.items()
    }
    moves = {name: _moves(matrices[name], layout) for name, layout in layouts.items()}
    # every axis that shards any of the arrays, so that a device gets the same matrices of all
    axes = tuple(dict.fromkeys(axis for dims in moves.values() for axis in dims))

    def on_shards(shards: dict[str, Array], *scalars: Any) -> dict[str, Array]:
        sizes = {axis: jax.lax.axis_size(axis) for axis in axes}
        gathered = {}
        flat = {}
        for name, shard in shards.items():
            x = _gather(shard, len(matrices[name].stack), moves[name], sizes)
            gathered[name] = x
            # all letters of a side, such as heads and head width, become one dimension
            flat[name] = x.reshape(len(x), *_sides(matrices[name], x.shape[1:]))
        results = fn(flat, *scalars)
        return {
            name: _scatter(
                results[name].reshape(gathered[name].shape), shards[name].shape, moves[name], sizes
            )
            for name in out
        }

    if all(entry is None for layout in layouts.values() for entry in layout):
        return on_shards(arrays, *scalars)
    # check_vma=False: JAX cannot infer that after the exchange back replicas have equal values
    in_specs = (layouts, *(PartitionSpec() for _ in scalars))
    out_specs = {name: layouts[name] for name in out}
    return jax.shard_map(on_shards, in_specs=in_specs, out_specs=out_specs, check_vma=False)(
        arrays, *scalars
    )


def _moves(matrix: Matrix, layout: PartitionSpec) -> dict[str, int]:
    """Mesh axis -> the dimension of [matrices, *rows, *columns] that it divides."""
    first = len(matrix.stack)
    # + 1: `_gather` joins the stack's dimensions into one, at the front
    return {axis: i + 1 for i, axis in enumerate(layout[first:]) if axis is not None}


def _sides(matrix: Matrix, shape: tuple[int, ...]) -> tuple[int, int]:
    n = len(matrix.rows)
    return math.prod(shape[:n]), math.prod(shape[n:])


def _gather(shard: Array, n_stack: int, dims: dict[str, int], sizes: dict[str, int]) -> Array:
    """A device's shard of all matrices -> its own matrices, complete: [matrices, *rows, *columns]."""
    x = shard.reshape(math.prod(shard.shape[:n_stack]), *shard.shape[n_stack:])
    n_missing = -len(x) % math.prod(sizes.values())
    # padded with matrices of zeros, so that their number divides over the devices
    x = jnp.pad(x, [(0, n_missing), *[(0, 0)] * (x.ndim - 1)])
    for axis, size in sizes.items():
        if axis in dims:
            x = jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=dims[axis], tiled=True)
        else:  # replicated over this axis: each device takes its own matrices
            n_own = len(x) // size
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * n_own, n_own)
    return x


def _scatter(
    x: Array, shape: tuple[int, ...], dims: dict[str, int], sizes: dict[str, int]
) -> Array:
    """The inverse of `_gather`, to a shard of `shape`."""
    # in reverse: the last exchange is undone first
    for axis in reversed(sizes):
        if axis in dims:
            x = jax.lax.all_to_all(x, axis, split_axis=dims[axis], concat_axis=0, tiled=True)
        else:
            x = jax.lax.all_gather(x, axis, tiled=True)
    n_stack = len(shape) - x.ndim + 1
    n_matrices = math.prod(shape[:n_stack])
    return x[:n_matrices].reshape(shape)  # without the zeros that `_gather` added
