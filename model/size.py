"""How large a model is, and what a training step of it costs."""

import math
from typing import Any

import jax

from model.api import Params, padded
from model.sharding import letters_of

LOOKED_UP = {
    "positions_TD",
    "embed_VD",
}  # tables whose rows are read, not multiplied; the embedding counts where it is the output matrix


def n_params(params: Params) -> int:
    """Numbers in the tree; arrays or their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def is_matrix(name: str) -> bool:
    """Whether a parameter is multiplied with: it has two letters or more beside the layer N of a stack, and
    is no bias (`bq_NHA`). The factor b of a low-rank update (`b_NRF`) is none.
    """
    letters, own_name = letters_of(name), name.rsplit(".", 1)[-1]
    is_bias = own_name.startswith("b") and "R" not in letters
    return len(letters.replace("N", "")) > 1 and not is_bias


def n_matmul_params(params: Params, *, top_k: int | None = None) -> int:
    """Numbers that a token is multiplied with: matrices, without tables that are only looked up. A tied
    embedding counts, as the output matrix that it also is.

    Of each expert layer a token meets the weights of `top_k` experts; None counts them all.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    looked_up = LOOKED_UP if "unembed_DV" in leaves else LOOKED_UP - {"embed_VD"}
    return sum(_met(name, leaf.shape, top_k) for name, leaf in leaves.items() if name not in looked_up)


def _met(name: str, shape: tuple[int, ...], top_k: int | None) -> int:
    letters = letters_of(name)
    if not is_matrix(name):
        return 0
    if (
        top_k is None or "E" not in letters or len(letters.replace("N", "")) == 2
    ):  # a router meets every token whole
        return math.prod(shape)
    return math.prod(shape) // shape[letters.index("E")] * top_k


def _attention_flops(*, heads: int, widths: int, keys: float) -> float:
    """`widths` are those of a query and a value together, `keys` the sum over layers of those that a
    position sees.
    """
    return 6 * heads * widths * keys


def mean_keys(length: int, window: int | None) -> float:
    """How many positions a position of a causal row sees, on average: half of the row, or less where it
    sees `window` of them at most.
    """
    if window is None or window >= length:
        return length / 2
    return window - window**2 / (2 * length)


def flops_per_token_of(architecture: Any, params: Params, *, length: int) -> float:
    """Model FLOPs of training on one token of a causal row of `length` tokens: the one definition behind
    every FLOP/s and MFU of ours.

    6 a matmul parameter (2 forward, 4 backward), of experts only the active ones (`top_k`); and for
    attention 12·N·H·A·L / 2: a layer's scores and mixing are two products of 2·H·A·L forward and twice that
    backward, of which a causal row needs half (Chowdhery et al. 2022, appendix B, has no half), and a
    window no more keys than it holds. Recomputation does not count, nor that packed documents see less than
    their row.

    The architecture has `layers`, `heads` and `head_width`. What differs from those it says itself:
    `windows()`, one for every layer (else `window`, if it has that, is of all), `attention_widths`, of a
    query and a value together (else 2 · head_width), and `mtp_layers`, each of which meets the output
    matrix once more.
    """
    active = n_matmul_params(params, top_k=getattr(architecture, "top_k", None))
    further = getattr(architecture, "mtp_layers", 0) * architecture.width * padded(architecture.vocab_size)
    windows = (
        architecture.windows()
        if hasattr(architecture, "windows")
        else (getattr(architecture, "window", None),) * architecture.layers
    )
    widths = getattr(architecture, "attention_widths", 2 * architecture.head_width)
    keys = sum(mean_keys(length, window) for window in windows)
    return 6 * (active + further) + _attention_flops(heads=architecture.heads, widths=widths, keys=keys)
