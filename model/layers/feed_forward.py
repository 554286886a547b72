"""Feed-forward layers: gated (Shazeer 2020) and plain."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from model.architecture import ExpertFacts
from model.execution import name
from model.layers.rows import Rows
from model.layers.weight import bias, weight
from model.sharding import einsum


def gelu_tanh(x: Array) -> Array:
    """x · Φ(x) by its approximation with tanh (Hendrycks and Gimpel 2016), which GPT-2 and Gemma were
    trained with.
    """
    return jax.nn.gelu(x, approximate=True)


class FeedForward(nnx.Module):
    """w_down · (activation(w_gate · x) * w_up · x); SwiGLU with silu, GeGLU with gelu."""

    def __init__(
        self, *, D: int, F: int, rngs: nnx.Rngs, activation: Callable[[Array], Array] = jax.nn.silu
    ):
        self.activation = activation
        # Gate and up are separate matrices: sharded along `tensor`, a fused one would have gate on some
        # devices and up on others.
        self.w_gate_DF = weight(rngs, "DF", (D, F), fan_in=D)
        self.w_up_DF = weight(rngs, "DF", (D, F), fan_in=D)
        self.w_down_FD = weight(rngs, "FD", (F, D), fan_in=F)

    def __call__(
        self, x_BLD: Float[Array, "B L D"], rows: Rows
    ) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
        """The result, and no auxiliary sums; F is sharded over `tensor`."""
        gate_BLF = einsum("BLD,DF->BLF", x_BLD, self.w_gate_DF[...])
        gate_BLF = name(gate_BLF, "gate")
        up_BLF = einsum("BLD,DF->BLF", x_BLD, self.w_up_DF[...])
        up_BLF = name(up_BLF, "up")
        # without a name for `Remat`, as it is cheap to recompute
        hidden_BLF = self.activation(gate_BLF) * up_BLF
        # the sum over `tensor` is scattered over positions (BlD), instead of repeated on every device
        out_BLD = einsum("BLF,FD->BlD", hidden_BLF, self.w_down_FD[...])
        return name(out_BLD, "feed_forward"), {}

    def facts(self) -> ExpertFacts:
        """One expert, which every token passes."""
        return ExpertFacts()


class PlainFeedForward(nnx.Module):
    """w_down · activation(w_up · x + b_up) + b_down, as in GPT-2."""

    def __init__(self, *, D: int, F: int, rngs: nnx.Rngs, activation: Callable[[Array], Array]):
        self.activation = activation
        self.w_up_DF = weight(rngs, "DF", (D, F), fan_in=D)
        self.b_up_F = bias("F", (F,))
        self.w_down_FD = weight(rngs, "FD", (F, D), fan_in=F)
        self.b_down_D = bias("D", (D,))

    def __call__(
        self, x_BLD: Float[Array, "B L D"], rows: Rows
    ) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
        """The result, and no auxiliary sums; F is sharded over `tensor`."""
        up_BLF = einsum("BLD,DF->BLF", x_BLD, self.w_up_DF[...])
        up_BLF = name(up_BLF + self.b_up_F[...], "up")
        hidden_BLF = self.activation(up_BLF)
        out_BLD = einsum("BLF,FD->BlD", hidden_BLF, self.w_down_FD[...])
        # after the sum over F on `tensor`, which would count it once a device
        out_BLD = out_BLD + self.b_down_D[...]
        return name(out_BLD, "feed_forward"), {}

    def facts(self) -> ExpertFacts:
        """One expert, which every token passes."""
        return ExpertFacts()
