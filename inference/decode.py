"""Tokens one after the other, with a cache of keys and values: prompts are read in one pass, then every
token costs one position.

Rows are padded on the right: token i of a row lies in slot i of the cache, so padding is behind everything
that the row attends to and each new token overwrites one slot of it. A row's tokens depend on its prompt,
its index and the key alone.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Float, Int, Key

from inference.sample import exclude
from model.api import Model, ModelInputs, Params, finish_logits
from model.cache import KVCache
from model.sharding import ALPHABET, einsum, local, shard


@runtime_checkable
class SamplingRule(Protocol):
    """What chooses tokens: the components of inference/sample.py."""

    def sample(self, keys_B: Key[Array, "B"], logits_BV: Float[Array, "B V"]) -> Int[Array, "B"]:
        """One token a row, from logits of which at least one is finite."""
        ...


class _Rows(NamedTuple):
    """The state of the loop: `step` tokens of every row that is not finished are in `new_BL`; -1 is
    nothing.
    """

    step: Int[Array, ""]
    new_BL: Int[Array, "B L"]
    last_B: Int[Array, "B"]
    finished_B: Bool[Array, "B"]
    cache: KVCache


class _Limits(NamedTuple):
    """What ends a row (a stop id, or `room_B` tokens), and which ids may come at all."""

    room_B: Int[Array, "B"]
    stop_ids: Int[Array, "_"]
    allowed_V: Bool[Array, "V"]


def generate(
    model: Model, params: Params, prompts: Sequence[Sequence[int]], *, max_tokens: int, **options: Any
) -> list[list[int]]:
    """All new tokens of each prompt; arguments are those of `stream`."""
    rows: list[list[int]] = [[] for _ in prompts]
    for news in stream(model, params, prompts, max_tokens=max_tokens, stride=max_tokens, **options):
        for row, new in zip(rows, news, strict=True):
            row += new
    return rows


def stream(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    sampler: SamplingRule,
    context: int,
    max_tokens: int,
    stop_ids: Sequence[int],
    key: Key[Array, ""],
    allowed_V: np.ndarray | None = None,
    stride: int = 8,
) -> Iterator[list[list[int]]]:
    """Yields the next at most `stride` tokens of every prompt until all are finished.

    A row is finished when it has produced one of `stop_ids` (its last token), `max_tokens` tokens, or as
    many as fit with its prompt into `context`. `allowed_V` is False for ids that may never come, and so are
    those beyond its end (see `what_ends` in inference/text.py); None allows all. Runs under `jax.set_mesh`.

    Raises:
        ValueError: a prompt is empty or leaves no room in `context`, or a limit is not positive.
    """
    _check(prompts, context=context, max_tokens=max_tokens, stride=stride)
    if not prompts:
        return
    tokens_BL, lengths_B = _padded(prompts, n_rows=_divisible(len(prompts)))
    limits = _Limits(
        room_B=np.where(lengths_B > 0, np.minimum(max_tokens, context - lengths_B), 0).astype(np.int32),
        stop_ids=np.array(list(stop_ids), np.int32),
        allowed_V=_of_length(jax.eval_shape(model.unembed, params).shape[1], allowed_V),
    )
    rows = _prefill(params, tokens_BL, lengths_B, limits, model=model, max_tokens=_rounded(max_tokens))
    told_B, until = np.zeros(len(prompts), int), 0
    while not np.all(_on_host(rows.finished_B)):
        until = min(until + stride, max_tokens)
        rows = _advance(params, rows, limits, key, np.int32(until), model=model, sampler=sampler)
        new_BL = _on_host(rows.new_BL)[: len(prompts)]
        lengths_B = np.sum(new_BL >= 0, -1)
        yield [row[told:length].tolist() for row, told, length in zip(new_BL, told_B, lengths_B, strict=True)]
        told_B = lengths_B


def _of_length(V: int, allowed_V: np.ndarray | None) -> np.ndarray:
    """A vocabulary is padded to a size that the mesh divides; its padding stands for nothing."""
    return np.ones(V, bool) if allowed_V is None else np.pad(allowed_V, (0, V - len(allowed_V)))


def _on_host(x: Array) -> np.ndarray:
    """All of an array, whose rows may lie on other hosts."""
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def _check(prompts: Sequence[Sequence[int]], *, context: int, **positive: int) -> None:
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {i} is empty; give it at least one token (<bos> starts a text)")
        if len(prompt) >= context:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens, and context={context} leaves no room for a new one; shorten the prompt"
            )


def _divisible(n_rows: int) -> int:
    """The next number of rows that the mesh divides."""
    sizes = jax.sharding.get_abstract_mesh().shape
    n = math.prod(sizes.get(axis, 1) for axis in ALPHABET["B"].in_use)
    return -(-n_rows // n) * n


def _rounded(n: int) -> int:
    """The next power of two, at least 16: prompts of similar lengths share one compilation."""
    return max(16, 1 << (n - 1).bit_length())


def _padded(prompts: Sequence[Sequence[int]], *, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    tokens_BL = np.zeros((n_rows, _rounded(max(map(len, prompts)))), np.int32)
    for row, prompt in zip(tokens_BL, prompts, strict=False):
        row[: len(prompt)] = prompt
    return tokens_BL, np.array([len(prompt) for prompt in prompts] + [0] * (n_rows - len(prompts)), np.int32)


@partial(jax.jit, static_argnames=("model", "max_tokens"))
def _prefill(
    params: Params, tokens_BL: Array, lengths_B: Array, limits: _Limits, *, model: Model, max_tokens: int
) -> _Rows:
    """Read all but the last token of every prompt; the loop reads that one and so makes the first new
    token.
    """
    B, L = tokens_BL.shape
    tokens_BL, lengths_B = shard(tokens_BL, "BL"), shard(lengths_B, "B")
    positions_BL = shard(jnp.broadcast_to(jnp.arange(L), (B, L)), "BL")
    segments_BL = (positions_BL < lengths_B[:, None] - 1).astype(jnp.int32)
    _, cache = model.decode(
        params, ModelInputs(tokens_BL, positions_BL, segments_BL), model.empty_cache(B, L + max_tokens)
    )
    last_BL = jnp.where(positions_BL == lengths_B[:, None] - 1, tokens_BL, 0)
    return _Rows(
        step=jnp.int32(0),
        new_BL=shard(jnp.full((B, max_tokens), -1, jnp.int32), "B."),
        last_B=shard(jnp.sum(last_BL, -1), "B"),
        finished_B=shard(limits.room_B == 0, "B"),
        cache=cache,
    )


@partial(jax.jit, static_argnames=("model", "sampler"), donate_argnames=("rows",))
def _advance(
    params: Params,
    rows: _Rows,
    limits: _Limits,
    key: Array,
    until: Array,
    *,
    model: Model,
    sampler: SamplingRule,
) -> _Rows:
    """Go on until `until` tokens are made or every row is finished."""
    unembed_DV = shard(model.unembed(params), "DV")
    room_B = shard(limits.room_B, "B")
    index_B = shard(jnp.arange(room_B.shape[0]), "B")

    def choose(index_B: Array, logits_BV: Array, key: Array, step: Array) -> Array:
        keys_B = jax.vmap(lambda index: jax.random.fold_in(jax.random.fold_in(key, index), step))(index_B)
        return sampler.sample(keys_B, logits_BV).astype(jnp.int32)

    def one_token(rows: _Rows) -> _Rows:
        going_B = ~rows.finished_B
        inputs = ModelInputs(
            rows.last_B[:, None], rows.cache.lengths_B[:, None], going_B[:, None].astype(jnp.int32)
        )
        hidden_BLD, cache = model.decode(params, inputs, rows.cache)
        logits_BV = einsum("BLD,DV->BLV", hidden_BLD, unembed_DV, dtype=jnp.float32)[:, 0]
        logits_BV = finish_logits(
            shard(logits_BV, "B."), vocab_size=model.vocab_size, soft_cap=model.soft_cap
        )
        logits_BV = exclude(logits_BV, limits.allowed_V)
        token_B = local(choose, ("B", "B.", "", ""), "B")(index_B, logits_BV, key, rows.step)
        new_B = jnp.where(going_B, token_B, -1)
        stopped_B = jnp.any(token_B[:, None] == limits.stop_ids, -1) | (rows.step + 1 >= room_B)
        return _Rows(
            step=rows.step + 1,
            new_BL=jax.lax.dynamic_update_index_in_dim(rows.new_BL, new_B, rows.step, 1),
            last_B=jnp.where(going_B, token_B, rows.last_B),
            finished_B=rows.finished_B | stopped_B,
            cache=cache,
        )

    return jax.lax.while_loop(lambda rows: (rows.step < until) & ~jnp.all(rows.finished_B), one_token, rows)
