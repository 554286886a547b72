"""TPUs: JAX's splash attention, forward and backward in VMEM, with segments, windows, soft caps and grouped
heads.

Every head width compiles for v5e and v5p (64, 80, 96, 128, 192 with values of 128, 256); L is padded to a
multiple of 128 lanes. What blocks are visited is said by our own tables instead of the library's, which
look at every pair of positions while tracing and know no rows that lie in another order.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Array, Float, Int

from model.kernels.parts import Kernel, Row, block_of, merged
from model.kernels.plain import MASKED, Maths
from model.sharding import local, platform

LANES = 128
TILE = 1024  # positions; 2048 x 2048 does not fit into VMEM of v5e and v5p
COMPUTE_TILE = 512  # keys of a tile whose scores are in registers and VMEM at a time
# keys; the fused backward pass keeps one gradient of the queries for each tile of keys until it adds them up
FUSED_UP_TO = 4096


class Tables(NamedTuple):
    """Which tiles of keys each tile of queries visits, and the other way round for gradients of keys."""

    forward: MaskInfo
    queries: MaskInfo | None
    keys: MaskInfo


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
    run = local(partial(_whole, maths=Maths(scale, window, soft_cap)), ("BTHA", "BTKA", "BTKA", "BT"), "BTHA")
    return run(q_BLHA, k_BLKA, v_BLKA, segments_BL)


def forward(
    q_BHLA: Float[Array, "B H L A"],
    k_BKTA: Float[Array, "B K T A"],
    v_BKTA: Float[Array, "B K T A2"],
    q_row: Row,
    k_row: Row,
    maths: Maths,
) -> tuple[Float[Array, "B H L A2"], Float[Array, "B H L"]]:
    """As `loops.forward`."""
    found = []
    for i, (k, v, segments_BT) in enumerate(_runs(k_BKTA, v_BKTA, k_row)):
        kernel = _kernel(q_BHLA.shape[2], k.shape[2], q_row, k_row.starts[i], maths, save_residuals=True)
        o, (lse,) = jax.vmap(kernel)(
            _scaled(q_BHLA, maths), k, v, library.SegmentIds(q_row.segments_BL, segments_BT)
        )
        some = lse > MASKED  # else no tile was visited, or no key of this run is seen
        found.append((jnp.where(some[..., None], o.astype(jnp.float32), 0), jnp.where(some, lse, MASKED)))
    return merged(*found)


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
    """As `loops.backward`. The library's public gradient knows only the sums over the keys at hand, so this
    calls its inner function.
    """
    dq, dks, dvs = jnp.zeros(q_BHLA.shape, jnp.float32), [], []
    for i, (k, v, segments_BT) in enumerate(_runs(k_BKTA, v_BKTA, k_row)):
        kernel = _kernel(q_BHLA.shape[2], k.shape[2], q_row, k_row.starts[i], maths, save_residuals=False)

        def pull(q, k, v, segments, o, lse, grad, kernel=kernel):
            saved = q, k, v, segments, None, o, lse, kernel.dq_mask_info, kernel.dkv_mask_info
            return library._splash_attention_bwd(res=saved, do=grad, **kernel.kwargs)[3:6]

        segments = library.SegmentIds(q_row.segments_BL, segments_BT)
        dq_now, dk, dv = jax.vmap(pull)(_scaled(q_BHLA, maths), k, v, segments, o_BHLA, lse_BHL, grad_BHLA)
        dq += dq_now.astype(jnp.float32) * maths.scale
        dks.append(dk.astype(jnp.float32))
        dvs.append(dv.astype(jnp.float32))
    return dq, jnp.concatenate(dks, 2), jnp.concatenate(dvs, 2)


def _whole(q_BLHA: Array, k_BLKA: Array, v_BLKA: Array, segments_BL: Array, maths: Maths) -> Array:
    L = q_BLHA.shape[1]
    more = -L % LANES
    q_BHLA, k_BKTA, v_BKTA = (
        jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q_BLHA, k_BLKA, v_BLKA)
    )
    segments_BL = jnp.pad(segments_BL, ((0, 0), (0, more)), constant_values=-1)
    row = Row(segments_BL, segments_BL, (jnp.zeros((), jnp.int32),))
    kernel = _kernel(L + more, L + more, row, row.starts[0], maths, save_residuals=False)
    o_BHLA = jax.vmap(kernel)(
        _scaled(q_BHLA, maths), k_BKTA, v_BKTA, library.SegmentIds(segments_BL, segments_BL)
    )
    return o_BHLA.swapaxes(1, 2)[:, :L]


def _kernel(
    L: int, T: int, q_row: Row, k_start: Array, maths: Maths, save_residuals: bool
) -> library.SplashAttentionKernel:
    run = L // len(q_row.starts)
    sizes = _block_sizes(run, T)
    index_L = jnp.concatenate([start - k_start + jnp.arange(run, dtype=jnp.int32) for start in q_row.starts])
    tables = _tables(index_L, len(q_row.starts), T, sizes, maths.window)
    return library.SplashAttentionKernel(
        *tables,
        block_sizes=sizes,
        is_mqa=False,
        save_residuals=save_residuals,
        mask_value=library.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=maths.soft_cap,
        residual_checkpoint_name="mixed",
        mask_function=_Sees(maths.window),
        interpret=platform() != "tpu",
    )


class _Sees(NamedTuple):
    """The mask of indices, computed in the kernel; equal ones are one function to JAX's caches."""

    window: int | None

    def __call__(self, i: Array, j: Array) -> Array:
        return (i >= j) if self.window is None else (i >= j) & (i - j < self.window)


def _block_sizes(run: int, T: int) -> library.BlockSizes:
    q, kv = (LANES * block_of(n // LANES, TILE // LANES) for n in (run, T))
    compute = LANES * block_of(kv // LANES, COMPUTE_TILE // LANES)
    fused = T <= FUSED_UP_TO
    return library.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=compute,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=compute,
        block_q_dq=None if fused else q,
        block_kv_dq=None if fused else kv,
        use_fused_bwd_kernel=fused,
    )


def _tables(index_L: Array, n_runs: int, T: int, sizes: library.BlockSizes, window: int | None) -> Tables:
    """Tables for queries with these indices, counted from the first of T keys.

    A row of a table lists the tiles of keys from the first to the last that its queries see: `block_mask`
    says which entries count.
    """
    q, kv = sizes.block_q, sizes.block_kv
    first_U, n_keys = index_L[::q], T // kv
    begin_U = jnp.zeros_like(first_U) if window is None else jnp.clip((first_U - window + 1) // kv, 0, n_keys)
    end_U = jnp.clip(-(-(first_U + q) // kv), 0, n_keys)
    width = n_keys if window is None else min(n_keys, (q + window - 3) // kv + 2)
    forward = _table(begin_U, end_U, width, index_L)
    start_T, n_queries = jnp.arange(0, T, kv, dtype=jnp.int32), len(first_U)
    begin_T = jnp.sum(first_U[:, None] + q <= start_T, 0, dtype=jnp.int32)
    after_T = (
        jnp.full_like(start_T, jnp.iinfo(jnp.int32).max) if window is None else start_T + kv + window - 1
    )
    end_T = jnp.sum(first_U[:, None] < after_T, 0, dtype=jnp.int32)
    if sizes.use_fused_bwd_kernel:  # it writes a gradient of every tile of queries for every tile of keys
        u = jnp.arange(n_queries, dtype=jnp.int32)[:, None]
        nearest = jnp.minimum(jnp.clip(u, begin_T, jnp.maximum(end_T - 1, begin_T)), n_queries - 1)
        counts = (u >= begin_T) & (u < end_T)
        return Tables(
            forward, None, MaskInfo(nearest[None], None, counts.astype(jnp.int32)[None], None, index_L)
        )
    width = n_queries if window is None else min(n_queries, n_runs * ((kv + window - 3) // q + 2))
    turned = _table(begin_T, end_T, width, index_L)
    return Tables(
        forward, forward, turned._replace(data_next=turned.data_next.mT, block_mask=turned.block_mask.mT)
    )


def _table(begin: Array, end: Array, width: int, index_L: Array) -> MaskInfo:
    entry = begin[:, None] + jnp.arange(width, dtype=jnp.int32)
    last = jnp.maximum(end - 1, 0)[
        :, None
    ]  # entries that do not count stay there, so that nothing is fetched for them
    return MaskInfo(
        jnp.minimum(entry, last)[None], None, (entry < end[:, None]).astype(jnp.int32)[None], None, index_L
    )


def _runs(k_BKTA: Array, v_BKTA: Array, row: Row) -> list[tuple[Array, Array, Array]]:
    n = len(row.starts)
    return list(
        zip(jnp.split(k_BKTA, n, 2), jnp.split(v_BKTA, n, 2), jnp.split(row.segments_BL, n, 1), strict=True)
    )


def _scaled(q_BHLA: Array, maths: Maths) -> Array:
    return (q_BHLA.astype(jnp.float32) * maths.scale).astype(q_BHLA.dtype)


SPLASH = Kernel(forward, backward, multiple=LANES)
