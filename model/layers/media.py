"""Encoded image patches and sound frames among the embeddings of a row."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from model.exits import local
from model.sharding import axes_of, shard


def put_media(
    x_BLD: Float[Array, "B L D"], features_BJD: Float[Array, "B J D"], slot_BJ: Int[Array, "B J"]
) -> Float[Array, "B L D"]:
    """The embeddings x, laid out `BlD`, with feature j of a row in place of position `slot_BJ[b, j]`.

    A slot of -1 is unused. No two features of a row may have the same slot.
    """
    letter, axes = _length(x_BLD.shape[1])

    def on_device(x_BLD: Array, features_BJD: Array, slot_BJ: Array) -> Array:
        B, L = x_BLD.shape[:2]
        J = slot_BJ.shape[1]
        first = lax.axis_index(axes) * L if axes else 0
        local_slot_BJ = slot_BJ - first
        is_here_BJ = (slot_BJ >= 0) & (local_slot_BJ >= 0) & (local_slot_BJ < L)
        # mode="drop" ignores index L, which is out of bounds; a negative index would count from the end
        index_BJ = jnp.where(is_here_BJ, local_slot_BJ, L)
        # The feature of each position, -1 for none. Features are then gathered: scattering them into x would
        # have a more expensive gradient, as JAX must assume that indices repeat.
        rows_B = jnp.arange(B)[:, None]
        source_BL = jnp.full((B, L), -1).at[rows_B, index_BJ].set(jnp.arange(J), mode="drop")
        # a position without a feature reads feature 0, and then keeps its embedding
        readable_BL = jnp.maximum(source_BL, 0)
        taken_BLD = jnp.take_along_axis(features_BJD, readable_BL[..., None], axis=1)
        return jnp.where(source_BL[..., None] >= 0, taken_BLD, x_BLD)

    laid_out = f"B{letter}D"
    # J is never sharded: every device picks the patches of its positions from all of them
    features_BJD = shard(features_BJD, "BJD")
    slot_BJ = shard(slot_BJ, "BJ")
    on_devices = local(on_device, (laid_out, "BJD", "BJ"), laid_out)
    return on_devices(x_BLD, features_BJD, slot_BJ)


def _length(L: int) -> tuple[str, tuple[str, ...]]:
    """The letter and the mesh axes of L positions laid out by `l`; if `l` does not divide them, they are laid
    out by `L`, or not sharded (".").
    """
    axes = axes_of("l", L)
    letter = next((letter for letter in "lL" if axes_of(letter) == axes), ".")
    return letter, axes
