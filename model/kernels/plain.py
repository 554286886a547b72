"""The reference: all scores at once. Every other kernel of this folder is tested against it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model.execution import name
from model.sharding import einsum, reshape, shard

MASKED = -1e30  # a score that no softmax sees; finite, so that a row without any key gives no NaN


class Maths(NamedTuple):
    """softmax(cap(scale · q·k)) · v over at most `window` positions back, itself counted."""

    scale: float
    window: int | None
    soft_cap: float | None


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
    """Position i sees j where the segments are equal, j is not later and not `window` or more positions
    back. Softmax in float32.

    Keys and values are gathered where L is divided; rows may lie in any order, since positions alone say
    what is later.
    """
    (B, L, H, A), K = q_BLHA.shape, k_BLKA.shape[2]
    q_BLKGA = reshape(q_BLHA, (B, L, K, H // K, A), "BLKGA")
    s_BKGLT = scale * einsum("BLKGA,BTKA->BKGLT", q_BLKGA, shard(k_BLKA, "BTKA"), dtype=jnp.float32)
    if soft_cap is not None:
        s_BKGLT = soft_cap * jnp.tanh(s_BKGLT / soft_cap)
    seen_BLT = sees(positions_BL, segments_BL, shard(positions_BL, "BT"), shard(segments_BL, "BT"), window)
    p_BKGLT = jax.nn.softmax(jnp.where(seen_BLT[:, None, None], s_BKGLT, MASKED), -1).astype(v_BLKA.dtype)
    o_BLKGA = einsum("BKGLT,BTKA->BLKGA", p_BKGLT, shard(v_BLKA, "BTKA"))
    return name(reshape(o_BLKGA, (B, L, H, v_BLKA.shape[-1]), "BLHA"), "mixed")


def sees(
    positions_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"],
    positions_BT: Int[Array, "B T"],
    segments_BT: Int[Array, "B T"],
    window: int | None,
) -> Bool[Array, "B L T"]:
    """Which keys (T) each query (L) sees. Padding, segment 0, sees padding alone."""
    back_BLT = positions_BL[:, :, None] - positions_BT[:, None, :]
    seen_BLT = (segments_BL[:, :, None] == segments_BT[:, None, :]) & (back_BLT >= 0)
    return seen_BLT if window is None else seen_BLT & (back_BLT < window)
