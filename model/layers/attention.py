"""Causal attention with grouped key/value heads (Ainslie et al. 2023) over packed rows."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from model.cache import write
from model.layers.rope import rotate
from model.layers.weight import weight
from model.sharding import einsum, reshape, shard, spec

QUERY_BLOCK = 128  # smaller ones skip more, but their products are too small to be fast


class Attention(nnx.Module):
    """Queries of H heads read keys and values of K heads; H is a multiple of K."""

    def __init__(self, *, D: int, H: int, K: int, A: int, rngs: nnx.Rngs):
        self.wq_DHA = weight(rngs, "DHA", (D, H, A), fan_in=D)
        self.wk_DKA = weight(rngs, "DKA", (D, K, A), fan_in=D)
        self.wv_DKA = weight(rngs, "DKA", (D, K, A), fan_in=D)
        self.wo_HAD = weight(rngs, "HAD", (H, A, D), fan_in=H * A)

    def __call__(
        self, x_BLD: Float[Array, "B L D"], rotations_BLA2: Float[Array, "B L A2 2"], mask_BLT: Bool[Array, "B L T"]
    ) -> Float[Array, "B L D"]:
        """Attention within the row itself (T = L)."""
        q_BLHA, k_BLKA, v_BLKA = self._project(x_BLD, rotations_BLA2)
        o_BLHA = attend_causal(q_BLHA, shard(k_BLKA, "BTKA"), shard(v_BLKA, "BTKA"), mask_BLT)
        return einsum("BLHA,HAD->BLD", o_BLHA, self.wo_HAD[...])

    def decode(
        self,
        x_BLD: Float[Array, "B L D"],
        rotations_BLA2: Float[Array, "B L A2 2"],
        mask_BLT: Bool[Array, "B L T"],
        keys_and_values: tuple[Array, Array],
        lengths_B: Int[Array, "B"],
    ) -> tuple[Float[Array, "B L D"], tuple[Array, Array]]:
        """Attention to all that the cache holds and to x itself, whose keys and values are written behind it."""
        q_BLHA, k_BLKA, v_BLKA = self._project(x_BLD, rotations_BLA2)
        k_BTKA, v_BTKA = (write(slots, new, lengths_B) for slots, new in zip(keys_and_values, (k_BLKA, v_BLKA), strict=True))
        o_BLHA = attend(q_BLHA, k_BTKA, v_BTKA, mask_BLT)
        return einsum("BLHA,HAD->BLD", o_BLHA, self.wo_HAD[...]), (k_BTKA, v_BTKA)

    def _project(self, x_BLD: Array, rotations_BLA2: Array) -> tuple[Array, Array, Array]:
        q_BLHA = rotate(einsum("BLD,DHA->BLHA", x_BLD, self.wq_DHA[...]), rotations_BLA2)
        k_BLKA = rotate(einsum("BLD,DKA->BLKA", x_BLD, self.wk_DKA[...]), rotations_BLA2)
        return q_BLHA, k_BLKA, einsum("BLD,DKA->BLKA", x_BLD, self.wv_DKA[...])


def attend(
    q_BLHA: Float[Array, "B L H A"], k_BTKA: Float[Array, "B T K A"], v_BTKA: Float[Array, "B T K A"], mask_BLT: Bool[Array, "B L T"]
) -> Float[Array, "B L H A"]:
    """softmax(q·k / √A) · v over the positions that the mask allows, softmax in float32: the plain form, the reference for kernels."""
    B, L, H, A = q_BLHA.shape
    K = k_BTKA.shape[2]
    q_BLKGA = reshape(q_BLHA * A**-0.5, (B, L, K, H // K, A), "BLKGA")
    scores_BKGLT = einsum("BLKGA,BTKA->BKGLT", q_BLKGA, k_BTKA, dtype=jnp.float32)
    scores_BKGLT = jnp.where(mask_BLT[:, None, None], scores_BKGLT, -1e30)
    p_BKGLT = jax.nn.softmax(scores_BKGLT, -1).astype(v_BTKA.dtype)
    return reshape(einsum("BKGLT,BTKA->BLKGA", p_BKGLT, v_BTKA), (B, L, H, A), "BLHA")


def attend_causal(
    q_BLHA: Float[Array, "B L H A"], k_BTKA: Float[Array, "B L K A"], v_BTKA: Float[Array, "B L K A"], mask_BLT: Bool[Array, "B L L"]
) -> Float[Array, "B L H A"]:
    """`attend` within a row for a mask without any later position: blocks of queries skip the keys behind them, nearly half of the work."""
    L = q_BLHA.shape[1]
    if L % QUERY_BLOCK or spec("L") != spec("."):  # a divided L cannot be cut into blocks
        return attend(q_BLHA, k_BTKA, v_BTKA, mask_BLT)
    blocks = [(start, start + QUERY_BLOCK) for start in range(0, L, QUERY_BLOCK)]
    return jnp.concatenate([attend(q_BLHA[:, i:j], k_BTKA[:, :j], v_BTKA[:, :j], mask_BLT[:, i:j, :j]) for i, j in blocks], 1)


def packed_mask(segments_BL: Int[Array, "B L"], positions_BL: Int[Array, "B L"]) -> Bool[Array, "B L T"]:
    """A position sees the earlier positions of its own segment and itself; padding sees only itself-like padding, so no row is empty."""
    same_BLT = segments_BL[:, :, None] == shard(segments_BL, "BT")[:, None, :]
    return same_BLT & (positions_BL[:, :, None] >= shard(positions_BL, "BT")[:, None, :])
