"""The cache of decoding: keys and values, or latents, of the tokens read so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model.exits import local
from model.sharding import letters_of, shard, spec


class KVCache(NamedTuple):
    """Row b holds `lengths_B[b]` tokens, token i in slot i. Later slots are unused or stale, and are never
    attended to, since a position sees no slot after its own.

    `slots[stack][name]` are stacked over layers, such as keys_NBTKA; their names end in their letters.
    """

    slots: dict[str, dict[str, Array]]
    lengths_B: Int[Array, "B"]

    def reorder(self, rows_B: Int[Array, "B2"]) -> "KVCache":
        """Row b of the result is row `rows_B[b]`. A row may occur several times or not at all, and there may
        be more rows than before: for several samples of a prompt, or for surviving beams.
        """
        # each slot's layout is read from its name, so this serves every architecture
        slots = {
            stack: {name: take_rows(x, rows_B, _layout(name)) for name, x in entries.items()}
            for stack, entries in self.slots.items()
        }
        return KVCache(slots, take_rows(self.lengths_B, rows_B, "B"))

    def rollback(self, lengths_B: Int[Array, "B"]) -> "KVCache":
        """Each row as it was when it held `lengths_B` tokens; a row that holds fewer stays as it is.

        Nothing is erased: the next tokens overwrite the slots. This also holds in layers with a window, which
        keep the slots of all tokens.
        """
        return self._replace(lengths_B=jnp.minimum(self.lengths_B, shard(lengths_B, "B")))


def _layout(name: str) -> str:
    """`keys_NBTKA` → `.BTKA`: the slots of all layers are on every pipeline stage, so N is not sharded."""
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
    """One layer's slots called `name`, such as keys_BTKA, with L new entries of each row written after the
    `lengths_B` entries that it holds. Entries for which no slot is left are dropped.
    """
    letters = letters_of(name)
    T, L = slots.shape[1], new.shape[1]

    def one_row(slots: Array, new: Array, length: Array) -> Array:
        # dynamic_update_slice moves a block that does not fit to the left, over entries in use. So the block
        # is moved here on purpose, and its first `n_kept` entries are what the slots hold already.
        start = jnp.minimum(length, T - L)
        n_kept = length - start
        present = jax.lax.dynamic_slice_in_dim(slots, start, L)
        is_kept = (jnp.arange(L) < n_kept).reshape(L, *(1 for _ in slots.shape[1:]))
        block = jnp.where(is_kept, present, jnp.roll(new.astype(slots.dtype), n_kept, axis=0))
        return jax.lax.dynamic_update_slice_in_dim(slots, block, start, axis=0)

    # Slices that start elsewhere in every row are gathers and scatters, which need stated layouts under
    # explicit axes; on each device's own rows they do not.
    return local(jax.vmap(one_row), (letters, letters, "B"), letters)(
        slots, shard(new, letters), lengths_B
    )


def cache_mask(
    positions_BL: Int[Array, "B L"], *, T: int, window: int | None
) -> Bool[Array, "B L T"]:
    """Which slots of a cache a position sees: itself and the `window` - 1 before it, or all before it. Slot t
    holds position t.
    """
    distance_BLT = positions_BL[:, :, None] - jnp.arange(T)
    # slots that are still empty belong to later positions, so the causal mask hides them too
    visible_BLT = distance_BLT >= 0
    return visible_BLT if window is None else visible_BLT & (distance_BLT < window)
