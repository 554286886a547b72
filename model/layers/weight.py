"""Initial values of weights and biases."""

import jax
import jax.numpy as jnp
from flax import nnx

from model.sharding import spec


def weight(rngs: nnx.Rngs, letters: str, shape: tuple[int, ...], *, fan_in: int) -> nnx.Param:
    """A normal weight of variance 1 / fan_in, made in its layout at rest: without one JAX would draw it
    replicated.
    """
    layout = spec(letters, shape, at_rest=True)
    normal = jax.random.normal(rngs.params(), shape, out_sharding=layout)
    return nnx.Param(normal * fan_in**-0.5)


def bias(letters: str, shape: tuple[int, ...]) -> nnx.Param:
    """Zeros, made in their layout at rest."""
    layout = spec(letters, shape, at_rest=True)
    return nnx.Param(jnp.zeros(shape, out_sharding=layout))
