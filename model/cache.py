"""What a model keeps of the tokens read so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.sharding import letters_of, local, shard, take_rows


class KVCache(NamedTuple):
    """Row b holds `lengths_B[b]` tokens in slots 0, 1, …; later slots are unused or stale and are never
    attended to: token i lies in slot i, and a position sees no slot behind its own.

    `slots[stack][name]` are stacked over layers, such as keys_NBTKA; their names end in their letters.
    """

    slots: dict[str, dict[str, Array]]
    lengths_B: Int[Array, "B"]

    def reorder(self, rows_B: Int[Array, "B2"]) -> "KVCache":
        """Row b of the result is row `rows_B[b]`. A row may come several times or not at all, and there may
        be more rows than before: samples of one prompt, the beams that survive.
        """
        # names of slots are their layouts, so any architecture's are moved alike
        slots = {
            stack: {name: take_rows(x, rows_B, _layout(name)) for name, x in entries.items()}
            for stack, entries in self.slots.items()
        }
        return KVCache(slots, take_rows(self.lengths_B, rows_B, "B"))

    def rollback(self, lengths_B: Int[Array, "B"]) -> "KVCache":
        """Each row as it was when it held `lengths_B` tokens; a row that holds fewer stays as it is.

        Nothing is erased: what comes next overwrites the slots, also those of layers that see a window only,
        as they too keep every token.
        """
        return self._replace(lengths_B=jnp.minimum(self.lengths_B, shard(lengths_B, "B")))


def _layout(name: str) -> str:
    """`keys_NBTKA` → `.BTKA`: every stage of a pipeline holds the slots of all layers."""
    return letters_of(name).replace("N", ".")


def write(
    name: str,
    slots: Float[Array, "B T *rest"],
    new: Float[Array, "B L *rest"],
    lengths_B: Int[Array, "B"],
) -> Float[Array, "B T *rest"]:
    """One layer's slots called `name`, such as keys_BTKA, with L new entries of each row behind the
    `lengths_B` that it holds. Entries for which there is no slot left are dropped.
    """
    letters = letters_of(name)
    T, L = slots.shape[1], new.shape[1]

    def one_row(slots: Array, new: Array, length: Array) -> Array:
        # dynamic_update_slice would move a block that does not fit to the left, over entries in use. Here the
        # block is moved on purpose, and its first `n_kept` entries are what the slots hold already.
        start = jnp.minimum(length, T - L)
        n_kept = length - start
        present = jax.lax.dynamic_slice_in_dim(slots, start, L)
        is_kept = (jnp.arange(L) < n_kept).reshape(L, *(1 for _ in slots.shape[1:]))
        block = jnp.where(is_kept, present, jnp.roll(new.astype(slots.dtype), n_kept, axis=0))
        return jax.lax.dynamic_update_slice_in_dim(slots, block, start, axis=0)

    # slices that begin elsewhere in every row are gathers and scatters, whose layouts explicit
    # axes would want stated; among a device's own rows there is nothing to state
    return local(jax.vmap(one_row), (letters, letters, "B"), letters)(
        slots, shard(new, letters), lengths_B
    )
