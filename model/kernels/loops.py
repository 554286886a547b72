"""Memory-linear attention in loops over blocks of queries and keys (Dao 2023), for rows in any order of runs.

A device may hold several runs of the row: `starts` tells where in the row each begins. Blocks of keys that no
query of a block can see are skipped: later ones, those before the window, and those before the first document
of the queries. Where runs are is known only at run time, so the same loops serve complete rows, all-gathered
keys and rings.

A block of queries reads one block of keys after the other and carries for each query the largest score so
far, the sum of exp(score - largest), and the sum of values with those weights. A larger score rescales both
sums, so that no exponential overflows; the result is divided by the sum once, at the end (Milakov and
Gimelshein 2018). The backward pass recomputes the scores and normalises them by the log-sum-exp that the
forward pass saved, one number per query instead of L.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from model.kernels.attend import MASKED, Maths, sees
from model.kernels.runs import Kernel, Row, block_of, output_dot

BLOCK = 512  # positions; larger blocks compute more masked scores


Triple = tuple[Array, Array, Array]


class Blocks(NamedTuple):
    """A Row divided into blocks of `size` positions; `first_U[u]` is the row index of block u's first one."""

    size: int
    first_U: Int[Array, "U"]


class Keys(NamedTuple):
    """This device's keys and values, and where in the row they are."""

    k_BKTA: Array
    v_BKTA: Array
    row: Row

    def at(self, start: Array, size: int) -> "Keys":
        """The block of `size` keys from `start` on."""
        k_BKTA = _at(self.k_BKTA, start, size, 2)
        v_BKTA = _at(self.v_BKTA, start, size, 2)
        return Keys(k_BKTA, v_BKTA, _rows_at(self.row, start, size))


class Queries(NamedTuple):
    """This device's queries in the backward pass, with the gradient of their output, the log-sum-exp `lse` of
    their scores, and their `output_dot`.
    """

    q_BKGLA: Array
    grad_BKGLA: Array
    lse_BKGL: Array
    dot_BKGL: Array
    row: Row

    def at(self, start: Array, size: int) -> "Queries":
        """The block of `size` queries from `start` on."""
        *arrays, row = self
        blocks = [_at(x, start, size, 3) for x in arrays]
        return Queries(*blocks, _rows_at(row, start, size))


def scores(
    q_BKGLA: Float[Array, "B K G L A"],
    k_BKTA: Float[Array, "B K T A"],
    maths: Maths,
) -> tuple[Float[Array, "B K G L T"], Float[Array, "B K G L T"] | float]:
    """Scores before the mask, in float32, and the derivative of the soft cap at each."""
    s_BKGLT = maths.scale * jnp.einsum(
        "BKGLA,BKTA->BKGLT", q_BKGLA, k_BKTA, preferred_element_type=jnp.float32
    )
    if maths.soft_cap is None:
        return s_BKGLT, 1.0
    # d tanh(x) / dx = 1 - tanh(x)²
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
    """`Kernel.forward`, by a scan over blocks of queries, and in it a loop over blocks of keys."""
    B, H, L, A = q_BHLA.shape
    K = k_BKTA.shape[1]
    q_BKGLA = q_BHLA.reshape(B, K, H // K, L, A)
    keys = Keys(k_BKTA, v_BKTA, k_row)
    cut = _cut(q_row)

    def one_block(_: None, u: Array) -> tuple[None, tuple[Array, Array]]:
        q = _at(q_BKGLA, u * cut.size, cut.size, 3)
        row = _rows_at(q_row, u * cut.size, cut.size)
        # largest score, sum of weights relative to it, and weighted sum of values, so far
        shape = q.shape[:-1]
        zero_o = jnp.zeros((*shape, v_BKTA.shape[-1]))
        state = (jnp.full(shape, MASKED), jnp.zeros(shape), zero_o)
        visit = partial(_read, q, row, keys, maths)
        top, n, o = _over_keys(visit, state, row, cut.first_U[u], k_row, maths)
        divisor = jnp.maximum(n, 1e-37)  # n is 0 for a query that saw no key
        lse = jnp.where(n > 0, top + jnp.log(divisor), MASKED)
        return None, (o / divisor[..., None], lse)

    # one block after the other, so that scores of only one pair of blocks are in memory
    _, (o, lse) = lax.scan(one_block, None, jnp.arange(len(cut.first_U)))
    o_BHLA = _joined(o).reshape(B, H, L, -1)
    lse_BHL = jnp.moveaxis(lse, 0, 3).reshape(B, H, L)
    return o_BHLA, lse_BHL


def _read(
    q: Array,
    row: Row,
    keys: Keys,
    maths: Maths,
    start: Array,
    size: int,
    state: Triple,
) -> Triple:
    """The state of a block of queries after one more block of keys: each query's largest score, the sum
    of its weights relative to that, and the sum of values with those weights.
    """
    top, n, o = state
    k, v, k_row = keys.at(start, size)
    seen = _seen(row, k_row, maths)
    s = jnp.where(seen, scores(q, k, maths)[0], MASKED)
    new_top = jnp.maximum(top, s.max(-1))
    p = jnp.where(seen, jnp.exp(s - new_top[..., None]), 0)
    rescale = jnp.exp(top - new_top)  # makes the old sums relative to the new maximum
    read = jnp.einsum("BKGLT,BKTA->BKGLA", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return new_top, n * rescale + p.sum(-1), o * rescale[..., None] + read


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
    """`Kernel.backward`, by the same loops over recomputed scores."""
    B, H, L, A = q_BHLA.shape
    K = k_BKTA.shape[1]
    G = H // K
    queries = Queries(
        q_BHLA.reshape(B, K, G, L, A),
        grad_BHLA.reshape(B, K, G, L, -1),
        lse_BHL.reshape(B, K, G, L),
        output_dot(o_BHLA, grad_BHLA).reshape(B, K, G, L),
        q_row,
    )
    keys = Keys(k_BKTA, v_BKTA, k_row)
    cut = _cut(q_row)

    def one_block(
        totals: tuple[Array, Array],
        u: Array,
    ) -> tuple[tuple[Array, Array], Array]:
        block = queries.at(u * cut.size, cut.size)
        visit = partial(_add_gradients, block, keys, maths)
        # in float32, since a gradient is a sum over all blocks of keys
        state = (jnp.zeros(block.q_BKGLA.shape), *totals)
        dq, *totals = _over_keys(visit, state, block.row, cut.first_U[u], k_row, maths)
        return tuple(totals), dq

    # Gradients of all keys are carried through the scan: every block of queries adds to them.
    totals = (jnp.zeros(k_BKTA.shape), jnp.zeros(v_BKTA.shape))
    (dk_BKTA, dv_BKTA), dq = lax.scan(one_block, totals, jnp.arange(len(cut.first_U)))
    return _joined(dq).reshape(B, H, L, A), dk_BKTA, dv_BKTA


def _add_gradients(
    queries: Queries,
    keys: Keys,
    maths: Maths,
    start: Array,
    size: int,
    state: Triple,
) -> Triple:
    """Add the gradients through one more block of keys to those of the queries, of all keys and all
    values.
    """
    dq, dk, dv = state
    dq_block, dk_block, dv_block = _block_gradients(queries, keys.at(start, size), maths)
    return dq + dq_block, _add_at(dk, dk_block, start), _add_at(dv, dv_block, start)


def _block_gradients(queries: Queries, keys: Keys, maths: Maths) -> Triple:
    """Gradients of queries, keys and values through the scores of one block (Dao et al. 2022, algorithm
    4).
    """
    q, grad, lse, dot, row = queries
    k, v, k_row = keys
    f32 = jnp.float32
    s, slope = scores(q, k, maths)
    seen = _seen(row, k_row, maths)
    # masked after the exponential, since a query that sees nothing here may have any `lse`
    p = jnp.where(seen, jnp.exp(s - lse[..., None]), 0)
    grad = grad.astype(v.dtype)
    dp = jnp.einsum("BKGLA,BKTA->BKGLT", grad, v, preferred_element_type=f32)
    ds = maths.scale * slope * p * (dp - dot[..., None])
    ds = ds.astype(q.dtype)
    dq = jnp.einsum("BKGLT,BKTA->BKGLA", ds, k, preferred_element_type=f32)
    dk = jnp.einsum("BKGLT,BKGLA->BKTA", ds, q, preferred_element_type=f32)
    dv = jnp.einsum("BKGLT,BKGLA->BKTA", p.astype(v.dtype), grad, preferred_element_type=f32)
    return dq, dk, dv


def _over_keys(
    visit: Callable,
    state: tuple,
    row: Row,
    first: Array,
    k_row: Row,
    maths: Maths,
) -> tuple:
    """Fold `visit(start, size, state)` over the blocks of keys that the block of queries `row`, which begins
    at `first`, can see.
    """
    for offset, size, begin, end in ranges_seen(row.positions_BL, first, k_row, maths.window):
        # bound as default arguments: a closure would see the loop variables' last values
        def body(
            j: Array,
            state: tuple,
            offset: int = offset,
            size: int = size,
        ) -> tuple:
            return visit(offset + j * size, size, state)

        # The bounds are traced, so JAX cannot differentiate this loop: hence `backward`.
        state = lax.fori_loop(begin, end, body, state)
    return state


def ranges_seen(
    positions_BL: Int[Array, "B L"],
    first: Array,
    k_row: Row,
    window: int | None,
) -> Iterator[tuple[int, int, Int[Array, ""], Int[Array, ""]]]:
    """For each run of keys: (its offset in this device's keys, block size, first block that the queries see,
    end of these blocks).

    The queries are a block that starts at `first` in the row. Only complete blocks are skipped, and the mask
    does the rest, so a range may be too long but never too short.
    """
    L = positions_BL.shape[1]
    # documents are in order, so row index - position is where a position's document begins
    index_L = first + jnp.arange(L)
    lowest = jnp.min(index_L - positions_BL)  # where the earliest document of these queries begins
    if window is not None:
        lowest = jnp.maximum(lowest, first - window + 1)
    for offset, size, n_blocks, start in _runs(k_row):
        begin = jnp.clip((lowest - start) // size, 0, n_blocks)
        # rounded up: the block that holds the last query's own position is seen too
        end = jnp.clip(-((start - first - L) // size), 0, n_blocks)
        yield offset, size, begin, end


def _runs(row: Row) -> Iterator[tuple[int, int, int, Array]]:
    """For each run of keys: its offset in this device's keys, size and number of its blocks, and where it
    starts in the row.
    """
    length = row.positions_BL.shape[1] // len(row.starts)
    size = block_of(length, BLOCK)
    for i, start in enumerate(row.starts):
        # `start` is traced, since it depends on the device
        yield i * length, size, length // size, start


def _cut(row: Row) -> Blocks:
    length = row.positions_BL.shape[1] // len(row.starts)
    size = block_of(length, BLOCK)
    firsts = [start + jnp.arange(0, length, size) for start in row.starts]
    return Blocks(size, jnp.concatenate(firsts))


def _seen(q_row: Row, k_row: Row, maths: Maths) -> Array:
    """Which keys each query sees, as [B, 1, 1, L, T] for all heads."""
    seen_BLT = sees(
        q_row.positions_BL, q_row.segments_BL, k_row.positions_BL, k_row.segments_BL, maths.window
    )
    return seen_BLT[:, None, None]


def _at(x: Array, start: Array, size: int, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis)


def _rows_at(row: Row, start: Array, size: int) -> Row:
    positions_BL = _at(row.positions_BL, start, size, 1)
    segments_BL = _at(row.segments_BL, start, size, 1)
    return Row(positions_BL, segments_BL, row.starts)


def _add_at(total: Array, block: Array, start: Array) -> Array:
    """`total` with a block added at positions `start`, … of T."""
    summed = _at(total, start, block.shape[2], 2) + block
    return lax.dynamic_update_slice_in_dim(total, summed, start, 2)


def _joined(x: Array) -> Array:
    """Join the blocks of a scan: [U, B, K, G, L, A] -> [B, K, G, U · L, A]."""
    # blocks U are in the order of the queries, so U and L join
    U, B, K, G, L, A = x.shape
    return jnp.moveaxis(x, 0, 3).reshape(B, K, G, U * L, A)


LOOPS = Kernel(forward, backward, multiple=1)
