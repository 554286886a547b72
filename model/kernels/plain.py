"""The reference: all scores at once. Every other kernel of this folder is tested against it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

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
    """An `Attend` for rows in any order, divided or not: positions alone say what is later, and keys and
    values are gathered where L is divided.
    """
    # query head h reads key head h // G: G neighbouring query heads share one
    B, L, H, A = q_BLHA.shape
    K = k_BLKA.shape[2]
    q_BLKGA = reshape(q_BLHA, (B, L, K, H // K, A), "BLKGA")
    k_BTKA = shard(k_BLKA, "BTKA")
    v_BTKA = shard(v_BLKA, "BTKA")
    s_BKGLT = maths.scale * einsum("BLKGA,BTKA->BKGLT", q_BLKGA, k_BTKA, dtype=jnp.float32)
    if maths.soft_cap is not None:
        s_BKGLT = maths.soft_cap * jnp.tanh(s_BKGLT / maths.soft_cap)
    positions_BT = shard(positions_BL, "BT")
    segments_BT = shard(segments_BL, "BT")
    seen_BLT = sees(positions_BL, segments_BL, positions_BT, segments_BT, maths.window)
    masked_BKGLT = jnp.where(seen_BLT[:, None, None], s_BKGLT, MASKED)
    # float32 until here: a bfloat16 score of 100 has steps of 0.5
    p_BKGLT = jax.nn.softmax(masked_BKGLT, -1).astype(v_BLKA.dtype)
    o_BLKGA = einsum("BKGLT,BTKA->BLKGA", p_BKGLT, v_BTKA)
    o_BLHA = reshape(o_BLKGA, (B, L, H, v_BLKA.shape[-1]), "BLHA")
    return name(o_BLHA, "mixed")
