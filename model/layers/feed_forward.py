"""Gated feed-forward layer (Shazeer 2020, SwiGLU)."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from model.layers.weight import weight
from model.sharding import einsum


class FeedForward(nnx.Module):
    """w_down · (silu(w_gate · x) * w_up · x)."""

    def __init__(self, *, D: int, F: int, rngs: nnx.Rngs):
        self.w_gate_DF = weight(rngs, "DF", (D, F), fan_in=D)
        self.w_up_DF = weight(rngs, "DF", (D, F), fan_in=D)
        self.w_down_FD = weight(rngs, "FD", (F, D), fan_in=F)

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Hidden width F lies on `tensor`."""
        gate_BLF = jax.nn.silu(einsum("BLD,DF->BLF", x_BLD, self.w_gate_DF[...]))
        up_BLF = einsum("BLD,DF->BLF", x_BLD, self.w_up_DF[...])
        return einsum("BLF,FD->BLD", gate_BLF * up_BLF, self.w_down_FD[...])
