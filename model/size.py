"""The number of a model's parameters, and the FLOPs of training it."""

import math

import jax

from model.api import Params, leaf_name, padded
from model.architecture import Architecture, Facts
from model.sharding import letters_of

# Tables, whose rows are read and not multiplied (a tied embedding counts, as the output matrix), and the
# projection of media, which is not applied to tokens of text.
LOOKED_UP = {"positions_TD", "embed_VD", "media_WD"}


def n_params(params: Params) -> int:
    """The number of parameters in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def is_matrix(name: str) -> bool:
    """Whether a parameter is a matrix: it has two letters or more beside the layer N of a stack, and is not a
    bias (`bq_NHA`). The factor b of a low-rank update (`b_NRF`) is a matrix.
    """
    letters, own_name = letters_of(name), name.rsplit(".", 1)[-1]
    is_bias = own_name.startswith("b") and "R" not in letters
    return len(letters.replace("N", "")) > 1 and not is_bias


def n_matmul_params(params: Params, *, top_k: int | None = None) -> int:
    """Parameters that a token is multiplied by: those of matrices, without tables that are only looked up. A
    tied embedding counts, since it is the output matrix too.

    In an expert layer these are the weights of `top_k` experts; None counts all experts.
    """
    leaves = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    looked_up = LOOKED_UP if "unembed_DV" in leaves else LOOKED_UP - {"embed_VD"}
    return sum(
        _multiplied(name, leaf.shape, top_k)
        for name, leaf in leaves.items()
        if name not in looked_up
    )


def _multiplied(name: str, shape: tuple[int, ...], top_k: int | None) -> int:
    """Numbers of one parameter that a token is multiplied by."""
    letters = letters_of(name)
    if not is_matrix(name):
        return 0
    is_router = len(letters.replace("N", "")) == 2  # DE: all of it is applied to every token
    if top_k is None or "E" not in letters or is_router:
        return math.prod(shape)
    # all experts have the same size
    return math.prod(shape) // shape[letters.index("E")] * top_k


def _attention_flops(facts: Facts, length: int) -> float:
    """FLOPs per token of scores and mixing in all layers, forward and backward."""
    flops = 0.0
    for attention, _ in facts.layers:
        widths = attention.qk_width + attention.v_width
        # 6: a multiply-add is 2 FLOPs, and the backward pass costs twice the forward pass. For each key a
        # score sums over qk_width entries, and mixing adds v_width entries.
        flops += 6 * attention.heads * widths * mean_keys(length, attention.window)
    return flops


def mean_keys(length: int, window: int | None) -> float:
    """How many keys a position of a causal row sees on average: half of the row, or less with a window."""
    if window is None or window >= length:
        return length / 2
    # Position i sees min(i, window) keys: on average window / 2 for the first `window` positions, and
    # `window` for all others.
    return window - window**2 / (2 * length)


def flops_per_token_of(architecture: Architecture, params: Params, *, length: int) -> float:
    """Model FLOPs of training on one token of a causal row of `length` tokens; every FLOP/s and MFU that we
    report uses this definition.

    They are 6 per matmul parameter (2 forward, 4 backward), counting only `top_k` experts, and for attention
    12·N·H·A·L / 2: a layer's scores and mixing are two products of 2·H·A·L FLOPs forward and twice that
    backward, of which causal attention needs half (Chowdhery et al. 2022, appendix B, counts all), or less
    with a window. Neither recomputation counts, nor that tokens of packed documents see less than their row.

    Heads, widths and windows are those of `architecture.facts()`; each prediction module multiplies by the
    output matrix once more.
    """
    facts = architecture.facts()
    active = n_matmul_params(params, top_k=facts.experts.top_k)
    # `active` counts the output matrix once; the hidden states of each module are multiplied by it too
    further = facts.mtp_layers * facts.width * padded(facts.vocab_size)
    return 6 * (active + further) + _attention_flops(facts, length)
