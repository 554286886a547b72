"""Grouped matrix products: rows are sorted by group, and each group has its own matrix."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.mesh import platform

# Rows of a tile. Smaller tiles waste less at the ends of groups, but their products are too small to be fast.
TILE_ROWS = 128


def grouped_matmul(
    x_CD: Float[Array, "C D"],
    w_EDF: Float[Array, "E D F"],
    sizes_E: Int[Array, "E"],
) -> Float[Array, "C F"]:
    """The first sizes_E[0] rows times w_EDF[0], the next sizes_E[1] rows times w_EDF[1], …; rows after the
    last group are undefined.

    For TPUs the compiler has a kernel of its own for `ragged_dot` (libtpu 0.0.52: a Mosaic call a product
    and gradient, which visits only tiles that hold rows of a group). Elsewhere XLA multiplies all rows with
    all matrices, so there the tiles are visited by a loop.
    """
    matmul = jax.lax.ragged_dot if platform() == "tpu" else tiled_matmul
    return matmul(x_CD, w_EDF, sizes_E)


@jax.custom_vjp
def tiled_matmul(
    x_CD: Float[Array, "C D"],
    w_EDF: Float[Array, "E D F"],
    sizes_E: Int[Array, "E"],
) -> Float[Array, "C F"]:
    """`grouped_matmul` in plain JAX; rows after the last group are zero."""
    return _multiply(x_CD, w_EDF, sizes_E, 0)


def _multiply(x_CD: Array, w_EDF: Array, sizes_E: Array, contracted: int) -> Array:
    """Rows times the matrices of their groups, over dimension `contracted` of each matrix."""
    # the same loop multiplies by the matrices, and in the backward pass by their transposes
    C = len(x_CD)
    n_out = w_EDF.shape[2 - contracted]
    x_padded = _padded(x_CD)

    def visit(y_CF: Array, group: Array, first: Array, mask_C1: Array) -> Array:
        # rows of other groups give 0, and a tile that two groups share is the sum of its two visits
        x = jnp.where(mask_C1, _tile(x_padded, first), 0)
        y = jax.lax.dot_general(x, w_EDF[group], (((1,), (contracted,)), ((), ())))
        return jax.lax.dynamic_update_slice(y_CF, _tile(y_CF, first) + y, (first, 0))

    return _visits(visit, jnp.zeros((len(x_padded), n_out), x_CD.dtype), sizes_E)[:C]


def _forward(
    x_CD: Array,
    w_EDF: Array,
    sizes_E: Array,
) -> tuple[Array, tuple[Array, Array, Array]]:
    return tiled_matmul(x_CD, w_EDF, sizes_E), (x_CD, w_EDF, sizes_E)


def _backward(
    saved: tuple[Array, Array, Array],
    d_y_CF: Array,
) -> tuple[Array, Array, None]:
    x_CD, w_EDF, sizes_E = saved
    x_padded = _padded(x_CD)
    d_y_padded = _padded(d_y_CF)

    def visit(d_w_EDF: Array, group: Array, first: Array, mask_C1: Array) -> Array:
        x = jnp.where(mask_C1, _tile(x_padded, first), 0)
        # masked on both sides: rows after the last group are undefined, and 0 · NaN is NaN
        d_y = jnp.where(mask_C1, _tile(d_y_padded, first), 0)
        # contracted over rows: the gradient of a matrix sums over the rows that were multiplied by it
        d_w = jax.lax.dot_general(
            x, d_y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        return d_w_EDF.at[group].add(d_w)

    # float32, since a group's gradient is a sum over many tiles
    d_w_EDF = _visits(visit, jnp.zeros(w_EDF.shape, jnp.float32), sizes_E)
    return _multiply(d_y_CF, w_EDF, sizes_E, 1), d_w_EDF.astype(w_EDF.dtype), None


tiled_matmul.defvjp(_forward, _backward)


def _visits(
    visit: Callable[[Array, Array, Array, Array], Array],
    start: Array,
    sizes_E: Array,
) -> Array:
    """`visit(result, group, first row of the tile, which rows of it are the group's)` for every tile of
    every group.

    Groups begin anywhere, tiles at multiples of TILE_ROWS: a tile that holds rows of two groups is visited
    twice, each time with the other's rows masked. An empty group has no tile.
    """
    # Sizes are known only at run time: the loop counts tiles, and these sums tell each tile's group.
    ends_E = jnp.cumsum(sizes_E)
    starts_E = ends_E - sizes_E
    first_tile_E = starts_E // TILE_ROWS
    n_tiles_E = jnp.where(sizes_E > 0, (ends_E - 1) // TILE_ROWS - first_tile_E + 1, 0)
    tiles_until_E = jnp.cumsum(n_tiles_E)

    def one(i: Array, result: Array) -> Array:
        group = jnp.sum(tiles_until_E <= i)  # the number of groups whose tiles are all done
        tile_of_group = i - (tiles_until_E - n_tiles_E)[group]
        first = (first_tile_E[group] + tile_of_group) * TILE_ROWS
        rows_C1 = first + jnp.arange(TILE_ROWS)[:, None]
        is_of_group_C1 = (rows_C1 >= starts_E[group]) & (rows_C1 < ends_E[group])
        return visit(result, group, first, is_of_group_C1)

    # with a traced bound this is a while loop, which JAX cannot differentiate: hence `_backward`
    return jax.lax.fori_loop(0, tiles_until_E[-1], one, start)


def _padded(x_CD: Array) -> Array:
    """Pad to full tiles: dynamic_slice would move a slice that passes the end back, onto other rows."""
    return jnp.pad(x_CD, ((0, -len(x_CD) % TILE_ROWS), (0, 0)))


def _tile(x_CD: Array, first: Array) -> Array:
    return jax.lax.dynamic_slice(x_CD, (first, 0), (TILE_ROWS, x_CD.shape[1]))
