"""How large a model is, and what a training step of it costs."""

import math

import jax

from model.api import Params, leaf_name, padded
from model.architecture import Architecture, Facts
from model.sharding import letters_of

# tables whose rows are read, not multiplied (the embedding counts where it is the output matrix), and the
# projection of media, which tokens of text do not pass
LOOKED_UP = {"positions_TD", "embed_VD", "media_WD"}


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
    leaves = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    looked_up = LOOKED_UP if "unembed_DV" in leaves else LOOKED_UP - {"embed_VD"}
    return sum(
        _met(name, leaf.shape, top_k) for name, leaf in leaves.items() if name not in looked_up
    )


def _met(name: str, shape: tuple[int, ...], top_k: int | None) -> int:
    letters = letters_of(name)
    if not is_matrix(name):
        return 0
    if (
        top_k is None or "E" not in letters or len(letters.replace("N", "")) == 2
    ):  # a router meets every token whole
        return math.prod(shape)
    # experts are equally large, so a token meets top_k of E equal shares
    return math.prod(shape) // shape[letters.index("E")] * top_k


def _attention_flops(facts: Facts, length: int) -> float:
    """Scores and mixing of every layer, forward and backward, for the keys that a position sees."""
    flops = 0.0
    for attention, _ in facts.layers:
        widths = attention.qk_width + attention.v_width
        # 6: a multiply-add is 2 FLOPs, and the backward pass costs twice the forward pass. The
        # widths add up because scores sum over qk_width entries and mixing gives v_width of them.
        flops += 6 * attention.heads * widths * mean_keys(length, attention.window)
    return flops


def mean_keys(length: int, window: int | None) -> float:
    """How many positions a position of a causal row sees, on average: half of the row, or less where it
    sees `window` of them at most.
    """
    if window is None or window >= length:
        return length / 2
    # position i sees min(i, window): the first `window` positions see window / 2 on average, all
    # others `window`
    return window - window**2 / (2 * length)


def flops_per_token_of(architecture: Architecture, params: Params, *, length: int) -> float:
    """Model FLOPs of training on one token of a causal row of `length` tokens: the one definition behind
    every FLOP/s and MFU of ours.

    6 a matmul parameter (2 forward, 4 backward), of experts only the active ones (`top_k`); and for
    attention 12·N·H·A·L / 2: a layer's scores and mixing are two products of 2·H·A·L forward and twice that
    backward, of which a causal row needs half (Chowdhery et al. 2022, appendix B, has no half), and a
    window no more keys than it holds. Recomputation does not count, nor that packed documents see less than
    their row.

    Heads, widths and windows are those of `architecture.facts()`; each prediction module meets the output
    matrix once more.
    """
    facts = architecture.facts()
    active = n_matmul_params(params, top_k=facts.experts.top_k)
    # counted once as a parameter, the output matrix is met again by the states of each module
    further = facts.mtp_layers * facts.width * padded(facts.vocab_size)
    return 6 * (active + further) + _attention_flops(facts, length)
