"""Causal attention with grouped key/value heads (Ainslie et al. 2023) over packed rows."""

from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, Float

from model.architecture import AttentionFacts
from model.cache import cache_mask, write
from model.execution import name
from model.kernels.attend import Attend, Maths
from model.kernels.plain import attend_masked
from model.layers.rope import rotate
from model.layers.rows import Rows
from model.layers.weight import add_bias, bias, repeated, weight
from model.sharding import einsum, n_parts


class Attention(nnx.Module):
    """Queries of H heads read keys and values of K heads; H is a multiple of K.

    `rope` names the rotations of the rows that turn queries and keys; None turns nothing. `window` is how
    many positions back, itself counted, a position sees. `biased` lists the products among q, k, v, o that
    have a bias; `head_norm` makes a norm over A for queries and keys. `attend` is the kernel.
    """

    def __init__(
        self,
        *,
        D: int,
        H: int,
        K: int,
        A: int,
        attend: Attend,
        rngs: nnx.Rngs,
        rope: str | None = "rope",
        scale: float | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        biased: str = "",
        head_norm: Callable[[], nnx.Module] | None = None,
    ):
        self.H, self.K, self.A = H, K, A
        self.rope, self.attend = rope, attend
        self.maths = Maths(A**-0.5 if scale is None else scale, window, soft_cap)
        self.wq_DHA = weight(rngs, "DHA", (D, H, A), fan_in=D)
        self.wk_DKA = weight(rngs, "DKA", (D, K, A), fan_in=D)
        self.wv_DKA = weight(rngs, "DKA", (D, K, A), fan_in=D)
        self.wo_HAD = weight(rngs, "HAD", (H, A, D), fan_in=H * A)
        self.bq_HA = bias("HA", (H, A)) if "q" in biased else None
        self.bk_KA = bias("KA", (K, A)) if "k" in biased else None
        self.bv_KA = bias("KA", (K, A)) if "v" in biased else None
        # added after the sum over heads, and so of the model's width
        self.bo_D = bias("D", (D,)) if "o" in biased else None
        self.q_norm = head_norm() if head_norm else None
        self.k_norm = head_norm() if head_norm else None

    def __call__(self, x_BLD: Float[Array, "B L D"], rows: Rows) -> Float[Array, "B L D"]:
        """Attention within the rows themselves (T = L)."""
        q_BLHA, k_BLKA, v_BLKA = self._project(x_BLD, rows)
        # softmax(scale · q·k) · v over the earlier positions of a document; plain.py is the shortest form
        where = rows.positions_BL, rows.segments_BL
        o_BLHA = self.attend(q_BLHA, k_BLKA, v_BLKA, *where, self.maths)
        return self._output(o_BLHA)

    def decode(
        self, x_BLD: Float[Array, "B L D"], rows: Rows, slots: dict[str, Array]
    ) -> tuple[Float[Array, "B L D"], dict[str, Array]]:
        """Attention to all that the cache holds and to x, whose keys and values are appended to it."""
        q_BLHA, k_BLKA, v_BLKA = self._project(x_BLD, rows)
        k_BTKA = write("keys_BTKA", slots["keys_BTKA"], k_BLKA, rows.lengths_B)
        v_BTKA = write("values_BTKA", slots["values_BTKA"], v_BLKA, rows.lengths_B)
        seen_BLT = cache_mask(rows.positions_BL, T=k_BTKA.shape[1], window=self.maths.window)
        # no other kernel: keys are told apart by slot, and a step of decoding has one query a row
        o_BLHA = attend_masked(q_BLHA, k_BTKA, v_BTKA, seen_BLT, self.maths)
        return self._output(o_BLHA), {"keys_BTKA": k_BTKA, "values_BTKA": v_BTKA}

    def facts(self) -> AttentionFacts:
        """What this layer computes with."""
        window = self.maths.window
        return AttentionFacts(self.H, self.K, qk_width=self.A, v_width=self.A, window=window)

    def slots(self, B: int, T: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what one layer keeps of T tokens."""
        # heads that `tensor` does not divide are repeated, in the cache too
        shape = (B, T, max(self.K, n_parts("K")), self.A)
        return {"keys_BTKA": shape, "values_BTKA": shape}

    def _project(self, x_BLD: Array, rows: Rows) -> tuple[Array, Array, Array]:
        wk_DKA = repeated(self.wk_DKA[...], "DKA")
        wv_DKA = repeated(self.wv_DKA[...], "DKA")
        q_BLHA = add_bias(einsum("BLD,DHA->BLHA", x_BLD, self.wq_DHA[...]), self.bq_HA, "HA")
        k_BLKA = add_bias(einsum("BLD,DKA->BLKA", x_BLD, wk_DKA), self.bk_KA, "KA")
        v_BLKA = add_bias(einsum("BLD,DKA->BLKA", x_BLD, wv_DKA), self.bv_KA, "KA")
        # norms come before the rotation, as in every family that has both
        if self.q_norm is not None:
            q_BLHA = self.q_norm(q_BLHA)
            k_BLKA = self.k_norm(k_BLKA)
        if self.rope is not None:
            q_BLHA = rotate(q_BLHA, rows.rotations[self.rope])
            k_BLKA = rotate(k_BLKA, rows.rotations[self.rope])
        return name(q_BLHA, "query"), name(k_BLKA, "key"), name(v_BLKA, "value")

    def _output(self, o_BLHA: Array) -> Array:
        # the sum over heads on `tensor` is scattered over positions (BlD), not repeated on every device
        out_BLD = einsum("BLHA,HAD->BlD", o_BLHA, self.wo_HAD[...])
        return name(add_bias(out_BLD, self.bo_D, "D"), "attention")
