"""What a model keeps of the tokens read so far."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from model.sharding import local, shard


class KVCache(NamedTuple):
    """Row b holds `lengths_B[b]` tokens in slots 0, 1, …; later slots are unused or stale and are never
    attended to.

    `slots[stack][name]` are stacked over layers, such as keys_NBTKA; their names end in their letters.
    """

    slots: dict[str, dict[str, Array]]
    lengths_B: Int[Array, "B"]


def write(
    slots_BTKA: Float[Array, "B T *rest"], new_BLKA: Float[Array, "B L *rest"], lengths_B: Int[Array, "B"]
) -> Float[Array, "B T *rest"]:
    """Put L new entries of each row behind the `lengths_B` it holds; the caller sees to it that they fit
    into T.

    An entry is [K, A] (keys, values) or [R] (latents).
    """
    letters = "BTKA" if slots_BTKA.ndim == 4 else "BTR"

    def one_row(slots: Array, new: Array, length: Array) -> Array:
        return jax.lax.dynamic_update_slice(
            slots, new.astype(slots.dtype), (length, *(0 for _ in slots.shape[1:]))
        )

    return local(jax.vmap(one_row), (letters, letters, "B"), letters)(
        slots_BTKA, shard(new_BLKA, letters), lengths_B
    )
