"""The functional edge of every architecture: nnx modules inside, plain dicts of arrays outside."""

import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key
from pydantic import BaseModel

from model.cache import KVCache

Params = dict[str, Any]  # nested; leaf names end in letters of the alphabet, which are their shape and their layout


class ModelInputs(NamedTuple):
    """What a model reads. Tokens attend to earlier tokens of their own segment; segment 0 is padding."""

    tokens_BL: Int[Array, "B L"]
    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]


class ModelOutputs(NamedTuple):
    """Hidden states after the last norm, never logits; `aux` holds sums such as router losses."""

    hidden_BLD: Float[Array, "B L D"]
    aux: dict[str, Any] = {}


class Precision(BaseModel, frozen=True, extra="forbid", strict=True):
    """Dtypes of parameters at rest and of products; norms, softmax and losses are always float32."""

    params: Literal["float32", "bfloat16"] = "float32"
    compute: Literal["float32", "bfloat16"] = "bfloat16"


def identity_after_step(params: Params, aux: dict[str, Any]) -> Params:
    """For models without state that changes outside the gradient."""
    return params


class Model(NamedTuple):
    """What trainer and inference know of an architecture. All functions are pure and run under `jax.set_mesh`."""

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, ModelInputs], ModelOutputs]
    unembed: Callable[[Params], Float[Array, "D V"]]  # in compute dtype, laid out in use
    decode: Callable[[Params, ModelInputs, KVCache], tuple[Float[Array, "B L D"], KVCache]]
    empty_cache: Callable[[int, int], KVCache]  # (rows, longest sequence in tokens)
    after_step: Callable[[Params, dict[str, Any]], Params] = identity_after_step


def key_of(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The random key of a named purpose: independent of what else is drawn, and of the order."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
