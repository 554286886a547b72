"""How a weight is born."""

import jax
import jax.numpy as jnp
from flax import nnx

from model.sharding import spec


def weight(rngs: nnx.Rngs, letters: str, shape: tuple[int, ...], *, fan_in: int) -> nnx.Param:
    """A normal weight of variance 1 / fan_in, born in its layout at rest."""
    return nnx.Param(
        jax.random.normal(rngs.params(), shape, out_sharding=spec(letters, shape, at_rest=True))
        * fan_in**-0.5
    )


def bias(letters: str, shape: tuple[int, ...]) -> nnx.Param:
    """Zeros, born in their layout at rest."""
    return nnx.Param(jnp.zeros(shape, out_sharding=spec(letters, shape, at_rest=True)))
