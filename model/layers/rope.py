"""Rotary positions (Su et al. 2021), in the half-split layout of Hugging Face checkpoints."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import BaseModel, PositiveFloat, model_validator

from model.layers.rope_scaling import Scaling, YaRN


class Rope(BaseModel, frozen=True, extra="forbid", strict=True):
    """Frequencies theta^(-2i/A), stretched for longer contexts by `scaling`."""

    theta: PositiveFloat = 10_000.0
    scaling: Scaling | None = None

    @model_validator(mode="after")
    def _frequencies_differ(self) -> "Rope":
        # YaRN divides by the logarithm of theta
        if self.theta == 1 and isinstance(self.scaling, YaRN):
            raise ValueError(
                "theta=1.0 makes all frequencies equal, which yarn cannot scale; raise it"
            )
        return self

    def rotations(self, positions_BL: Int[Array, "B L"], A: int) -> Float[Array, "B L A2 2"]:
        """Cosine and sine of every position for the A/2 frequencies; float32."""
        exponents_A2 = jnp.arange(0, A, 2, dtype=jnp.float32) / A
        frequencies_A2 = self.theta**-exponents_A2
        factor = 1.0
        if self.scaling is not None:
            frequencies_A2 = self.scaling.stretch(frequencies_A2, theta=self.theta, A=A)
            factor = self.scaling.factor_of_tables()
        # float32: near 1,000, bfloat16 positions have steps of 4
        positions_BL1 = positions_BL[..., None].astype(jnp.float32)
        angles_BLA2 = positions_BL1 * frequencies_A2
        cos_BLA2 = jnp.cos(angles_BLA2)
        sin_BLA2 = jnp.sin(angles_BLA2)
        tables_BLA2 = jnp.stack([cos_BLA2, sin_BLA2], -1)
        return tables_BLA2 if factor == 1.0 else tables_BLA2 * factor


def rotate(
    x: Float[Array, "B L H A"], rotations_BLA2: Float[Array, "B L A2 2"]
) -> Float[Array, "B L H A"]:
    """Rotate each pair (x[i], x[i + A/2]) of a head by the angle of its position and frequency."""
    tables_BLA2 = rotations_BLA2[:, :, None].astype(x.dtype)  # the same for every head
    cos = tables_BLA2[..., 0]
    sin = tables_BLA2[..., 1]
    # pairs are in halves, which are contiguous; neighbouring pairs would be read with a stride
    low, high = jnp.split(x, 2, axis=-1)
    turned_low = low * cos - high * sin
    turned_high = high * cos + low * sin
    return jnp.concatenate([turned_low, turned_high], -1)
