"""The reference kernel, which computes all scores at once; every other kernel is tested against it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from model.execution import name
from model.kernels.attend import MASKED, Maths, sees
from model.sharding import einsum, reshape, shard


def attend(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    """An `Attend` for rows in any order, sharded or not: masks come from positions alone, and keys and values
    are gathered if L is sharded.
    """
    positions_BT = shard(positions_BL, "BT")
    segments_BT = shard(segments_BL, "BT")
    seen_BLT = sees(positions_BL, segments_BL, positions_BT, segments_BT, maths.window)
    k_BTKA = shard(k_BLKA, "BTKA")
    v_BTKA = shard(v_BLKA, "BTKA")
    return name(attend_masked(q_BLHA, k_BTKA, v_BTKA, seen_BLT, maths), "mixed")


def attend_masked(
    q_BLHA: Float[Array, "B L H A"],
    k_BTKA: Float[Array, "B T K A"],
    v_BTKA: Float[Array, "B T K A2"],
    mask_BLT: Bool[Array, "B L T"],
    maths: Maths,
) -> Float[Array, "B L H A2"]:
    """softmax(cap(scale · q·k)) · v over the positions that the mask allows, softmax in float32."""
    # query head h uses key head h // G: G neighbouring query heads share a key head
    B, L, H, A = q_BLHA.shape
    K = k_BTKA.shape[2]
    q_BLKGA = reshape(q_BLHA, (B, L, K, H // K, A), "BLKGA")
    scores_BKGLT = maths.scale * einsum("BLKGA,BTKA->BKGLT", q_BLKGA, k_BTKA, dtype=jnp.float32)
    if maths.soft_cap is not None:
        scores_BKGLT = maths.soft_cap * jnp.tanh(scores_BKGLT / maths.soft_cap)
    # MASKED is finite, so that a query that sees nothing (padding) does not give NaN
    scores_BKGLT = jnp.where(mask_BLT[:, None, None], scores_BKGLT, MASKED)
    # the softmax is in float32: at 100, bfloat16 scores have steps of 0.5
    p_BKGLT = jax.nn.softmax(scores_BKGLT, -1).astype(v_BTKA.dtype)
    o_BLKGA = einsum("BKGLT,BTKA->BLKGA", p_BKGLT, v_BTKA)
    return reshape(o_BLKGA, (B, L, H, v_BTKA.shape[-1]), "BLHA")
