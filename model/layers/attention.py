"""Causal attention with grouped key/value heads (Ainslie et al. 2023) over packed rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from model.architecture import AttentionFacts
from model.cache import write
from model.execution import Execution, name
from model.kernels.attend import MASKED, Attend, Maths
from model.kernels.choose import attention_of
from model.layers.rope import rotate
from model.layers.rows import Rows
from model.layers.weight import bias, weight
from model.sharding import einsum, n_parts, platform, reshape, shard
from model.weights import Weight, mapped


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
        # the output's bias comes after the sum over heads, and so has the model's width
        biases = {"q": ("HA", (H, A)), "k": ("KA", (K, A)), "v": ("KA", (K, A)), "o": ("D", (D,))}
        for product in biased:
            letters, shape = biases[product]
            setattr(self, f"b{product}_{letters}", bias(letters, shape))
        if head_norm:
            self.q_norm = head_norm()
            self.k_norm = head_norm()

    def __call__(self, x_BLD: Float[Array, "B L D"], rows: Rows) -> Float[Array, "B L D"]:
        """Attention within the rows themselves (T = L)."""
        q_BLHA, k_BLKA, v_BLKA = self._project(x_BLD, rows)
        o_BLHA = self.attend(
            q_BLHA, k_BLKA, v_BLKA, rows.positions_BL, rows.segments_BL, self.maths
        )
        return self._output(o_BLHA)

    def decode(
        self, x_BLD: Float[Array, "B L D"], rows: Rows, slots: dict[str, Array]
    ) -> tuple[Float[Array, "B L D"], dict[str, Array]]:
        """Attention to all that the cache holds and to x itself, whose keys and values are appended to the
        cache.
        """
        q_BLHA, k_BLKA, v_BLKA = self._project(x_BLD, rows)
        k_BTKA = write("keys_BTKA", slots["keys_BTKA"], k_BLKA, rows.lengths_B)
        v_BTKA = write("values_BTKA", slots["values_BTKA"], v_BLKA, rows.lengths_B)
        seen_BLT = cache_mask(rows, T=k_BTKA.shape[1], window=self.maths.window)
        # no kernel: keys are told apart by slot, and a step of decoding has one query a row
        o_BLHA = attend_masked(q_BLHA, k_BTKA, v_BTKA, seen_BLT, self.maths)
        return self._output(o_BLHA), {"keys_BTKA": k_BTKA, "values_BTKA": v_BTKA}

    def facts(self) -> AttentionFacts:
        """What this layer computes with."""
        return AttentionFacts(
            self.H, self.K, qk_width=self.A, v_width=self.A, window=self.maths.window
        )

    def slots(self, B: int, T: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what one layer keeps of T tokens."""
        # heads that `tensor` does not divide are repeated (see `repeated`), in the cache too
        shape = (B, T, max(self.K, n_parts("K")), self.A)
        return {"keys_BTKA": shape, "values_BTKA": shape}

    def _project(self, x_BLD: Array, rows: Rows) -> tuple[Array, Array, Array]:
        wk_DKA = repeated(self.wk_DKA[...], "DKA")
        wv_DKA = repeated(self.wv_DKA[...], "DKA")
        q_BLHA = self._biased(einsum("BLD,DHA->BLHA", x_BLD, self.wq_DHA[...]), "q", "HA")
        k_BLKA = self._biased(einsum("BLD,DKA->BLKA", x_BLD, wk_DKA), "k", "KA")
        v_BLKA = self._biased(einsum("BLD,DKA->BLKA", x_BLD, wv_DKA), "v", "KA")
        # norms come before the rotation, as in every family that has both
        if hasattr(self, "q_norm"):
            q_BLHA = self.q_norm(q_BLHA)
            k_BLKA = self.k_norm(k_BLKA)
        if self.rope is not None:
            q_BLHA = rotate(q_BLHA, rows.rotations[self.rope])
            k_BLKA = rotate(k_BLKA, rows.rotations[self.rope])
        return name(q_BLHA, "query"), name(k_BLKA, "key"), name(v_BLKA, "value")

    def _biased(self, x: Array, product: str, letters: str) -> Array:
        bias = getattr(self, f"b{product}_{letters}", None)
        return x if bias is None else x + repeated(bias[...], letters)

    def _output(self, o_BLHA: Array) -> Array:
        # the sum over heads on `tensor` is scattered over positions (BlD), not repeated on every device
        out_BLD = self._biased(einsum("BLHA,HAD->BlD", o_BLHA, self.wo_HAD[...]), "o", "D")
        return name(out_BLD, "attention")


def check_heads(*, heads: int, kv_heads: int, head_width: int) -> None:
    """Query heads come in equal groups, and rotary positions turn pairs.

    Raises:
        ValueError: a rule is broken.
    """
    if heads % kv_heads:
        raise ValueError(
            f"heads={heads} is not a multiple of kv_heads={kv_heads}; choose equal groups"
        )
    if head_width % 2:
        raise ValueError(
            f"head_width={head_width} is odd; rotary positions turn pairs, choose an even width"
        )


def attend_of(execution: Execution) -> Attend:
    """The kernel for the platform of the mesh under which it is traced."""

    def attend(
        q_BLHA: Array,
        k_BLKA: Array,
        v_BLKA: Array,
        positions_BL: Array,
        segments_BL: Array,
        maths: Maths,
    ) -> Array:
        # asked while tracing: where a model is built there may be no mesh yet
        kernel = attention_of(execution.attention, execution.context, platform())
        return kernel(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, maths)

    return attend


def repeated(weight: Weight, letters: str) -> Weight:
    """Fewer key/value heads than `tensor`: each is repeated for the devices that share it, so that each
    computes one (HOUSE §2).
    """

    def for_each_device(x: Array, letters: str) -> Array:
        n, at = n_parts("K"), letters.find("K")
        if at < 0 or x.shape[at] % n == 0:  # the array has no such heads, or they divide
            return x
        return shard(jnp.repeat(x, n // x.shape[at], at), letters)

    return mapped(weight, letters, for_each_device)


def attend_masked(
    q_BLHA: Float[Array, "B L H A"],
    k_BTKA: Float[Array, "B T K A"],
    v_BTKA: Float[Array, "B T K A2"],
    mask_BLT: Bool[Array, "B L T"],
    maths: Maths,
) -> Float[Array, "B L H A2"]:
    """softmax(cap(scale · q·k)) · v over the positions that the mask allows, softmax in float32."""
    B, L, H, A = q_BLHA.shape
    K = k_BTKA.shape[2]
    # queries are scaled and not scores: L · A numbers instead of L · T
    q_BLKGA = reshape(q_BLHA * maths.scale, (B, L, K, H // K, A), "BLKGA")
    scores_BKGLT = einsum("BLKGA,BTKA->BKGLT", q_BLKGA, k_BTKA, dtype=jnp.float32)
    if maths.soft_cap is not None:
        scores_BKGLT = maths.soft_cap * jnp.tanh(scores_BKGLT / maths.soft_cap)
    # finite, so that a row that sees nothing (padding) gives numbers and not NaN
    scores_BKGLT = jnp.where(mask_BLT[:, None, None], scores_BKGLT, MASKED)
    p_BKGLT = jax.nn.softmax(scores_BKGLT, -1).astype(v_BTKA.dtype)
    o_BLKGA = einsum("BKGLT,BTKA->BLKGA", p_BKGLT, v_BTKA)
    return reshape(o_BLKGA, (B, L, H, v_BTKA.shape[-1]), "BLHA")


def cache_mask(rows: Rows, *, T: int, window: int | None) -> Bool[Array, "B L T"]:
    """Slot t of a cache holds position t: a position sees itself and the `window` - 1 before it, or all
    before it.
    """
    distance_BLT = rows.positions_BL[:, :, None] - jnp.arange(T)
    # slots that hold nothing yet are at later positions: they are hidden as the future is
    visible_BLT = distance_BLT >= 0
    return visible_BLT if window is None else visible_BLT & (distance_BLT < window)
