"""Llama (Touvron et al. 2023): pre-norm blocks of rotary grouped-query attention and SwiGLU, without biases."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import BaseModel, PositiveInt, model_validator

from model.api import Model, ModelInputs, ModelOutputs, Params, Precision, key_of
from model.cache import KVCache, empty_cache
from model.layers.attention import Attention, packed_mask
from model.layers.feed_forward import FeedForward
from model.layers.norm import RMSNorm
from model.layers.rope import rotations
from model.layers.stack import Stack, at_rest, in_use
from model.sharding import look_up, shard, spec


class Llama(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field; `vocab_size` counts padding up to a multiple that the mesh divides."""

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Llama":
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}; choose equal groups")
        if self.head_width % 2:
            raise ValueError(f"head_width={self.head_width} is odd; rotary positions turn pairs, choose an even width")
        return self

    def build(self, precision: Precision) -> Model:
        """The functions of this architecture at these dtypes."""
        stack = Stack(partial(Block, self), N=self.layers)
        return Model(
            init=partial(_init, self, stack, precision),
            apply=partial(_apply, self, stack, precision),
            unembed=partial(_unembed, self, precision),
            decode=partial(_decode, self, stack, precision),
            empty_cache=lambda B, T: empty_cache(N=self.layers, B=B, T=T, K=self.kv_heads, A=self.head_width, dtype=precision.compute),
        )


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, sizes: Llama, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(D=sizes.width, eps=sizes.norm_eps)
        self.attention = Attention(D=sizes.width, H=sizes.heads, K=sizes.kv_heads, A=sizes.head_width, rngs=rngs)
        self.feed_forward_norm = RMSNorm(D=sizes.width, eps=sizes.norm_eps)
        self.feed_forward = FeedForward(D=sizes.width, F=sizes.feed_forward_width, rngs=rngs)

    def __call__(self, x_BLD: Float[Array, "B L D"], rotations_BLA2: Array, mask_BLT: Bool[Array, "B L T"]) -> Float[Array, "B L D"]:
        """One layer over whole rows."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), rotations_BLA2, mask_BLT)
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))

    def decode(
        self, x_BLD: Array, rotations_BLA2: Array, mask_BLT: Array, layer: tuple[Array, Array], lengths_B: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        """One layer over new tokens, with this layer's keys and values of the earlier ones."""
        o_BLD, layer = self.attention.decode(self.attention_norm(x_BLD), rotations_BLA2, mask_BLT, layer, lengths_B)
        x_BLD = x_BLD + o_BLD
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD)), layer


def _init(self: Llama, stack: Stack, precision: Precision, key: Array) -> Params:
    def matrix(name: str, letters: str, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(key_of(key, name), shape, out_sharding=spec(letters, at_rest=True)) * self.width**-0.5

    params = {"embed_VD": matrix("embed", "VD", (self.vocab_size, self.width)), "norm": {"scale_D": jnp.ones(self.width)}}
    if not self.tied:
        params["unembed_DV"] = matrix("unembed", "DV", (self.width, self.vocab_size))
    return {**at_rest(params, precision.params), "blocks": stack.init(key_of(key, "blocks"), precision.params)}


def _apply(self: Llama, stack: Stack, precision: Precision, params: Params, inputs: ModelInputs) -> ModelOutputs:
    mask_BLT = packed_mask(inputs.segments_BL, inputs.positions_BL)
    rotations_BLA2 = rotations(inputs.positions_BL, A=self.head_width, theta=self.rope_theta)
    x_BLD, _ = stack.apply(
        params["blocks"],
        _embed(params, inputs, precision),
        lambda block, x_BLD, _: (block(x_BLD, rotations_BLA2, mask_BLT), None),
        dtype=precision.compute,
    )
    return ModelOutputs(hidden_BLD=_norm(self, params, x_BLD))


def _decode(self: Llama, stack: Stack, precision: Precision, params: Params, inputs: ModelInputs, cache: KVCache) -> tuple[Array, KVCache]:
    T = cache.keys_NBTKA.shape[2]
    mask_BLT = jnp.arange(T) <= inputs.positions_BL[:, :, None]  # slot t holds position t
    rotations_BLA2 = rotations(inputs.positions_BL, A=self.head_width, theta=self.rope_theta)
    x_BLD, (keys_NBTKA, values_NBTKA) = stack.apply(
        params["blocks"],
        _embed(params, inputs, precision),
        lambda block, x_BLD, layer: block.decode(x_BLD, rotations_BLA2, mask_BLT, layer, cache.lengths_B),
        (cache.keys_NBTKA, cache.values_NBTKA),
        dtype=precision.compute,
    )
    lengths_B = cache.lengths_B + jnp.sum(inputs.segments_BL > 0, -1, dtype=jnp.int32)
    return _norm(self, params, x_BLD), KVCache(keys_NBTKA, values_NBTKA, lengths_B)


def _embed(params: Params, inputs: ModelInputs, precision: Precision) -> Array:
    return look_up(shard(params["embed_VD"].astype(precision.compute), "VD"), inputs.tokens_BL, "BLD")


def _norm(self: Llama, params: Params, x_BLD: Array) -> Array:
    definition, _ = nnx.split(RMSNorm(D=self.width, eps=self.norm_eps))
    return nnx.merge(definition, in_use(params["norm"], str(x_BLD.dtype)))(x_BLD)


def _unembed(self: Llama, precision: Precision, params: Params) -> Array:
    if self.tied:
        return shard(params["embed_VD"].astype(precision.compute), "VD").T
    return shard(params["unembed_DV"].astype(precision.compute), "DV")
