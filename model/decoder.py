"""What all architectures share: an embedding, stacks of blocks, a norm, an output matrix, and the functions
of the edge over them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model.api import Model, ModelInputs, ModelOutputs, Params, identity_after_step, key_of, padded
from model.cache import KVCache
from model.execution import Precision
from model.kernels.context import balance, is_balanced, unbalance
from model.layers.mtp import MultiToken
from model.layers.rope import Rope
from model.layers.rows import Rows
from model.layers.stack import Stack, at_rest, fetched, in_use, stacked
from model.sharding import look_up, shard, spec
from model.weights import as_array


class Decoder(NamedTuple):
    """A decoder-only transformer, as its architecture describes it.

    `ropes[name]` is a rope and the width that it turns; `learned_positions` is how many positions have a
    vector that is added to the embedding (0: none); `soft_cap` bounds the logits; `further` predicts more
    than the next token.
    """

    vocab_size: int
    width: int
    stacks: dict[str, Stack]
    norm: Callable[[], nnx.Module]
    tied: bool
    ropes: dict[str, tuple[Rope, int]] = {}
    embed_scale: float = 1.0
    learned_positions: int = 0
    soft_cap: float | None = None
    further: MultiToken | None = None
    after_step: Callable[[Params, dict[str, Any]], Params] = identity_after_step

    def build(self, precision: Precision) -> Model:
        """The functions of the edge at these dtypes."""
        return Model(
            init=partial(_init, self, precision),
            apply=partial(_apply, self, precision),
            unembed=partial(_unembed, self, precision),
            decode=partial(_decode, self, precision),
            empty_cache=partial(_empty_cache, self, precision),
            vocab_size=self.vocab_size,
            soft_cap=self.soft_cap,
            after_step=self.after_step,
        )


def _init(self: Decoder, precision: Precision, key: jax.Array) -> Params:
    V = padded(self.vocab_size)

    def matrix(name: str, letters: str, shape: tuple[int, ...]) -> jax.Array:
        return (
            jax.random.normal(key_of(key, name), shape, out_sharding=spec(letters, shape, at_rest=True))
            * self.width**-0.5
        )

    params = {
        "embed_VD": matrix("embed", "VD", (V, self.width)),
        "norm": nnx.to_pure_dict(nnx.state(self.norm())),
    }
    if self.learned_positions:
        params["positions_TD"] = matrix("positions", "TD", (self.learned_positions, self.width))
    if not self.tied:
        params["unembed_DV"] = matrix("unembed", "DV", (self.width, V))
    stacks = {name: stack.init(key_of(key, name), precision.params) for name, stack in self.stacks.items()}
    if self.further:
        stacks["mtp"] = self.further.init(key_of(key, "mtp"), precision.params)
    return {**at_rest(params, precision.params), **stacks}


def _apply(self: Decoder, precision: Precision, params: Params, inputs: ModelInputs) -> ModelOutputs:
    in_order = not is_balanced(inputs.tokens_BL.shape[1])
    later = self.further.inputs(inputs) if self.further else ()
    if not in_order:
        inputs, *later = (ModelInputs(*(balance(x_BL, "BL") for x_BL in one)) for one in (inputs, *later))
    rows = _rows(self, inputs)
    x_BLD, aux, further = _embed(self, params, inputs, precision), {}, ()
    for name, stack in self.stacks.items():
        x_BLD, found = stack.apply(params[name], x_BLD, rows, dtype=precision.compute)
        if found:
            aux["penalty"] = aux.get("penalty", 0.0) + jnp.sum(found.pop("penalty"))
            aux[name] = stacked(found)
    hidden_BLD = _norm(self, params, x_BLD)
    if self.further:
        read = [
            (_embed(self, params, one, precision), rows._replace(segments_BL=one.segments_BL))
            for one in later
        ]
        further, aux["mtp"] = self.further.apply(params["mtp"], hidden_BLD, read, dtype=precision.compute)
        aux["penalty"] = aux.get("penalty", 0.0) + sum(
            found.pop("penalty", 0.0) for found in aux["mtp"].values()
        )
    hidden_BLD, *further = (x if in_order else unbalance(x, "BLD") for x in (hidden_BLD, *further))
    return ModelOutputs(hidden_BLD=hidden_BLD, mtp_hidden=tuple(further), aux=aux)


def _decode(
    self: Decoder, precision: Precision, params: Params, inputs: ModelInputs, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    rows = _rows(self, inputs)._replace(lengths_B=cache.lengths_B)
    x_BLD, slots = _embed(self, params, inputs, precision), {}
    for name, stack in self.stacks.items():
        x_BLD, slots[name] = stack.decode(
            params[name], x_BLD, rows, cache.slots[name], dtype=precision.compute
        )
    lengths_B = cache.lengths_B + jnp.sum(inputs.segments_BL > 0, -1, dtype=jnp.int32)
    return _norm(self, params, x_BLD), KVCache(slots, lengths_B)


def _empty_cache(self: Decoder, precision: Precision, B: int, T: int) -> KVCache:
    slots = {name: stack.empty_slots(B, T, precision.compute) for name, stack in self.stacks.items()}
    return KVCache(slots, jnp.zeros(B, jnp.int32, out_sharding=spec("B")))


def _rows(self: Decoder, inputs: ModelInputs) -> Rows:
    rotations = {name: rope.rotations(inputs.positions_BL, A) for name, (rope, A) in self.ropes.items()}
    return Rows(inputs.positions_BL, inputs.segments_BL, rotations)


def _embed(self: Decoder, params: Params, inputs: ModelInputs, precision: Precision) -> jax.Array:
    tables = in_use(
        {name: params[name] for name in ("embed_VD", "positions_TD") if name in params}, precision.compute
    )
    x_BLD = look_up(tables["embed_VD"], inputs.tokens_BL, "BlD")
    if self.embed_scale != 1.0:
        x_BLD = x_BLD * jnp.asarray(self.embed_scale, x_BLD.dtype)
    if self.learned_positions:
        x_BLD = x_BLD + look_up(tables["positions_TD"], inputs.positions_BL, "BlD")
    return x_BLD


def _norm(self: Decoder, params: Params, x_BLD: jax.Array) -> jax.Array:
    definition = nnx.split(nnx.eval_shape(self.norm))[0]
    return shard(nnx.merge(definition, in_use(params["norm"], str(x_BLD.dtype)))(x_BLD), "BLD")


def _unembed(self: Decoder, precision: Precision, params: Params) -> jax.Array:
    if self.tied:
        return fetched(as_array(params["embed_VD"]), precision.compute).T
    return fetched(as_array(params["unembed_DV"]), precision.compute)
