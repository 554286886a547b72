"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2 §2.1): keys and values are computed from a
narrow latent vector per token.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from model.architecture import AttentionFacts
from model.cache import cache_mask, write
from model.execution import name
from model.kernels.attend import MASKED, Attend, Maths
from model.layers.norm import RMSNorm
from model.layers.rope import rotate
from model.layers.rows import Rows
from model.layers.weight import weight
from model.sharding import einsum, shard, spec
from model.weights import Weight

EPS = 1e-6  # of the norms of latents, whatever the model's other norms have


class LatentAttention(nnx.Module):
    """H heads whose keys (A) and values (A3) are computed from a latent of width D2, which all heads
    share, as they share a rotary key (A2).

    Queries have A entries for the keys and A2 for the rotary key; with `query_latent` they are computed
    from a latent too, of width D3. `scale` is the factor of scores (None: (A + A2)^-1/2). `rope` names
    the rotations in `Rows`, `attend` is the kernel.

    The widths of latents have the letters D2 and D3, not R: at rest their weights are sharded like the model
    width, while a low-rank R would be replicated (3.3 of the 11.4 billion attention weights of DeepSeek-V3).
    In use neither is sharded, and equations call them R, since an equation cannot have two D.
    """

    def __init__(
        self,
        *,
        D: int,
        H: int,
        A: int,
        A2: int,
        A3: int,
        latent: int,
        query_latent: int | None,
        attend: Attend,
        rngs: nnx.Rngs,
        rope: str = "rope",
        scale: float | None = None,
    ):
        self.latent = latent
        self.query_latent = query_latent
        self.A2 = A2
        self.rope = rope
        self.attend = attend
        self.H = H
        self.qk_width = A + A2
        self.v_width = A3
        if scale is None:
            # a score sums over A + A2 entries; the growth that YaRN asks for comes in through `scale`
            scale = (A + A2) ** -0.5
        self.maths = Maths(scale, window=None, soft_cap=None)

        if query_latent:
            self.wq_down_DD3 = weight(rngs, "DD", (D, query_latent), fan_in=D)
            self.q_norm = RMSNorm(size=query_latent, eps=EPS, letter="D3")
            self.wq_D3HA = weight(rngs, "DHA", (query_latent, H, A), fan_in=query_latent)
            self.wq_rope_D3HA2 = weight(rngs, "DHA", (query_latent, H, A2), fan_in=query_latent)
        else:
            self.wq_DHA = weight(rngs, "DHA", (D, H, A), fan_in=D)
            self.wq_rope_DHA2 = weight(rngs, "DHA", (D, H, A2), fan_in=D)

        self.wkv_down_DD2 = weight(rngs, "DD", (D, latent), fan_in=D)
        self.kv_norm = RMSNorm(size=latent, eps=EPS, letter="D2")
        self.wk_rope_DA2 = weight(rngs, "DA", (D, A2), fan_in=D)
        self.wk_D2HA = weight(rngs, "DHA", (latent, H, A), fan_in=latent)
        self.wv_D2HA3 = weight(rngs, "DHA", (latent, H, A3), fan_in=latent)
        self.wo_HA3D = weight(rngs, "HAD", (H, A3, D), fan_in=H * A3)

    def __call__(self, x_BLD: Float[Array, "B L D"], rows: Rows) -> Float[Array, "B L D"]:
        """Attention within the rows themselves, every head with keys and values of its own."""
        q_BLHA, q_rope_BLHA = self._queries(x_BLD, rows)
        latents_BLR, k_rope_BLA = self._latents(x_BLD, rows)
        k_BLHA = einsum("BLR,RHA->BLHA", latents_BLR, self.wk_D2HA[...])
        v_BLHA = einsum("BLR,RHA->BLHA", latents_BLR, self.wv_D2HA3[...])
        # kernels expect keys by head, so the shared rotary key is appended to each of them
        k_rope_BLHA = _for_each_head(k_rope_BLA, q_rope_BLHA.shape)
        # The sum of two products in a score is a single product of the concatenated vectors.
        q_BLHA = jnp.concatenate((q_BLHA, q_rope_BLHA), -1)
        k_BLHA = jnp.concatenate((k_BLHA, k_rope_BLHA), -1)
        o_BLHA = self.attend(
            q_BLHA, k_BLHA, v_BLHA, rows.positions_BL, rows.segments_BL, self.maths
        )
        return self._output(o_BLHA)

    def decode(
        self, x_BLD: Float[Array, "B L D"], rows: Rows, slots: dict[str, Array]
    ) -> tuple[Float[Array, "B L D"], dict[str, Array]]:
        """Attention to all tokens in the cache and to x itself.

        The weight from latents to keys is multiplied into the queries instead, and the one from latents to
        values into the result (§2.1.2): latents are read directly, by H query heads of width D2 + A2 that
        share a single key head.
        """
        q_BLHA, q_rope_BLHA = self._queries(x_BLD, rows)
        latents_BLR, k_rope_BLA = self._latents(x_BLD, rows)
        # the cache holds normed latents: D2 + A2 numbers per token, for all heads together
        latents_BTR = write("latents_BTR", slots["latents_BTR"], latents_BLR, rows.lengths_B)
        rope_keys_BTA = write("rope_keys_BTA", slots["rope_keys_BTA"], k_rope_BLA, rows.lengths_B)

        q_BLHA = q_BLHA * self.maths.scale
        q_rope_BLHA = q_rope_BLHA * self.maths.scale
        q_BLHR = einsum("BLHA,RHA->BLHR", q_BLHA, self.wk_D2HA[...])
        scores_BHLT = einsum("BLHR,BTR->BHLT", q_BLHR, latents_BTR, dtype=jnp.float32)
        # two products, not one as in training: concatenating would copy the whole cache
        scores_BHLT += einsum("BLHA,BTA->BHLT", q_rope_BLHA, rope_keys_BTA, dtype=jnp.float32)

        seen_BLT = cache_mask(rows.positions_BL, T=latents_BTR.shape[1], window=None)
        # MASKED is finite, so that a query that sees nothing (padding) does not give NaN
        scores_BHLT = jnp.where(seen_BLT[:, None], scores_BHLT, MASKED)
        p_BHLT = jax.nn.softmax(scores_BHLT, -1).astype(latents_BTR.dtype)
        o_BLHR = einsum("BHLT,BTR->BLHR", p_BHLT, latents_BTR)
        o_BLHA = einsum("BLHR,RHA->BLHA", o_BLHR, self.wv_D2HA3[...])
        return self._output(o_BLHA), {"latents_BTR": latents_BTR, "rope_keys_BTA": rope_keys_BTA}

    def facts(self) -> AttentionFacts:
        """Heads and widths in training, where every head has its own keys and values."""
        widths = {"qk_width": self.qk_width, "v_width": self.v_width}
        return AttentionFacts(heads=self.H, kv_heads=self.H, window=None, **widths)

    def slots(self, B: int, T: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a layer's cache slots for T tokens, shared by all heads."""
        return {"latents_BTR": (B, T, self.latent), "rope_keys_BTA": (B, T, self.A2)}

    def _queries(self, x_BLD: Array, rows: Rows) -> tuple[Array, Array]:
        """Queries for the keys, and rotated queries for the rotary key."""
        if self.query_latent:
            latents_BLR = self.q_norm(_narrow(x_BLD, self.wq_down_DD3[...]))
            # `Remat` names the latent: queries are cheap to recompute from it
            x_BLR = name(latents_BLR, "query")
            wq_RHA = self.wq_D3HA[...]
            wq_rope_RHA = self.wq_rope_D3HA2[...]
        else:
            x_BLR = x_BLD
            wq_RHA = self.wq_DHA[...]
            wq_rope_RHA = self.wq_rope_DHA2[...]
        q_BLHA = einsum("BLR,RHA->BLHA", x_BLR, wq_RHA)
        q_rope_BLHA = einsum("BLR,RHA->BLHA", x_BLR, wq_rope_RHA)
        return q_BLHA, rotate(q_rope_BLHA, rows.rotations[self.rope])

    def _latents(self, x_BLD: Array, rows: Rows) -> tuple[Array, Array]:
        """Normed latents and the rotated rotary key, as a cache holds them. They carry `Remat`'s names:
        keys and values are many times as large (70 times together in DeepSeek-V3) and cheap to recompute
        from them.
        """
        latents_BLR = self.kv_norm(_narrow(x_BLD, self.wkv_down_DD2[...]))
        latents_BLR = name(latents_BLR, "value")
        # `rotate` expects heads: the rotary key is a single one
        k_BLHA = _narrow(x_BLD, self.wk_rope_DA2[...])[:, :, None]
        k_BLA = rotate(k_BLHA, rows.rotations[self.rope])[:, :, 0]
        return latents_BLR, name(k_BLA, "key")

    def _output(self, o_BLHA: Array) -> Array:
        # the sum over heads on `tensor` is scattered over positions (BlD), not repeated on every device
        out_BLD = einsum("BLHA,HAD->BlD", o_BLHA, self.wo_HA3D[...])
        return name(out_BLD, "attention")


def _narrow(x_BLD: Array, w_DR: Weight) -> Array:
    """A product with a narrow result, which no head dimension shards: each device of `tensor` computes it for
    some positions, and the result is gathered.
    """
    x_BLD = shard(x_BLD, "BlD")
    narrow_BLR = einsum("BlD,DR->BlR", x_BLD, w_DR)
    return shard(narrow_BLR, "BLR")


def _for_each_head(k_BLA: Array, shape: tuple[int, ...]) -> Array:
    """The rotary key repeated for every head."""
    return jax.lax.broadcast_in_dim(k_BLA, shape, (0, 1, 3), out_sharding=spec("BLHA", shape))
