"""What a model keeps of the tokens read so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model.exits import local
from model.sharding import letters_of, shard, spec


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


def take_rows(x: jax.Array, rows_B: jax.Array, letters: str) -> jax.Array:
    """Rows of x, which has `letters`, along its B: some, several times, or in another order."""
    axis = letters.index("B")
    shape = (*x.shape[:axis], len(rows_B), *x.shape[axis + 1 :])
    rows = (slice(None),) * axis + (rows_B,)
    return x.at[rows].get(mode="clip", out_sharding=spec(letters, shape))


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


def cache_mask(
    positions_BL: Int[Array, "B L"], *, T: int, window: int | None
) -> Bool[Array, "B L T"]:
    """Slot t of a cache holds position t: a position sees itself and the `window` - 1 before it, or all
    before it.
    """
    distance_BLT = positions_BL[:, :, None] - jnp.arange(T)
    # slots that hold nothing yet are at later positions: they are hidden as the future is
    visible_BLT = distance_BLT >= 0
    return visible_BLT if window is None else visible_BLT & (distance_BLT < window)
