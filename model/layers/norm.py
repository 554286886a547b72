"""Normalisation over the last dimension, in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """x / rms(x) · (offset + scale) over `letter` (Zhang and Sennrich 2019); the offset is 1 in Gemma, whose
    scales are stored minus 1.
    """

    def __init__(self, *, size: int, eps: float, letter: str = "D", offset: float = 0.0):
        self.eps = eps
        self.offset = offset
        self.letter = letter
        # the attribute is the parameter's name, whose last letters are its layout
        setattr(self, f"scale_{letter}", nnx.Param(jnp.full(size, 1.0 - offset)))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Computed in float32, returned in the dtype of x."""
        # its name ends in a letter that this module was given
        scale = getattr(self, f"scale_{self.letter}")[...]
        wide = x.astype(jnp.float32)
        wide = _of_unit_size(wide, self.eps)
        if self.offset:
            # The sum is in float32: near 1, bfloat16 would keep only 8 bits of what was learned.
            factor = self.offset + scale.astype(jnp.float32)
            return (wide * factor).astype(x.dtype)
        return wide.astype(x.dtype) * scale.astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / deviation · scale + bias (Ba et al. 2016)."""

    def __init__(self, *, size: int, eps: float):
        self.eps = eps
        self.scale_D = nnx.Param(jnp.ones(size))
        self.bias_D = nnx.Param(jnp.zeros(size))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Computed in float32, returned in the dtype of x."""
        wide = x.astype(jnp.float32)
        # the variance of what is centred: that of E[x²] - E[x]² would lose all bits where the mean is large
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = _of_unit_size(wide, self.eps)
        scale_D = self.scale_D[...].astype(x.dtype)
        bias_D = self.bias_D[...].astype(x.dtype)
        return wide.astype(x.dtype) * scale_D + bias_D


def _of_unit_size(wide: Array, eps: float) -> Array:
    """x / rms(x) over the last dimension; `eps` keeps a vector of zeros what it is."""
    mean_square = jnp.mean(wide * wide, -1, keepdims=True)
    return wide * jax.lax.rsqrt(mean_square + eps)
