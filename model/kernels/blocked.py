"""Attention in blocks of queries that skip the keys behind them: for CPUs, and for what the kernels of
other platforms cannot do.

Up to LOOP_FROM positions the blocks are written out, with static slices and products in the forms that
reach a CPU's matrix units; beyond, loops (model/kernels/loops.py). Both keep no scores for the backward
pass: memory grows with L.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.execution import name
from model.kernels.loops import BLOCK, LOOPS, scores
from model.kernels.parts import Row, attend_rows, output_dot
from model.kernels.plain import MASKED, Maths, sees
from model.sharding import local

QUERY_BLOCK = 128  # smaller ones skip more, but their products are too small to be fast
ORDER_FROM = (
    1024  # positions; a tenth slower, but the scores of blocks further on are never held at the same time
)
LOOP_FROM = (
    4096  # positions; beyond, written-out blocks take long to compile, though loops take twice as long to run
)


def attend(
    q_BLHA: Float[Array, "B L H A"],
    k_BLKA: Float[Array, "B L K A"],
    v_BLKA: Float[Array, "B L K A2"],
    positions_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"],
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> Float[Array, "B L H A2"]:
    """`plain.attend` for an undivided L whose documents read in order, each position one further than the
    last, its padding aside.
    """
    form = _written_out if q_BLHA.shape[1] <= LOOP_FROM else _looped
    run = local(
        partial(form, maths=Maths(scale, window, soft_cap)), ("BTHA", "BTKA", "BTKA", "BT", "BT"), "BTHA"
    )
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


def _looped(
    q_BLHA: Array, k_BLKA: Array, v_BLKA: Array, positions_BL: Array, segments_BL: Array, maths: Maths
) -> Array:
    L = q_BLHA.shape[1]
    more = -L % BLOCK
    q_BHLA, k_BKTA, v_BKTA = (
        jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q_BLHA, k_BLKA, v_BLKA)
    )
    row = Row(
        jnp.pad(positions_BL, ((0, 0), (0, more))),
        jnp.pad(segments_BL, ((0, 0), (0, more)), constant_values=-1),
        (jnp.zeros((), jnp.int32),),
    )
    return attend_rows(q_BHLA, k_BKTA, v_BKTA, row, row, LOOPS, maths).swapaxes(1, 2)[:, :L]


def _written_out(
    q_BLHA: Array, k_BLKA: Array, v_BLKA: Array, positions_BL: Array, segments_BL: Array, maths: Maths
) -> Array:
    B, L, H, A = q_BLHA.shape
    K = k_BLKA.shape[2]
    q_BKGLA = q_BLHA.reshape(B, L, K, H // K, A).transpose(0, 2, 3, 1, 4)
    o_BKGLA = _blocks(q_BKGLA, k_BLKA.swapaxes(1, 2), v_BLKA.swapaxes(1, 2), positions_BL, segments_BL, maths)
    return o_BKGLA.transpose(0, 3, 1, 2, 4).reshape(B, L, H, -1)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _blocks(
    q_BKGLA: Array, k_BKTA: Array, v_BKTA: Array, positions_BL: Array, segments_BL: Array, maths: Maths
) -> Array:
    return _forward(q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, maths)[0]


def _forward(
    q_BKGLA: Array, k_BKTA: Array, v_BKTA: Array, positions_BL: Array, segments_BL: Array, maths: Maths
) -> tuple[Array, tuple]:
    outputs, sums = [], []
    for queries, keys in _visits(q_BKGLA.shape[3], maths.window):
        q, outputs = _after(q_BKGLA[:, :, :, queries], outputs, queries)
        s = scores(q, k_BKTA[:, :, keys], maths)[0] + _mask(positions_BL, segments_BL, queries, keys, maths)
        m = s.max(-1, keepdims=True)
        p = jnp.exp(s - m)
        n = p.sum(-1, keepdims=True)
        o = jnp.einsum("BKGLT,BKTA->BKGLA", p.astype(v_BKTA.dtype), v_BKTA[:, :, keys])
        outputs.append((o / n).astype(o.dtype))
        sums.append((m + jnp.log(n))[..., 0])
    o_BKGLA, lse_BKGL = name(jnp.concatenate(outputs, 3), "mixed"), name(jnp.concatenate(sums, 3), "mixed")
    return o_BKGLA, (q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, o_BKGLA, lse_BKGL)


def _backward(maths: Maths, saved: tuple, grad_BKGLA: Array) -> tuple[Array | None, ...]:
    q_BKGLA, k_BKTA, v_BKTA, positions_BL, segments_BL, o_BKGLA, lse_BKGL = saved
    f32, dtype, dot_BKGL = jnp.float32, q_BKGLA.dtype, output_dot(o_BKGLA, grad_BKGLA)
    dqs, dk_BKTA, dv_BKTA = [], jnp.zeros(k_BKTA.shape, f32), jnp.zeros(v_BKTA.shape, f32)
    for queries, keys in _visits(q_BKGLA.shape[3], maths.window):
        q, grad, lse, dot = (
            x[:, :, :, queries] for x in (q_BKGLA, grad_BKGLA, lse_BKGL[..., None], dot_BKGL[..., None])
        )
        q, (dk_BKTA, dv_BKTA) = _after(q, (dk_BKTA, dv_BKTA), queries)
        s, slope = scores(q, k_BKTA[:, :, keys], maths)
        p = jnp.exp(s + _mask(positions_BL, segments_BL, queries, keys, maths) - lse)
        # in the type of its operands: its rounding is like theirs, and half of the bytes are a tenth of the
        # time
        dp = jnp.einsum("BKGLA,BKTA->BKGLT", grad, v_BKTA[:, :, keys]).astype(f32)
        ds, p = (maths.scale * slope * p * (dp - dot)).astype(dtype), p.astype(dtype)
        dqs.append(jnp.einsum("BKGLT,BKTA->BKGLA", ds, k_BKTA[:, :, keys]))
        dk_BKTA = dk_BKTA.at[:, :, keys].add(jnp.einsum("BKGLT,BKGLA->BKTA", ds, q).astype(f32))
        dv_BKTA = dv_BKTA.at[:, :, keys].add(jnp.einsum("BKGLT,BKGLA->BKTA", p, grad).astype(f32))
    return jnp.concatenate(dqs, 3), dk_BKTA.astype(k_BKTA.dtype), dv_BKTA.astype(v_BKTA.dtype), None, None


_blocks.defvjp(_forward, _backward)


def _visits(L: int, window: int | None) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the keys that it can see."""
    visits = []
    for start in range(0, L, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, L)
        first = 0 if window is None else max(0, start - window + 1) // QUERY_BLOCK * QUERY_BLOCK
        visits.append((slice(start, stop), slice(first, stop)))
    return visits


def _after(q: Array, done: Any, queries: slice) -> tuple[Array, Any]:
    """Queries that wait, in long rows, for what the blocks before have given."""
    return jax.lax.optimization_barrier((q, done)) if queries.start >= ORDER_FROM else (q, done)


def _mask(positions_BL: Array, segments_BL: Array, queries: slice, keys: slice, maths: Maths) -> Array:
    """0 where a query sees a key, else MASKED; computed before it is added, for else every head would
    compare all positions again.
    """
    seen_BLT = sees(
        positions_BL[:, queries],
        segments_BL[:, queries],
        positions_BL[:, keys],
        segments_BL[:, keys],
        maths.window,
    )
    return jax.lax.optimization_barrier(jnp.where(seen_BLT, 0.0, MASKED))[:, None, None]
