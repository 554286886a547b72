"""How large a model is, and what a training step of it costs."""

import math
from typing import Any

import jax

from model.api import Params
from model.sharding import letters_of


def n_params(params: Params) -> int:
    """Numbers in the tree; arrays or their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def n_matmul_params(params: Params) -> int:
    """Numbers that every token is multiplied with: matrices, without norm scales (one letter beside the layer's N) and without
    an embedding that is only looked up. A tied embedding counts, as the output matrix that it also is.
    """
    leaves = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    if "unembed_DV" in leaves:
        leaves.pop("embed_VD")
    return sum(math.prod(leaf.shape) for name, leaf in leaves.items() if len(letters_of(name).replace("N", "")) > 1)


def flops_per_token(*, matmul_params: int, layers: int, heads: int, head_width: int, length: int) -> float:
    """Model FLOPs of training on one token of a causal row of `length` tokens: the one definition behind every FLOP/s and MFU of ours.

    6 a matmul parameter (2 forward, 4 backward), and for attention 12·N·H·A·L / 2: a layer's scores and mixing are two products of 2·H·A·L
    forward and twice that backward, of which a causal row needs half (Chowdhery et al. 2022, appendix B, has no half). Recomputation
    does not count, nor that packed documents see less than their row.
    """
    return 6 * matmul_params + 12 * layers * heads * head_width * length / 2


def flops_per_token_of(architecture: Any, params: Params, *, length: int) -> float:
    """`flops_per_token` of an architecture that has `layers`, `heads` and `head_width`."""
    sizes = {name: getattr(architecture, name) for name in ("layers", "heads", "head_width")}
    return flops_per_token(matmul_params=n_matmul_params(params), length=length, **sizes)
