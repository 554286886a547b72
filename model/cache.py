"""Keys and values of the tokens read so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.sharding import local, shard, spec


class KVCache(NamedTuple):
    """Row b holds `lengths_B[b]` tokens in slots 0, 1, …; later slots are unused or stale and are never attended to."""

    keys_NBTKA: Float[Array, "N B T K A"]
    values_NBTKA: Float[Array, "N B T K A"]
    lengths_B: Int[Array, "B"]


def empty_cache(*, N: int, B: int, T: int, K: int, A: int, dtype: str) -> KVCache:
    """A cache for B rows of at most T tokens."""
    slots = [jnp.zeros((N, B, T, K, A), dtype, out_sharding=spec("NBTKA")) for _ in "kv"]
    return KVCache(*slots, lengths_B=jnp.zeros(B, jnp.int32, out_sharding=spec("B")))


def write(slots_BTKA: Float[Array, "B T K A"], new_BLKA: Float[Array, "B L K A"], lengths_B: Int[Array, "B"]) -> Float[Array, "B T K A"]:
    """Put L new entries of each row behind the `lengths_B` it holds; the caller sees to it that they fit into T."""

    def one_row(slots_TKA: Array, new_LKA: Array, length: Array) -> Array:
        return jax.lax.dynamic_update_slice(slots_TKA, new_LKA.astype(slots_TKA.dtype), (length, 0, 0))

    return local(jax.vmap(one_row), ("BTKA", "BTKA", "B"), "BTKA")(slots_BTKA, shard(new_BLKA, "BTKA"), lengths_B)
