"""The rows of a batch that is being written: who is in it, and what each has written so far."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Float, Int

from model.cache import KVCache, take_rows
from model.exits import local
from model.sharding import ALPHABET, shard


class Generating(NamedTuple):
    """The state of all rows.

    Attributes:
        index_B: Which stream of random numbers a row draws from.
        room_B: How many tokens it may make; 0 for a row that only fills the batch.
        n_B: How many it has made, or was given by `extend`.
        new_BL: These tokens; -1 behind them.
        logp_BL: The log-probability of each: under the model's softmax over its whole vocabulary, before
        `Limits.allowed_V`, temperature and filters, so that a trainer finds the same. 0 behind them.
        chosen_BL: True for tokens that the model chose, False for those that were forced.
        last_B: The token that is read next; it is not in the cache yet.
        finished_B: Whether the row has made its last token.
        cache: Keys and values of all tokens before the last.
    """

    index_B: Int[Array, "B"]
    room_B: Int[Array, "B"]
    n_B: Int[Array, "B"]
    new_BL: Int[Array, "B L"]
    logp_BL: Float[Array, "B L"]
    chosen_BL: Bool[Array, "B L"]
    last_B: Int[Array, "B"]
    finished_B: Bool[Array, "B"]
    cache: KVCache


class Written(NamedTuple):
    """The new tokens of a row, and of each its log-probability and whether the model chose it, as in
    `Generating`.
    """

    tokens: list[int]
    logp: list[float]
    chosen: list[bool]


def repeat(rows: Generating, *, n_prompts: int, samples: int) -> Generating:
    """`samples` rows of each of the first `n_prompts`, one after the other, so that the prompt was read once
    for all of them. Sample s of prompt p has index p · samples + s.
    """
    n = n_prompts * samples
    index_B = np.arange(divisible(n), dtype=np.int32)
    # what fills up the mesh is a finished copy of the first row
    from_B = np.where(index_B < n, index_B // samples, 0).astype(np.int32)
    return _repeat(rows, from_B, index_B, index_B < n)


def admit(running: Generating, joining: Generating, slots: Sequence[int]) -> Generating:
    """`running`, whose rows at `slots` are the first rows of `joining`; what stood there has left. Both must
    have the same room (see `prefill`). `running` is donated.

    Raises:
        ValueError: they have not, or there are more slots than rows to join.
    """
    if _row_shapes(running) != _row_shapes(joining):
        remedy = "give prefill the same max_tokens and cache_tokens for both"
        raise ValueError(
            f"rows can only join a batch whose rows and cache are as long as theirs; {remedy}"
        )
    n_rows = len(running.n_B)
    n_joining = len(joining.n_B)
    if len(slots) > n_joining or not all(0 <= slot < n_rows for slot in slots):
        raise ValueError(f"slots={list(slots)} must be at most {n_joining}, each below {n_rows}")
    from_B = np.full(n_rows, -1, np.int32)  # the row of `joining` that comes here; -1 = none
    from_B[list(slots)] = np.arange(len(slots))
    return _admit(running, joining, from_B)


def read(rows: Generating, n: int) -> list[Written]:
    """What the first `n` rows have written so far."""
    n_B = on_host(rows.n_B)
    new_BL = on_host(rows.new_BL)
    logp_BL = on_host(rows.logp_BL)
    chosen_BL = on_host(rows.chosen_BL)
    return [
        Written(
            new_BL[b, : n_B[b]].tolist(),
            logp_BL[b, : n_B[b]].tolist(),
            chosen_BL[b, : n_B[b]].tolist(),
        )
        for b in range(n)
    ]


def put(
    rows: Generating,
    tokens_BL: Array,
    logp_BL: Array,
    counts_B: Array,
    *,
    chosen: bool,
) -> Generating:
    """Rows with the first `counts_B` of these tokens behind what they have written."""

    def one_row(
        new: Array,
        logp: Array,
        is_chosen: Array,
        n: Array,
        tokens: Array,
        logps: Array,
        count: Array,
    ) -> tuple[Array, Array, Array]:
        offset = jnp.arange(len(tokens))
        # tokens behind the first `count` are sent beyond the end, where they are dropped
        place = jnp.where(offset < count, n + offset, len(new))
        return (
            new.at[place].set(tokens, mode="drop"),
            logp.at[place].set(logps, mode="drop"),
            is_chosen.at[place].set(chosen, mode="drop"),
        )

    # scattering into a divided array would have to state layouts; each device has whole rows
    run = local(jax.vmap(one_row), ("B.", "B.", "B.", "B", "B.", "B.", "B"), ("B.", "B.", "B."))
    new_BL, all_logp_BL, chosen_BL = run(
        rows.new_BL,
        rows.logp_BL,
        rows.chosen_BL,
        rows.n_B,
        tokens_BL,
        logp_BL,
        counts_B,
    )
    return rows._replace(
        n_B=rows.n_B + counts_B, new_BL=new_BL, logp_BL=all_logp_BL, chosen_BL=chosen_BL
    )


def on_host(x: Array) -> np.ndarray:
    """All of an array, whose rows may lie on other hosts."""
    # tiled: the parts of each host are joined along rows, not stacked by host
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def divisible(n_rows: int) -> int:
    """The next number of rows that the mesh divides."""
    # rows are divided over all of B's axes, so their number must be a multiple of their product
    sizes = jax.sharding.get_abstract_mesh().shape
    n = math.prod(sizes.get(axis, 1) for axis in ALPHABET["B"].in_use)
    return -(-n_rows // n) * n


def _row_shapes(rows: Generating) -> list[tuple[int, ...]]:
    """What one row takes: the width of its tokens, and its slots in all layers, which are [N, B, T, …]."""
    slots = jax.tree.leaves(rows.cache.slots)
    return [rows.new_BL.shape[1:], *((x.shape[0], *x.shape[2:]) for x in slots)]


def _take(rows: Generating, from_B: Array) -> Generating:
    """Row b of the result is row `from_B[b]`."""
    fields = {
        name: take_rows(x, from_B, "B" + "." * (x.ndim - 1))
        for name, x in rows._asdict().items()
        if name != "cache"
    }
    return Generating(**fields, cache=rows.cache.reorder(from_B))


@jax.jit
def _repeat(
    rows: Generating,
    from_B: Array,
    index_B: Array,
    is_sample_B: Array,
) -> Generating:
    is_sample_B = shard(is_sample_B, "B")
    copies = _take(rows, shard(from_B, "B"))
    # all else of a row is the same for each of its samples, as nothing is written yet
    return copies._replace(
        index_B=shard(index_B, "B"),
        room_B=jnp.where(is_sample_B, copies.room_B, 0),
        finished_B=copies.finished_B | ~is_sample_B,
    )


@partial(jax.jit, donate_argnames=("running",))
def _admit(running: Generating, joining: Generating, from_B: Array) -> Generating:
    """Row b is row `from_B[b]` of `joining`, or stays where that is negative."""
    from_B = shard(from_B, "B")
    # a row for every slot, also where none joins: shapes must not depend on how many do
    candidates = _take(joining, jnp.maximum(from_B, 0))
    joins_B = from_B >= 0

    def chosen(present: Array, candidate: Array, axis: int = 0) -> Array:
        others = [i for i in range(present.ndim) if i != axis]
        return jnp.where(jnp.expand_dims(joins_B, others), candidate, present)

    # slots are stacked over layers: [N, B, …]
    slots = jax.tree.map(partial(chosen, axis=1), running.cache.slots, candidates.cache.slots)
    lengths_B = chosen(running.cache.lengths_B, candidates.cache.lengths_B)
    fields = {
        name: chosen(x, getattr(candidates, name))
        for name, x in running._asdict().items()
        if name != "cache"
    }
    return Generating(**fields, cache=KVCache(slots, lengths_B))
