"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """x / rms(x) · scale, with the mean square in float32."""

    def __init__(self, *, D: int, eps: float):
        self.eps = eps
        self.scale_D = nnx.Param(jnp.ones(D))

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The same dtype comes out as goes in."""
        wide_BLD = x_BLD.astype(jnp.float32)
        inverse_BL = jax.lax.rsqrt(jnp.mean(wide_BLD * wide_BLD, -1, keepdims=True) + self.eps)
        return (wide_BLD * inverse_BL).astype(x_BLD.dtype) * self.scale_D[...].astype(x_BLD.dtype)
