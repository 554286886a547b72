"""The functional interface of every architecture: nnx modules inside, plain dicts of arrays outside."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from model.cache import KVCache

# A nested dict. Leaf names end in letters of the alphabet, which give their dimensions and layout; a weight
# of several arrays (low-rank or quantized) is a dict of its own (model/weights.py).
Params = dict[str, Any]


class Media(NamedTuple):
    """Encoded image patches or sound frames that stand at positions of a row.

    Attributes:
        features_BJW: J patches per row, of the width W of their encoder. They replace embeddings of tokens
            after any embedding scale. If the architecture has a `media_width`, its projection `media_WD` is
            applied first; otherwise W is the model's width.
        slot_BJ: Patch j replaces the embedding of the token with this index in the row of `tokens_BL`,
            whatever token that is; -1 = an unused patch. No two patches of a row have the same slot.
    """

    features_BJW: Float[Array, "B J W"]
    slot_BJ: Int[Array, "B J"]


class ModelInputs(NamedTuple):
    """Input of a model. Tokens attend to earlier tokens of their own segment; segment 0 is padding."""

    tokens_BL: Int[Array, "B L"]
    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]
    media: Media | None = None


class ModelOutputs(NamedTuple):
    """Hidden states after the last norm, never logits.

    `mtp_hidden` predict 2, 3, … tokens ahead. `aux` holds sums, which add up over micro-batches: "penalty" is
    added to the loss (router losses times their coefficients and the number of tokens), the others are read
    by `after_step`.
    """

    hidden_BLD: Float[Array, "B L D"]
    mtp_hidden: tuple[Float[Array, "B L D"], ...] = ()
    aux: dict[str, Any] = {}


def identity_after_step(params: Params, aux: dict[str, Any]) -> Params:
    """Change nothing: for models whose parameters change by their gradients alone."""
    return params


class Model(NamedTuple):
    """The functions of an architecture that trainer and inference call. All are pure and run under
    `jax.set_mesh`.

    Parameters hold `padded(vocab_size)` vocabulary entries; those beyond `vocab_size` have no logits (see
    `finish_logits`).
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, ModelInputs], ModelOutputs]
    unembed: Callable[[Params], Float[Array, "D V"]]  # in compute dtype, laid out at rest
    decode: Callable[[Params, ModelInputs, KVCache], tuple[Float[Array, "B L D"], KVCache]]
    empty_cache: Callable[[int, int], KVCache]  # (rows, longest sequence in tokens)
    vocab_size: int
    soft_cap: float | None = None  # logits are soft_cap · tanh(logits / soft_cap)
    after_step: Callable[[Params, dict[str, Any]], Params] = identity_after_step


def padded(vocab_size: int) -> int:
    """Vocabulary entries of the parameters: the next multiple of 128, which any usual mesh divides. It does
    not depend on the mesh, so that a checkpoint fits every mesh.
    """
    # TPUs pad the last dimension to their 128 lanes anyway.
    return -(-vocab_size // 128) * 128


def finish_logits(
    logits: Float[Array, "*rows V"], *, vocab_size: int, soft_cap: float | None
) -> Float[Array, "*rows V"]:
    """Soft-cap logits if the model has a cap, and set those of padding entries to minus infinity."""
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    if logits.shape[-1] == vocab_size:
        return logits
    entry = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(entry < vocab_size, logits, -jnp.inf)


def leaf_name(path: Any) -> str:
    """The name of a leaf from its path in a tree: `layers.w_up_NDF`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def key_of(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The PRNG key of a named purpose; it does not depend on what else is drawn, or in which order."""
    # crc32, not hash(): Python's string hashes differ between processes
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
