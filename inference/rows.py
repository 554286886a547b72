"""The rows of a batch during generation: their state, and how rows are added, copied and read."""

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
        index_B: The row's index, from which its random keys derive.
        room_B: How many new tokens it may have; 0 for a row that only pads the batch.
        n_B: How many new tokens it has, generated or forced by `extend`.
        new_BL: These tokens, then -1.
        logp_BL: Their log-probabilities (nats) under the model's softmax over its whole vocabulary, before
            `Limits.allowed_V`, temperature and filters, as a trainer computes them; then 0.
        chosen_BL: True for tokens that the model chose, False for forced ones.
        last_B: The row's last token, which is not in the cache yet.
        finished_B: Whether the row has its last token.
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
    """The new tokens of a row with their log-probabilities, and whether the model chose each."""

    tokens: list[int]
    logp: list[float]
    chosen: list[bool]


def repeat(rows: Generating, *, n_prompts: int, samples: int) -> Generating:
    """`samples` consecutive copies of each of the first `n_prompts` rows, so that a prompt is read once
    for all of them. Sample s of prompt p has index p · samples + s.
    """
    n = n_prompts * samples
    index_B = np.arange(divisible(n), dtype=np.int32)
    # rows that pad the batch to the mesh are finished copies of the first row
    from_B = np.where(index_B < n, index_B // samples, 0).astype(np.int32)
    return _repeat(rows, from_B, index_B, index_B < n)


def admit(running: Generating, joining: Generating, slots: Sequence[int]) -> Generating:
    """Replace the rows of `running` at `slots` by the first rows of `joining`. `running` is donated.

    Raises: ValueError: they differ in `max_tokens` or `cache_tokens` (see `prefill`), or there are
    more slots than rows to join.
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
    """Copy the new tokens of the first `n` rows to the host."""
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
    """Append to each row the first `counts_B` of these tokens."""

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
        # tokens after the first `count` get an index past the end, which mode="drop" does not write
        index = jnp.where(offset < count, n + offset, len(new))
        return (
            new.at[index].set(tokens, mode="drop"),
            logp.at[index].set(logps, mode="drop"),
            is_chosen.at[index].set(chosen, mode="drop"),
        )

    # A scatter into a sharded array would need stated layouts; here each device writes its own, complete
    # rows.
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
    """The complete array on every host, although its rows may be on others; a collective."""
    # tiled: the rows of all hosts are concatenated, not stacked by host
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def divisible(n_rows: int) -> int:
    """The least number of rows, from `n_rows` on, that divides over the mesh."""
    # B is sharded over several axes, so the number must be a multiple of their product
    sizes = jax.sharding.get_abstract_mesh().shape
    n = math.prod(sizes.get(axis, 1) for axis in ALPHABET["B"].in_use)
    return -(-n_rows // n) * n


def _row_shapes(rows: Generating) -> list[tuple[int, ...]]:
    """Shapes of a single row: of its tokens, and of its cache slots, which are [N, B, T, …]."""
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
    # Everything else is the same for all samples of a prompt, which have no new tokens yet.
    return copies._replace(
        index_B=shard(index_B, "B"),
        room_B=jnp.where(is_sample_B, copies.room_B, 0),
        finished_B=copies.finished_B | ~is_sample_B,
    )


@partial(jax.jit, donate_argnames=("running",))
def _admit(running: Generating, joining: Generating, from_B: Array) -> Generating:
    """Row b becomes row `from_B[b]` of `joining`; it stays if that is negative."""
    from_B = shard(from_B, "B")
    # a candidate for every row, even where none joins: shapes must not depend on how many join
    candidates = _take(joining, jnp.maximum(from_B, 0))
    joins_B = from_B >= 0

    def chosen(present: Array, candidate: Array, axis: int = 0) -> Array:
        others = [i for i in range(present.ndim) if i != axis]
        return jnp.where(jnp.expand_dims(joins_B, others), candidate, present)

    # slots are stacked over layers: [N, B, …]
    slots = jax.tree.map(partial(chosen, axis=1), running.cache.slots, candidates.cache.slots)
    lengths_B = chosen(running.cache.lengths_B, candidates.cache.lengths_B)
    candidate_of = candidates._asdict()
    fields = {
        name: chosen(x, candidate_of[name])
        for name, x in running._asdict().items()
        if name != "cache"
    }
    return Generating(**fields, cache=KVCache(slots, lengths_B))
