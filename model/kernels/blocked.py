"""Attention in blocks of queries, each with only the keys that it can see: for CPUs, and for what the kernels
of other platforms cannot do.

Up to LOOP_FROM positions the blocks are written out, with static slices and products in the forms that
reach a CPU's matrix units; beyond, loops (model/kernels/loops.py). Both keep no scores for the backward
pass: memory grows with L.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from model.execution import name
from model.exits import local
from model.kernels.attend import MASKED, Maths, sees
from model.kernels.loops import BLOCK, LOOPS, scores
from model.kernels.runs import Row, attend_rows, output_dot

QUERY_BLOCK = (
    128  # smaller blocks skip more masked scores, but their products are too small to be fast
)
# From this position on blocks are computed one after the other. It costs a tenth of the speed, but keeps the
# scores of these blocks from being in memory at the same time.
ORDER_FROM = 1024
# Longest row whose blocks are written out: more of them take long to compile. Loops run half as fast.
LOOP_FROM = 4096


def attend(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    """An `Attend` for every platform, dtype and width."""
    # lengths are known while tracing
    form = _written_out if q_BLHA.shape[1] <= LOOP_FROM else _looped
    run = local(partial(form, maths=maths), ("BTHA", "BTKA", "BTKA", "BT", "BT"), "BTHA")
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


def _looped(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    L = q_BLHA.shape[1]
    padding = (0, -L % BLOCK)  # so that all blocks have BLOCK positions

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0))).swapaxes(1, 2)

    # padded with segment -1, which no document has, so that no position sees the padding
    row = Row(
        jnp.pad(positions_BL, ((0, 0), padding)),
        jnp.pad(segments_BL, ((0, 0), padding), constant_values=-1),
        starts=(jnp.zeros((), jnp.int32),),
    )
    o_BHLA = attend_rows(padded(q_BLHA), padded(k_BLKA), padded(v_BLKA), row, row, LOOPS, maths)
    return o_BHLA.swapaxes(1, 2)[:, :L]


def _written_out(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    B, L, H, A = q_BLHA.shape
    K = k_BLKA.shape[2]
    G = H // K
    # heads before positions: batches of [L, A] by [T, A] are the form that reaches a CPU's matrix units
    q_BKGLA = q_BLHA.reshape(B, L, K, G, A).transpose(0, 2, 3, 1, 4)
    k_BKTA = k_BLKA.swapaxes(1, 2)
    v_BKTA = v_BLKA.swapaxes(1, 2)
    o_BKGLA = _blocks(q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, maths)
    o_BLKGA = o_BKGLA.transpose(0, 3, 1, 2, 4)
    return o_BLKGA.reshape(B, L, H, -1)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _blocks(
    q_BKGLA: Array,
    k_BKTA: Array,
    v_BKTA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    return _forward(q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, maths)[0]


def _forward(
    q_BKGLA: Array,
    k_BKTA: Array,
    v_BKTA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> tuple[Array, tuple]:
    outputs: list[Array] = []
    log_sums: list[Array] = []
    for queries, keys in _visits(q_BKGLA.shape[3], maths.window):
        q, outputs = _ordered(q_BKGLA[:, :, :, queries], outputs, queries)
        mask = _mask(positions_BL, segments_BL, queries, keys, maths)
        v = v_BKTA[:, :, keys]
        s, _ = scores(q, k_BKTA[:, :, keys], maths)
        s = s + mask
        # the largest score is subtracted first: exp(89) overflows float32
        top = s.max(-1, keepdims=True)
        p = jnp.exp(s - top)
        n = p.sum(-1, keepdims=True)
        # normalised after the product, where there are [L, A] numbers instead of [L, T]
        o = jnp.einsum("BKGLT,BKTA->BKGLA", p.astype(v.dtype), v)
        outputs.append((o / n).astype(o.dtype))
        log_sums.append((top + jnp.log(n))[..., 0])
    # named, so that `Remat` can keep them and the backward pass need not repeat all of the above
    o_BKGLA = name(jnp.concatenate(outputs, 3), "mixed")
    lse_BKGL = name(jnp.concatenate(log_sums, 3), "mixed")
    return o_BKGLA, (q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, o_BKGLA, lse_BKGL)


def _backward(
    maths: Maths,
    saved: tuple,
    grad_BKGLA: Array,
) -> tuple[Array | None, ...]:
    q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, o_BKGLA, lse_BKGL = saved
    f32 = jnp.float32
    dtype = q_BKGLA.dtype
    # scores are recomputed block by block, since all L · T of them do not fit into memory
    dot_BKGL = output_dot(o_BKGLA, grad_BKGLA)
    dqs: list[Array] = []
    dk_BKTA = jnp.zeros(k_BKTA.shape, f32)
    dv_BKTA = jnp.zeros(v_BKTA.shape, f32)
    for queries, keys in _visits(q_BKGLA.shape[3], maths.window):
        rows = (q_BKGLA, grad_BKGLA, lse_BKGL[..., None], dot_BKGL[..., None])
        # the same blocks as in the forward pass, in the same order
        q, grad, lse, dot = (x[:, :, :, queries] for x in rows)
        q, (dk_BKTA, dv_BKTA) = _ordered(q, (dk_BKTA, dv_BKTA), queries)
        mask = _mask(positions_BL, segments_BL, queries, keys, maths)
        s, slope = scores(q, k_BKTA[:, :, keys], maths)
        # subtracting the log-sum-exp gives the normalised weights of the forward pass
        p = jnp.exp(s + mask - lse)
        # The product stays in its operands' dtype, whose rounding it has anyway; half the bytes save a tenth
        # of the time.
        dp = jnp.einsum("BKGLA,BKTA->BKGLT", grad, v_BKTA[:, :, keys]).astype(f32)
        ds = (maths.scale * slope * p * (dp - dot)).astype(dtype)
        p = p.astype(dtype)
        dqs.append(jnp.einsum("BKGLT,BKTA->BKGLA", ds, k_BKTA[:, :, keys]))
        dk = jnp.einsum("BKGLT,BKGLA->BKTA", ds, q).astype(f32)
        dv = jnp.einsum("BKGLT,BKGLA->BKTA", p, grad).astype(f32)
        # summed in float32: a key is seen by many blocks of queries
        dk_BKTA = dk_BKTA.at[:, :, keys].add(dk)
        dv_BKTA = dv_BKTA.at[:, :, keys].add(dv)
    dq_BKGLA = jnp.concatenate(dqs, 3)
    # positions and segments are integers: they have no gradient
    return dq_BKGLA, dk_BKTA.astype(k_BKTA.dtype), dv_BKTA.astype(v_BKTA.dtype), None, None


_blocks.defvjp(_forward, _backward)


def _visits(L: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, each with the keys that it can see, from the start of a block on.

    For a causal row of n blocks these are n (n + 1) / 2 pairs of blocks, about half of all.
    """
    for start in range(0, L, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, L)
        first_seen = 0 if window is None else max(0, start - window + 1)
        # back to the start of a block, so that slices of all blocks have few different sizes
        yield slice(start, stop), slice(first_seen // QUERY_BLOCK * QUERY_BLOCK, stop)


def _ordered(q: Array, results: Any, queries: slice) -> tuple[Array, Any]:
    """In long rows, make queries depend on the results of the blocks before: XLA could otherwise compute the
    scores of all blocks at once.
    """
    return (
        jax.lax.optimization_barrier((q, results)) if queries.start >= ORDER_FROM else (q, results)
    )


def _mask(
    positions_BL: Array,
    segments_BL: Array,
    queries: slice,
    keys: slice,
    maths: Maths,
) -> Array:
    """0 where a query sees a key, else MASKED. The barrier keeps XLA from fusing the comparisons into the
    scores, where every head would repeat them.
    """
    q_row = (positions_BL[:, queries], segments_BL[:, queries])
    k_row = (positions_BL[:, keys], segments_BL[:, keys])
    mask_BLT = jnp.where(sees(*q_row, *k_row, maths.window), 0.0, MASKED)
    return jax.lax.optimization_barrier(mask_BLT)[:, None, None]
