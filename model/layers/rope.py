"""Rotary positions (Su et al. 2021), in the half-split layout of Hugging Face checkpoints."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotations(positions_BL: Int[Array, "B L"], *, A: int, theta: float) -> Float[Array, "B L A2 2"]:
    """Cosine and sine of every position for the A/2 frequencies theta^(-2i/A); float32."""
    frequencies_A2 = theta ** -(jnp.arange(0, A, 2, dtype=jnp.float32) / A)
    angles_BLA2 = positions_BL[..., None].astype(jnp.float32) * frequencies_A2
    return jnp.stack([jnp.cos(angles_BLA2), jnp.sin(angles_BLA2)], -1)


def rotate(x: Float[Array, "B L H A"], rotations_BLA2: Float[Array, "B L A2 2"]) -> Float[Array, "B L H A"]:
    """Turn each pair (x[i], x[i + A/2]) of a head by its position's angle."""
    cos, sin = (rotations_BLA2[:, :, None, :, i].astype(x.dtype) for i in (0, 1))
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)
