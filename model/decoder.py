"""Decoder, which all architectures share: embedding, stacks of blocks, last norm and output matrix, and the
functions of `Model` over them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model.api import (
    Media,
    Model,
    ModelInputs,
    ModelOutputs,
    Params,
    identity_after_step,
    key_of,
    padded,
)
from model.architecture import Facts
from model.cache import KVCache
from model.execution import Precision
from model.kernels.context import balance, balanced_index, is_balanced, unbalance
from model.layers.media import put_media
from model.layers.mtp import MultiToken
from model.layers.rope import Rope
from model.layers.rows import Rows
from model.layers.stack import Stack
from model.layers.stacked_names import stacked
from model.layers.weight import at_rest, fetched, in_use
from model.sharding import einsum, look_up, shard, spec
from model.weights import as_array


class Decoder(NamedTuple):
    """A decoder-only transformer, as its architecture describes it.

    Attributes:
        stacks: Name in the parameters → blocks, in the order in which they are applied.
        norm: Makes the norm of the last hidden states.
        tied: Whether the output matrix is the embedding.
        ropes: Name → (rope, how many entries of a head it rotates).
        embed_scale: Factor of the embeddings of tokens; features of media are not scaled.
        learned_positions: How many positions have a learned vector, added to the embedding; 0 = none.
        media_width: W of `Media`, if features are projected to the model's width.
        soft_cap: Logits are soft_cap · tanh(logits / soft_cap).
        further: Modules that predict tokens beyond the next one.
        after_step: Changes parameters outside the gradient (see `Model`).
    """

    vocab_size: int
    width: int
    stacks: dict[str, Stack]
    norm: Callable[[], nnx.Module]
    tied: bool
    ropes: dict[str, tuple[Rope, int]] = {}
    embed_scale: float = 1.0
    learned_positions: int = 0
    media_width: int | None = None
    soft_cap: float | None = None
    further: MultiToken | None = None
    after_step: Callable[[Params, dict[str, Any]], Params] = identity_after_step

    def build(self, precision: Precision) -> Model:
        """The functions of `Model` in these dtypes."""
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

    def facts(self) -> Facts:
        """Heads, widths, windows and experts of every layer, collected from the layers themselves."""
        layers = [layer for stack in self.stacks.values() for layer in stack.facts()]
        further = self.further.facts() if self.further else ()
        return Facts(self.vocab_size, self.width, (*layers, *further), mtp_layers=len(further))


def _init(self: Decoder, precision: Precision, key: jax.Array) -> Params:
    V = padded(self.vocab_size)
    D = self.width

    def matrix(name: str, letters: str, shape: tuple[int, ...], *, fan_in: int = D) -> jax.Array:
        # Keys by name: a parameter's values do not depend on which others there are. Drawn in its layout, so
        # that no device ever holds more than its shard.
        layout = spec(letters, shape, at_rest=True)
        return jax.random.normal(key_of(key, name), shape, out_sharding=layout) * fan_in**-0.5

    params = {
        "embed_VD": matrix("embed", "VD", (V, D)),
        "norm": nnx.to_pure_dict(nnx.state(self.norm())),
    }
    if self.learned_positions:
        params["positions_TD"] = matrix("positions", "TD", (self.learned_positions, D))
    if self.media_width:
        params["media_WD"] = matrix("media", "WD", (self.media_width, D), fan_in=self.media_width)
    if not self.tied:
        params["unembed_DV"] = matrix("unembed", "DV", (D, V))
    stacks = {}
    for name, stack in self.stacks.items():
        stacks[name] = stack.init(key_of(key, name), precision.params)
    if self.further:
        stacks["mtp"] = self.further.init(key_of(key, "mtp"), precision.params)
    # Stacks cast their own parameters layer by layer, so that all layers never exist in float32 at once.
    return {**at_rest(params, precision.params), **stacks}


def _apply(
    self: Decoder, precision: Precision, params: Params, inputs: ModelInputs
) -> ModelOutputs:
    # The shifted inputs of prediction modules are made while rows are in reading order, before balancing.
    later = self.further.inputs(inputs) if self.further else ()
    balanced = is_balanced(inputs.tokens_BL.shape[1])
    if balanced:
        inputs = _balanced(inputs)
        later = tuple(map(_balanced, later))
    rows = _rows(self, inputs)
    x_BLD = _embed(self, params, inputs, precision)
    aux: dict[str, Any] = {}
    penalties = []
    for name, stack in self.stacks.items():
        x_BLD, stack_aux = stack.apply(params[name], x_BLD, rows, dtype=precision.compute)
        if stack_aux:  # only expert layers have auxiliary sums
            # The penalty is popped and summed for the loss; `after_step` reads the other sums by layer.
            penalties.append(jnp.sum(stack_aux.pop("penalty")))
            aux[name] = stacked(stack_aux)
    hidden_BLD = _norm(self, params, x_BLD)
    mtp_hidden: tuple[jax.Array, ...] = ()
    if self.further:
        read = []
        for shifted in later:
            # Positions stay those of the hidden states; segments are 0 where no token is that far ahead.
            shifted_rows = rows._replace(segments_BL=shifted.segments_BL)
            read.append((_embed(self, params, shifted, precision), shifted_rows))
        mtp_hidden, aux["mtp"] = self.further.apply(
            params["mtp"], hidden_BLD, read, dtype=precision.compute
        )
        of_depths = [depth_aux.pop("penalty", 0.0) for depth_aux in aux["mtp"].values()]
        penalties.append(sum(of_depths))
    if penalties:
        aux["penalty"] = sum(penalties)
    if balanced:  # callers expect reading order
        hidden_BLD = unbalance(hidden_BLD, "BLD")
        mtp_hidden = tuple(unbalance(x_BLD, "BLD") for x_BLD in mtp_hidden)
    return ModelOutputs(hidden_BLD=hidden_BLD, mtp_hidden=mtp_hidden, aux=aux)


def _balanced(inputs: ModelInputs) -> ModelInputs:
    """Rows in balanced order over the devices of L (see model/kernels/context.py)."""
    media = inputs.media
    if media is not None:
        # features stay where they are, but their slots are indices in a row, whose order changes
        L = inputs.tokens_BL.shape[1]
        media = media._replace(slot_BJ=balanced_index(media.slot_BJ, L))
    return ModelInputs(
        balance(inputs.tokens_BL, "BL"),
        balance(inputs.positions_BL, "BL"),
        balance(inputs.segments_BL, "BL"),
        media,
    )


def _decode(
    self: Decoder, precision: Precision, params: Params, inputs: ModelInputs, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    rows = _rows(self, inputs)._replace(lengths_B=cache.lengths_B)
    x_BLD = _embed(self, params, inputs, precision)
    slots = {}
    for name, stack in self.stacks.items():
        x_BLD, slots[name] = stack.decode(
            params[name], x_BLD, rows, cache.slots[name], dtype=precision.compute
        )
    # Padding after a row's new tokens is written to the cache too, but not counted: the next tokens overwrite
    # it.
    n_new_B = jnp.sum(inputs.segments_BL > 0, -1, dtype=jnp.int32)
    lengths_B = cache.lengths_B + n_new_B
    return _norm(self, params, x_BLD), KVCache(slots, lengths_B)


def _empty_cache(self: Decoder, precision: Precision, B: int, T: int) -> KVCache:
    slots = {}
    for name, stack in self.stacks.items():
        slots[name] = stack.empty_slots(B, T, precision.compute)
    return KVCache(slots, jnp.zeros(B, jnp.int32, out_sharding=spec("B")))


def _rows(self: Decoder, inputs: ModelInputs) -> Rows:
    # computed once here: inside a stack's scan cosines and sines would be computed in every layer
    rotations = {}
    for name, (rope, A) in self.ropes.items():
        rotations[name] = rope.rotations(inputs.positions_BL, A)
    return Rows(inputs.positions_BL, inputs.segments_BL, rotations)


def _embed(self: Decoder, params: Params, inputs: ModelInputs, precision: Precision) -> jax.Array:
    """What the first layer reads, laid out `BlD`."""
    # The table is gathered over `fsdp` first: a lookup in a table sharded along D would have to send the
    # result of every row.
    names = [name for name in ("embed_VD", "positions_TD") if name in params]
    tables = in_use({name: params[name] for name in names}, precision.compute)
    x_BLD = look_up(tables["embed_VD"], inputs.tokens_BL, "BlD")
    if self.embed_scale != 1.0:  # rounded to the dtype of x, as Gemma was trained
        x_BLD = x_BLD * jnp.asarray(self.embed_scale, x_BLD.dtype)
    if inputs.media is not None:
        features_BJD = _features(self, params, inputs.media, precision)
        x_BLD = put_media(x_BLD, features_BJD, inputs.media.slot_BJ)
    if self.learned_positions:
        # added after media are put in, since patches have positions too
        x_BLD = x_BLD + look_up(tables["positions_TD"], inputs.positions_BL, "BlD")
    return x_BLD


def _features(self: Decoder, params: Params, media: Media, precision: Precision) -> jax.Array:
    """Features of media, projected to the model's width, in compute dtype.

    Raises:
        ValueError: they have another width than the model reads.
    """
    W = media.features_BJW.shape[-1]
    expected = self.media_width or self.width
    if W != expected:
        raise ValueError(
            f"media features are W={W} wide, and the model reads {expected}; set architecture.media_width={W}"
        )
    features_BJW = shard(media.features_BJW.astype(precision.compute), "BJW")
    if not self.media_width:
        return features_BJW
    projection = in_use({"media_WD": params["media_WD"]}, precision.compute)["media_WD"]
    return einsum("BJW,WD->BJD", features_BJW, projection)


def _norm(self: Decoder, params: Params, x_BLD: jax.Array) -> jax.Array:
    # An nnx module holds its parameters, while ours are in dicts: it is rebuilt from its definition and them.
    definition, _ = nnx.split(nnx.eval_shape(self.norm))
    norm = nnx.merge(definition, in_use(params["norm"], str(x_BLD.dtype)))
    return shard(norm(x_BLD), "BLD")


def _unembed(self: Decoder, precision: Precision, params: Params) -> jax.Array:
    if self.tied:
        # In the layout at rest: the caller gathers it, for example decoding once before its loop.
        return fetched(as_array(params["embed_VD"]), precision.compute).T
    return fetched(as_array(params["unembed_DV"]), precision.compute)
