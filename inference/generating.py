"""Generate for a batch of rows, each with its own counters, so that rows can join and leave while others
go on.

Rows are padded on the right: token i of a row is in slot i of the cache, so padding comes after everything
that the row attends to, and each new token overwrites a slot of it. All tokens of a row but the last are in
the cache; reading the last gives the logits of the next. A row's tokens depend only on its prompt, its index
and the key: not on its slot, on other rows or on when it joined.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from inference.rows import Generating, divisible, put
from inference.sample import exclude
from model.api import Model, ModelInputs, Params, finish_logits
from model.exits import local
from model.sharding import einsum, shard


@runtime_checkable
class SamplingRule(Protocol):
    """Chooses tokens; implemented by the components of inference/sample.py."""

    def sample(self, keys_B: Key[Array, "B"], logits_BV: Float[Array, "B V"]) -> Int[Array, "B"]:
        """Choose a token for each row, from logits of which at least one is finite."""
        ...


class Limits(NamedTuple):
    """Ids that end a row when they are chosen, and a mask of the ids that may be chosen."""

    stop_ids: Int[np.ndarray, "_"]
    allowed_V: Bool[np.ndarray, "V"]


def limits_of(
    model: Model,
    params: Params,
    *,
    stop_ids: Sequence[int],
    allowed_V: np.ndarray | None,
) -> Limits:
    """Make Limits; `allowed_V` may be shorter than the model's vocabulary, whose further entries are then not
    allowed; None allows all.
    """
    # the padded size of the vocabulary (see `padded` in model/api.py)
    V = jax.eval_shape(model.unembed, params).shape[1]
    allowed_V = (
        np.ones(V, bool) if allowed_V is None else np.pad(allowed_V, (0, V - len(allowed_V)))
    )
    # arrays, not static arguments: other limits use the same compiled program
    return Limits(np.array(list(stop_ids), np.int32), allowed_V)


def prefill(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    context: int,
    max_tokens: int,
    indices: Sequence[int] | None = None,
    cache_tokens: int | None = None,
) -> Generating:
    """Read prompts into rows that have no new tokens yet, followed by finished rows that pad the batch to the
    mesh.

    Args:
        model: The model whose cache is filled.
        params: The model's parameters.
        prompts: Token ids, at least one for each prompt.
        context: Most tokens of a prompt and its new tokens together.
        max_tokens: Most new tokens of a row.
        indices: `index_B` of the prompts; None = 0, 1, 2, …
        cache_tokens: Slots of the cache; None = as many as these prompts need. Rows can only join a batch
            with the same number and the same `max_tokens`.

    Raises:
        ValueError: a prompt is empty or leaves no room, in `context` or in the cache.
    """
    _check(prompts, context=context)
    new_tokens = rounded(max_tokens)  # the width of `new_BL`
    lengths = [len(prompt) for prompt in prompts]
    n_rows = divisible(len(prompts))
    # padded with rows of length 0 up to a number that the mesh divides
    lengths_B = np.array(lengths + [0] * (n_rows - len(prompts)), np.int32)
    tokens_BL = np.zeros((n_rows, rounded(max(lengths))), np.int32)
    for row, prompt in zip(tokens_BL, prompts, strict=False):
        row[: len(prompt)] = prompt
    # prompts are written into the cache with their padding, and rows may fill all of `new_BL`
    needed = tokens_BL.shape[1] + new_tokens
    if cache_tokens is not None and cache_tokens < needed:
        raise ValueError(
            f"cache_tokens={cache_tokens} must be at least {needed} for these prompts; raise it"
        )
    # padding rows have no room, so they are finished from the start
    most_B = np.minimum(max_tokens, context - lengths_B)
    room_B = np.where(lengths_B > 0, most_B, 0).astype(np.int32)
    index_B = np.arange(n_rows, dtype=np.int32)
    if indices is not None:
        index_B[: len(prompts)] = indices
    sizes = {"new_tokens": new_tokens, "cache_tokens": cache_tokens or needed}
    return _prefill(params, tokens_BL, lengths_B, room_B, index_B, model=model, **sizes)


def advance(
    model: Model,
    params: Params,
    rows: Generating,
    limits: Limits,
    *,
    sampler: SamplingRule,
    key: Key[Array, ""],
    until: int | Sequence[int],
) -> Generating:
    """Generate until every unfinished row has `until` new tokens, a number for all rows or one for each.
    `rows` are donated.
    """
    # an array in both cases, so that both use the same compiled program
    until_B = np.broadcast_to(np.array(until, np.int32), rows.n_B.shape)
    return _advance(params, rows, limits, key, until_B, model=model, sampler=sampler)


def extend(
    model: Model,
    params: Params,
    rows: Generating,
    forced: Sequence[Sequence[int]],
) -> Generating:
    """Append tokens that the model did not choose, such as a tool's result or a draft to be scored.
    `rows` are donated.

    `forced[b]` are the tokens of row b; a row whose list is empty or missing does not change. They count as
    new tokens, and those for which a row has no room are dropped. A stop id among them does not end the row,
    and a row that had ended, say with a tool call, goes on.
    """
    n_rows, most = rows.new_BL.shape  # no row has room for more
    longest = min(most, max(map(len, forced), default=0))
    if not longest:
        return rows
    counts_B = np.zeros(n_rows, np.int32)
    tokens_BL = np.zeros((n_rows, rounded(longest)), np.int32)
    for b, tokens in enumerate(forced):
        counts_B[b] = len(tokens)
        tokens_BL[b, : len(tokens)] = tokens[:most]
    # The model reads from a row's last token on, which only the device knows: it goes into column 0.
    shifted_BL = np.roll(tokens_BL, 1, axis=1)
    return _extend(params, rows, tokens_BL, shifted_BL, counts_B, model=model)


def rounded(n: int) -> int:
    """The next power of two, at least 16, so that prompts of similar lengths share a compiled program."""
    return max(16, 1 << (n - 1).bit_length())


def _check(prompts: Sequence[Sequence[int]], *, context: int) -> None:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(
                f"prompt {i} is empty; give it at least one token (<bos> starts a text)"
            )
        if len(prompt) >= context:
            rule = f"has {len(prompt)} tokens, and context={context} leaves no room for a new one"
            raise ValueError(f"prompt {i} {rule}; shorten the prompt")


@partial(jax.jit, static_argnames=("model", "new_tokens", "cache_tokens"))
def _prefill(
    params: Params,
    tokens_BL: Array,
    lengths_B: Array,
    room_B: Array,
    index_B: Array,
    *,
    model: Model,
    new_tokens: int,
    cache_tokens: int,
) -> Generating:
    """Read all tokens of every prompt but the last, which the loop reads: so the first new token is made in
    the same way as all later ones.
    """
    B, L = tokens_BL.shape
    tokens_BL = shard(tokens_BL, "BL")
    last_B = shard(lengths_B, "B") - 1  # index of the last token; -1 in rows that have none

    offset_BL = shard(jnp.broadcast_to(jnp.arange(L), (B, L)), "BL")
    # padding repeats the last position, since a table of learned positions may end there
    positions_BL = jnp.minimum(offset_BL, jnp.maximum(last_B, 0)[:, None])
    segments_BL = (offset_BL < last_B[:, None]).astype(jnp.int32)
    inputs = ModelInputs(tokens_BL, positions_BL, segments_BL)
    # only the cache is needed of these tokens, not their hidden states
    _, cache = model.decode(params, inputs, model.empty_cache(B, cache_tokens))

    # summed below: all terms but the last token are 0
    last_BL = jnp.where(offset_BL == last_B[:, None], tokens_BL, 0)
    room_B = shard(room_B, "B")
    return Generating(
        index_B=shard(index_B, "B"),
        room_B=room_B,
        n_B=jnp.zeros_like(room_B),
        new_BL=shard(jnp.full((B, new_tokens), -1, jnp.int32), "B."),
        logp_BL=shard(jnp.zeros((B, new_tokens), jnp.float32), "B."),
        chosen_BL=shard(jnp.zeros((B, new_tokens), bool), "B."),
        last_B=shard(jnp.sum(last_BL, -1), "B"),
        finished_B=room_B == 0,
        cache=cache,
    )


@partial(jax.jit, static_argnames=("model", "sampler"), donate_argnames=("rows",))
def _advance(
    params: Params,
    rows: Generating,
    limits: Limits,
    key: Array,
    until_B: Array,
    *,
    model: Model,
    sampler: SamplingRule,
) -> Generating:
    # gathered once, outside of the loop
    unembed_DV = shard(model.unembed(params), "DV")
    until_B = shard(until_B, "B")

    def choose(index_B: Array, n_B: Array, logits_BV: Array, key: Array) -> Array:
        def key_of_row(index: Array, n: Array) -> Array:
            # so a draw depends on the row's index and number of tokens, not on when it is made
            return jax.random.fold_in(jax.random.fold_in(key, index), n)

        keys_B = jax.vmap(key_of_row)(index_B, n_B)
        return sampler.sample(keys_B, logits_BV).astype(jnp.int32)

    def is_going(rows: Generating) -> Array:
        return ~rows.finished_B & (rows.n_B < until_B)

    def one_token(rows: Generating) -> Generating:
        going_B = is_going(rows)
        # a row that is not going is read as padding, so its cache does not change
        segments_BL = going_B[:, None].astype(jnp.int32)
        inputs = ModelInputs(rows.last_B[:, None], rows.cache.lengths_B[:, None], segments_BL)
        hidden_BLD, cache = model.decode(params, inputs, rows.cache)
        logits_BV = _logits(model, hidden_BLD[:, 0], unembed_DV)  # L is 1

        allowed_BV = exclude(logits_BV, limits.allowed_V)
        # each device samples its own rows: sorting does not support explicit axes
        choose_locally = local(choose, ("B", "B", "B.", ""), "B")
        # chosen among allowed ids, while `logp_B` is under the model's softmax over all ids
        token_B = choose_locally(rows.index_B, rows.n_B, allowed_BV, key)
        logp_B = _logp_of(token_B, logits_BV)

        # rows that are not going get a token too, which a count of 0 drops here
        rows = put(rows, token_B[:, None], logp_B[:, None], going_B.astype(jnp.int32), chosen=True)
        is_stop_B = jnp.any(token_B[:, None] == limits.stop_ids, -1)
        is_full_B = rows.n_B >= rows.room_B
        return rows._replace(
            last_B=jnp.where(going_B, token_B, rows.last_B),
            finished_B=rows.finished_B | (going_B & (is_stop_B | is_full_B)),
            cache=cache,
        )

    # the loop runs on the device, so no token waits for the host
    return jax.lax.while_loop(lambda rows: jnp.any(is_going(rows)), one_token, rows)


@partial(jax.jit, static_argnames="model", donate_argnames=("rows",))
def _extend(
    params: Params,
    rows: Generating,
    forced_BL: Array,
    shifted_BL: Array,
    counts_B: Array,
    *,
    model: Model,
) -> Generating:
    """Read a row's last token and all forced ones but the last in one pass; each scores the token after it.
    `shifted_BL` are the forced tokens moved one position to the right.
    """
    unembed_DV = shard(model.unembed(params), "DV")
    # tokens for which a row has no room are dropped
    counts_B = jnp.minimum(shard(counts_B, "B"), rows.room_B - rows.n_B)
    offset_BL = shard(jnp.broadcast_to(jnp.arange(forced_BL.shape[1]), forced_BL.shape), "BL")

    read_BL = jnp.where(offset_BL == 0, rows.last_B[:, None], shard(shifted_BL, "BL"))
    # padding repeats the last position, as in `_prefill`
    position_BL = jnp.minimum(offset_BL, jnp.maximum(counts_B - 1, 0)[:, None])
    positions_BL = rows.cache.lengths_B[:, None] + position_BL
    segments_BL = (offset_BL < counts_B[:, None]).astype(jnp.int32)
    inputs = ModelInputs(read_BL, positions_BL, segments_BL)
    hidden_BLD, cache = model.decode(params, inputs, rows.cache)
    # "B.": from here on all positions of a row are on the same device, like its counters
    forced_BL = shard(forced_BL, "B.")
    offset_BL = shard(offset_BL, "B.")

    def score(_: None, position: tuple[Array, Array]) -> tuple[None, Array]:
        hidden_BD, token_B = position
        return None, _logp_of(token_B, _logits(model, hidden_BD, unembed_DV))

    # position by position, so that the logits of all positions never exist at once
    hidden_LBD = jnp.moveaxis(shard(hidden_BLD, "B.D"), 1, 0)
    _, logp_LB = jax.lax.scan(score, None, (hidden_LBD, forced_BL.T))
    is_last_BL = offset_BL == counts_B[:, None] - 1
    last_B = jnp.sum(jnp.where(is_last_BL, forced_BL, 0), -1)
    rows = put(rows, forced_BL, logp_LB.T, counts_B, chosen=False)
    goes_on_B = counts_B > 0
    return rows._replace(
        last_B=jnp.where(goes_on_B, last_B, rows.last_B),
        # only room counts: a row that had ended goes on after its forced tokens
        finished_B=jnp.where(goes_on_B, rows.n_B >= rows.room_B, rows.finished_B),
        cache=cache,
    )


def _logits(model: Model, hidden_BD: Array, unembed_DV: Array) -> Array:
    logits_BV = einsum("BD,DV->BV", hidden_BD, unembed_DV, dtype=jnp.float32)
    # "B.": gathered along the vocabulary, which samplers sort
    return finish_logits(
        shard(logits_BV, "B."), vocab_size=model.vocab_size, soft_cap=model.soft_cap
    )


def _logp_of(token_B: Array, logits_BV: Array) -> Array:
    is_token_BV = jnp.arange(logits_BV.shape[-1]) == token_B[:, None]
    # a masked sum instead of a gather, which would need a stated layout
    logit_B = jnp.sum(jnp.where(is_token_BV, logits_BV, 0.0), -1)
    return logit_B - jax.nn.logsumexp(logits_BV, -1)
