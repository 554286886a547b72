"""TPUs: JAX's splash attention, a Pallas kernel with segments, windows, soft caps and grouped heads.

All these head widths compile for v5e and v5p: 64, 80, 96, 128, 192 with values of 128, 256. L is padded
to a multiple of 128 lanes. Our own tables tell which blocks to visit: the library's are computed from
every pair of positions while tracing, and do not support rows in another order.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Array, Float

from model.exits import local
from model.kernels.attend import MASKED, Maths
from model.kernels.runs import Kernel, Row, block_of, merged
from model.mesh import platform

LANES = 128
TILE = 1024  # positions; tiles of 2048 x 2048 do not fit into the VMEM of v5e and v5p
COMPUTE_TILE = 512  # keys of a tile whose scores are computed at a time
# Most keys for the fused backward pass, which holds a gradient of all queries for each tile of keys until it
# sums them.
FUSED_UP_TO = 4096


class Tables(NamedTuple):
    """Which tiles of keys each tile of queries visits, and for gradients of keys the other way round.
    `queries` is None for the fused backward pass, which computes both gradients.
    """

    forward: MaskInfo
    queries: MaskInfo | None
    keys: MaskInfo


def attend(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    """An `Attend`. Masks use indices in the row instead of positions, since documents are in order."""
    # Pallas calls do not support explicit axes: each device runs the kernel on its own rows and heads
    run = local(partial(_on_device, maths=maths), ("BTHA", "BTKA", "BTKA", "BT"), "BTHA")
    return run(q_BLHA, k_BLKA, v_BLKA, segments_BL)


def forward(
    q_BHLA: Float[Array, "B H L A"],
    k_BKTA: Float[Array, "B K T A"],
    v_BKTA: Float[Array, "B K T A2"],
    q_row: Row,
    k_row: Row,
    maths: Maths,
) -> tuple[Float[Array, "B H L A2"], Float[Array, "B H L"]]:
    """`Kernel.forward`, one run of keys after the other."""
    reads = []
    L = q_BHLA.shape[2]
    scaled_BHLA = _scaled(q_BHLA, maths)
    for i, (k, v, segments_BT) in enumerate(_runs(k_BKTA, v_BKTA, k_row)):
        kernel = _kernel(L, k.shape[2], q_row, k_row.starts[i], maths, save_residuals=True)
        segments = library.SegmentIds(q_row.segments_BL, segments_BT)
        # vmap: the library's kernel is for a single row, [H, L, A]
        o, (lse,) = jax.vmap(kernel)(scaled_BHLA, k, v, segments)
        is_read = lse > MASKED  # otherwise the query sees no key of this run
        o = jnp.where(is_read[..., None], o.astype(jnp.float32), 0)
        reads.append((o, jnp.where(is_read, lse, MASKED)))
    return merged(*reads)


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
    """`Kernel.backward`. The library's public gradient uses the log-sum-exp over the keys it is given,
    not over all keys, so this calls its inner function.
    """
    dq = jnp.zeros(q_BHLA.shape, jnp.float32)
    dks = []
    dvs = []
    L = q_BHLA.shape[2]
    scaled_BHLA = _scaled(q_BHLA, maths)
    for i, (k, v, segments_BT) in enumerate(_runs(k_BKTA, v_BKTA, k_row)):
        kernel = _kernel(L, k.shape[2], q_row, k_row.starts[i], maths, save_residuals=False)

        def pull(q, k, v, segments, o, lse, grad, kernel=kernel):
            # the residuals of the library's forward pass, but with `o` and `lse` over all keys
            saved = (q, k, v, segments, None, o, lse, kernel.dq_mask_info, kernel.dkv_mask_info)
            # [3:6]: gradients of q, k and v; those of the three mask tables before them are None
            return library._splash_attention_bwd(res=saved, do=grad, **kernel.kwargs)[3:6]

        segments = library.SegmentIds(q_row.segments_BL, segments_BT)
        dq_run, dk, dv = jax.vmap(pull)(scaled_BHLA, k, v, segments, o_BHLA, lse_BHL, grad_BHLA)
        # the library gives the gradient of the scaled queries
        dq += dq_run.astype(jnp.float32) * maths.scale
        dks.append(dk.astype(jnp.float32))
        dvs.append(dv.astype(jnp.float32))
    return dq, jnp.concatenate(dks, 2), jnp.concatenate(dvs, 2)


def _on_device(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    L = q_BLHA.shape[1]
    padding = (0, -L % LANES)
    padded_L = L + padding[1]

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0))).swapaxes(1, 2)

    # padded with segment -1, which no document has, so that no position sees the padding
    segments_BL = jnp.pad(segments_BL, ((0, 0), padding), constant_values=-1)
    # `Row` needs positions, but this kernel never reads them
    row = Row(segments_BL, segments_BL, starts=(jnp.zeros((), jnp.int32),))
    kernel = _kernel(padded_L, padded_L, row, row.starts[0], maths, save_residuals=False)
    segments = library.SegmentIds(segments_BL, segments_BL)
    q_BHLA = _scaled(padded(q_BLHA), maths)
    # over rows of the batch
    o_BHLA = jax.vmap(kernel)(q_BHLA, padded(k_BLKA), padded(v_BLKA), segments)
    return o_BHLA.swapaxes(1, 2)[:, :L]


def _kernel(
    L: int,
    T: int,
    q_row: Row,
    k_start: Array,
    maths: Maths,
    save_residuals: bool,
) -> library.SplashAttentionKernel:
    """The library's kernel for the runs of L queries, and a run of T keys that starts at `k_start`."""
    run_length = L // len(q_row.starts)
    sizes = _block_sizes(run_length, T)
    in_run_L = jnp.arange(run_length, dtype=jnp.int32)
    # relative to the first key, since the kernel counts keys from 0
    index_L = jnp.concatenate([start - k_start + in_run_L for start in q_row.starts])
    tables = _tables(index_L, len(q_row.starts), T, sizes, maths.window)
    return library.SplashAttentionKernel(
        *tables,
        block_sizes=sizes,
        is_mqa=False,
        save_residuals=save_residuals,
        mask_value=library.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=maths.soft_cap,
        # the name by which `Remat` keeps the kernel's residuals
        residual_checkpoint_name="mixed",
        # the mask inside visited tiles; the kernel compares segments itself
        mask_function=_Sees(maths.window),
        # interpreted only in tests: `choose` refuses other platforms than TPUs
        interpret=platform() != "tpu",
    )


class _Sees(NamedTuple):
    """The mask of row indices, evaluated in the kernel. A NamedTuple, so that JAX's caches treat equal
    masks as the same function.
    """

    window: int | None

    def __call__(self, i: Array, j: Array) -> Array:
        is_earlier = i >= j
        return is_earlier if self.window is None else is_earlier & (i - j < self.window)


def _block_sizes(run_length: int, T: int) -> library.BlockSizes:
    q = LANES * block_of(run_length // LANES, TILE // LANES)
    kv = LANES * block_of(T // LANES, TILE // LANES)
    compute = LANES * block_of(kv // LANES, COMPUTE_TILE // LANES)
    fused = T <= FUSED_UP_TO  # recomputes scores once for both gradients, instead of twice
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


def _tables(
    index_L: Array,
    n_runs: int,
    T: int,
    sizes: library.BlockSizes,
    window: int | None,
) -> Tables:
    """Tables for queries with these indices, counted from the first of T keys.

    A row of a table lists the tiles of keys from the first to the last that a tile of queries sees;
    `block_mask` tells which entries are valid. Here U counts tiles of queries, and T tiles of keys. For 4
    tiles of each and no window, `data_next` and `block_mask` of the forward pass are

        0 0 0 0     1 0 0 0
        0 1 1 1     1 1 0 0      an invalid entry repeats the last tile,
        0 1 2 2     1 1 1 0      which is in VMEM already
        0 1 2 3     1 1 1 1

    The library's own tables are [heads, …]; ours are [1, …], for all heads.
    """
    q, kv = sizes.block_q, sizes.block_kv
    first_U = index_L[::q]
    n_keys = T // kv
    begin_U = jnp.zeros_like(first_U)
    if window is not None:
        begin_U = jnp.clip((first_U - window + 1) // kv, 0, n_keys)
    # causal: up to the tile of keys that contains the tile's last query
    end_U = jnp.clip(-(-(first_U + q) // kv), 0, n_keys)
    # the most tiles that a window can touch from any of q queries, wherever in a tile it begins
    width = n_keys if window is None else min(n_keys, (q + window - 3) // kv + 2)
    forward = _table(begin_U, end_U, width, index_L)
    start_T = jnp.arange(0, T, kv, dtype=jnp.int32)
    n_queries = len(first_U)
    # first_U grows from tile to tile within a run and from run to run, so that counting finds the bounds
    begin_T = jnp.sum(first_U[:, None] + q <= start_T, 0, dtype=jnp.int32)
    no_end = jnp.full_like(start_T, jnp.iinfo(jnp.int32).max)
    after_T = no_end if window is None else start_T + kv + window - 1
    end_T = jnp.sum(first_U[:, None] < after_T, 0, dtype=jnp.int32)
    if sizes.use_fused_bwd_kernel:
        return Tables(forward, None, _fused_table(begin_T, end_T, n_queries, index_L))
    width = n_queries
    if window is not None:
        # in each run of queries, the most tiles that can see a tile of keys through the window
        width = min(n_queries, n_runs * ((kv + window - 3) // q + 2))
    by_keys = _table(begin_T, end_T, width, index_L)
    transposed = {"data_next": by_keys.data_next.mT, "block_mask": by_keys.block_mask.mT}
    return Tables(forward, forward, by_keys._replace(**transposed))


def _fused_table(
    begin_T: Array,
    end_T: Array,
    n_queries: int,
    index_L: Array,
) -> MaskInfo:
    """The table of the fused backward pass, which writes a gradient of every tile of queries for every
    tile of keys.
    """
    u = jnp.arange(n_queries, dtype=jnp.int32)[:, None]
    # entries of tiles of keys that no query sees need a valid tile number too
    last_T = jnp.maximum(end_T - 1, begin_T)
    nearest = jnp.minimum(jnp.clip(u, begin_T, last_T), n_queries - 1)
    counts = ((u >= begin_T) & (u < end_T)).astype(jnp.int32)
    return MaskInfo(nearest[None], None, counts[None], None, index_L)


def _table(begin: Array, end: Array, width: int, index_L: Array) -> MaskInfo:
    entry = begin[:, None] + jnp.arange(width, dtype=jnp.int32)
    # invalid entries repeat the last tile, so that nothing is fetched for them
    last = jnp.maximum(end - 1, 0)[:, None]
    counts = (entry < end[:, None]).astype(jnp.int32)
    return MaskInfo(jnp.minimum(entry, last)[None], None, counts[None], None, index_L)


def _runs(k_BKTA: Array, v_BKTA: Array, row: Row) -> list[tuple[Array, Array, Array]]:
    """(keys, values, segments) of each run."""
    n = len(row.starts)
    keys = jnp.split(k_BKTA, n, 2)
    values = jnp.split(v_BKTA, n, 2)
    segments = jnp.split(row.segments_BL, n, 1)
    return list(zip(keys, values, segments, strict=True))


def _scaled(q_BHLA: Array, maths: Maths) -> Array:
    """Queries times the scale, multiplied in float32; the library has no argument for it."""
    return (q_BHLA.astype(jnp.float32) * maths.scale).astype(q_BHLA.dtype)


SPLASH = Kernel(forward, backward, multiple=LANES)
