"""Memory-linear attention in loops over blocks of queries and keys (Dao 2023), for rows in any order of runs.

A device may hold several runs of the row: `starts` says where each begins as the row reads. Blocks that no
query of theirs can see are
not visited: later ones, those before a window, and those before the first document of the queries. Runs of
keys and of queries may be anywhere at run time, so the same loops serve a whole row, all-gathered keys and
a ring.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from model.kernels.parts import Kernel, Row, block_of, output_dot
from model.kernels.plain import MASKED, Maths, sees

BLOCK = 512  # positions; larger ones compute more that is masked


class Blocks(NamedTuple):
    """How a Row is cut: `first_U[u]` is the index in the row of a block's first position."""

    size: int
    first_U: Int[Array, "U"]


def scores(
    q_BKGLA: Float[Array, "B K G L A"], k_BKTA: Float[Array, "B K T A"], maths: Maths
) -> tuple[Float[Array, "B K G L T"], Float[Array, "B K G L T"] | float]:
    """Scores before the mask in float32, and the slope of the soft cap at each."""
    s_BKGLT = maths.scale * jnp.einsum(
        "BKGLA,BKTA->BKGLT", q_BKGLA, k_BKTA, preferred_element_type=jnp.float32
    )
    if maths.soft_cap is None:
        return s_BKGLT, 1.0
    t_BKGLT = jnp.tanh(s_BKGLT / maths.soft_cap)
    return maths.soft_cap * t_BKGLT, 1 - t_BKGLT * t_BKGLT


def forward(
    q_BHLA: Float[Array, "B H L A"],
    k_BKTA: Float[Array, "B K T A"],
    v_BKTA: Float[Array, "B K T A2"],
    q_row: Row,
    k_row: Row,
    maths: Maths,
) -> tuple[Float[Array, "B H L A2"], Float[Array, "B H L"]]:
    """What the queries read from these keys, in float32, and the logarithm of the sum of their weights
    (nothing seen: 0 and MASKED).
    """
    (B, H, L, A), K = q_BHLA.shape, k_BKTA.shape[1]
    q_BKGLA = q_BHLA.reshape(B, K, H // K, L, A)
    cut = _cut(q_row)

    def one_block(_: None, u: Array) -> tuple[None, tuple[Array, Array]]:
        q, row = _at(q_BKGLA, u * cut.size, cut.size, 3), _rows_at(q_row, u * cut.size, cut.size)

        def visit(at: Array, size: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            m, n, o = state
            seen, k, v = (
                _seen(row, _rows_at(k_row, at, size), maths),
                _at(k_BKTA, at, size, 2),
                _at(v_BKTA, at, size, 2),
            )
            s = jnp.where(seen, scores(q, k, maths)[0], MASKED)
            top = jnp.maximum(m, s.max(-1))
            p, fade = jnp.where(seen, jnp.exp(s - top[..., None]), 0), jnp.exp(m - top)
            read = jnp.einsum("BKGLT,BKTA->BKGLA", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return top, n * fade + p.sum(-1), o * fade[..., None] + read

        shape = q.shape[:-1]
        state = jnp.full(shape, MASKED), jnp.zeros(shape), jnp.zeros((*shape, v_BKTA.shape[-1]))
        m, n, o = _over_keys(visit, state, row, cut.first_U[u], k_row, maths)
        some = jnp.maximum(n, 1e-37)
        return None, (o / some[..., None], jnp.where(n > 0, m + jnp.log(some), MASKED))

    _, (o, lse) = lax.scan(one_block, None, jnp.arange(len(cut.first_U)))
    return _joined(o).reshape(B, H, L, -1), jnp.moveaxis(lse, 0, 3).reshape(B, H, L)


def backward(
    q_BHLA: Float[Array, "B H L A"],
    k_BKTA: Float[Array, "B K T A"],
    v_BKTA: Float[Array, "B K T A2"],
    o_BHLA: Float[Array, "B H L A2"],
    lse_BHL: Float[Array, "B H L"],
    grad_BHLA: Float[Array, "B H L A2"],
    q_row: Row,
    k_row: Row,
    maths: Maths,
) -> tuple[Float[Array, "B H L A"], Float[Array, "B K T A"], Float[Array, "B K T A2"]]:
    """Gradients of queries, keys and values through these keys alone, in float32; `o` and `lse` are what
    was read of all keys.
    """
    (B, H, L, A), K = q_BHLA.shape, k_BKTA.shape[1]
    q_BKGLA, grad_BKGLA = (x.reshape(B, K, H // K, L, -1) for x in (q_BHLA, grad_BHLA))
    lse_BKGL, dot_BKGL = (x.reshape(B, K, H // K, L) for x in (lse_BHL, output_dot(o_BHLA, grad_BHLA)))
    cut = _cut(q_row)

    def one_block(totals: tuple[Array, Array], u: Array) -> tuple[tuple[Array, Array], Array]:
        i = u * cut.size
        q, grad, lse, dot = (_at(x, i, cut.size, 3) for x in (q_BKGLA, grad_BKGLA, lse_BKGL, dot_BKGL))
        row = _rows_at(q_row, i, cut.size)

        def visit(at: Array, size: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq, dk, dv = state
            seen, k, v = (
                _seen(row, _rows_at(k_row, at, size), maths),
                _at(k_BKTA, at, size, 2),
                _at(v_BKTA, at, size, 2),
            )
            dq_now, dk_now, dv_now = _block_gradients(q, k, v, grad, lse, dot, seen, maths)
            return dq + dq_now, _add_at(dk, dk_now, at), _add_at(dv, dv_now, at)

        dq, *totals = _over_keys(visit, (jnp.zeros(q.shape), *totals), row, cut.first_U[u], k_row, maths)
        return tuple(totals), dq

    totals = jnp.zeros(k_BKTA.shape), jnp.zeros(v_BKTA.shape)
    (dk_BKTA, dv_BKTA), dq = lax.scan(one_block, totals, jnp.arange(len(cut.first_U)))
    return _joined(dq).reshape(B, H, L, A), dk_BKTA, dv_BKTA


def _block_gradients(
    q: Array, k: Array, v: Array, grad: Array, lse: Array, dot: Array, seen: Array, maths: Maths
) -> tuple[Array, Array, Array]:
    f32 = jnp.float32
    s, slope = scores(q, k, maths)
    p = jnp.where(seen, jnp.exp(s - lse[..., None]), 0)
    dp = jnp.einsum("BKGLA,BKTA->BKGLT", grad.astype(v.dtype), v, preferred_element_type=f32)
    ds = (maths.scale * slope * p * (dp - dot[..., None])).astype(q.dtype)
    dq = jnp.einsum("BKGLT,BKTA->BKGLA", ds, k, preferred_element_type=f32)
    dk = jnp.einsum("BKGLT,BKGLA->BKTA", ds, q, preferred_element_type=f32)
    return (
        dq,
        dk,
        jnp.einsum("BKGLT,BKGLA->BKTA", p.astype(v.dtype), grad.astype(v.dtype), preferred_element_type=f32),
    )


def _over_keys(visit: Callable, state: tuple, row: Row, first: Array, k_row: Row, maths: Maths) -> tuple:
    """Fold `visit(at, size, state)` over the blocks of keys that the block of queries `row`, which begins
    at `first`, can see.
    """
    for offset, size, begin, end in ranges_seen(row.positions_BL, first, k_row, maths.window):

        def body(j: Array, state: tuple, offset: int = offset, size: int = size) -> tuple:
            return visit(offset + j * size, size, state)

        state = lax.fori_loop(begin, end, body, state)
    return state


def ranges_seen(
    positions_BL: Int[Array, "B L"], first: Array, k_row: Row, window: int | None
) -> Iterator[tuple[int, int, Int[Array, ""], Int[Array, ""]]]:
    """For each run of keys: where it lies here, the size of its blocks, and from which to before which
    block the queries see some.

    The queries are one block, whose first stands at `first` in the row.
    """
    L = positions_BL.shape[1]
    lowest = jnp.min(
        first + jnp.arange(L) - positions_BL
    )  # where the earliest document of these queries begins
    if window is not None:
        lowest = jnp.maximum(lowest, first - window + 1)
    for offset, size, n_blocks, start in _runs(k_row):
        yield (
            offset,
            size,
            jnp.clip((lowest - start) // size, 0, n_blocks),
            jnp.clip(-((start - first - L) // size), 0, n_blocks),
        )


def _runs(row: Row) -> Iterator[tuple[int, int, int, Array]]:
    """Each run of keys: where it lies here, size and number of its blocks, where it starts in the row."""
    length = row.positions_BL.shape[1] // len(row.starts)
    size = block_of(length, BLOCK)
    for i, start in enumerate(row.starts):
        yield i * length, size, length // size, start


def _cut(row: Row) -> Blocks:
    length = row.positions_BL.shape[1] // len(row.starts)
    size = block_of(length, BLOCK)
    return Blocks(size, jnp.concatenate([start + jnp.arange(0, length, size) for start in row.starts]))


def _seen(q_row: Row, k_row: Row, maths: Maths) -> Array:
    return sees(*q_row[:2], *k_row[:2], maths.window)[:, None, None]


def _at(x: Array, start: Array, size: int, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis)


def _rows_at(row: Row, start: Array, size: int) -> Row:
    return Row(_at(row.positions_BL, start, size, 1), _at(row.segments_BL, start, size, 1), row.starts)


def _add_at(total: Array, part: Array, at: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(total, _at(total, at, part.shape[2], 2) + part, at, 2)


def _joined(x: Array) -> Array:
    """Blocks of a scan [U, B, K, G, L, A] side by side."""
    U, B, K, G, L, A = x.shape
    return jnp.moveaxis(x, 0, 3).reshape(B, K, G, U * L, A)


LOOPS = Kernel(forward, backward, multiple=1)
