"""What a training step computes beyond the FLOPs of the model: products made again, so that their results
need not be kept (HFU).
"""

import math

from model.api import Params, padded
from model.architecture import Architecture, ExpertFacts, Facts
from model.execution import KEPT, Execution, Remat
from model.sharding import letters_of
from model.size import flops_per_token_of, mean_keys

# a weight -> the name by which the result of its product is kept (model/execution.py)
RESULTS = {
    "wq": "query",
    "wk": "key",
    "wv": "value",
    "wo": "attention",
    "w_gate": "gate",
    "w_up": "up",
    "w_down": "feed_forward",
}
LATENT_RESULTS = {
    "wk_rope": "key",
    "wo": "attention",
}  # its other names are behind norms, which want their inputs
NORMED = {"query": "q_norm", "key": "k_norm"}  # where a head has these norms, so are those names


def hardware_flops_per_token_of(
    architecture: Architecture, params: Params, *, length: int, execution: Execution
) -> float:
    """FLOPs computed in training on one token of a causal row: `flops_per_token_of`, and what the backward
    pass computes again.

    That is always the logits, and the scores of attention (but for `plain`, which keeps them); under
    `execution.remat` also every product of a block whose result is needed and not kept. A block's last
    product is needed only where a norm or a router's weight comes behind
    it: `full` is the forward pass of the blocks once more without it. What masks leave out does not count,
    as in the model's FLOPs; nor do products of the optimizer, and what splash computes twice beyond 4,096
    keys.
    """
    facts = architecture.facts()
    # the loss keeps no logits, the largest array of a step: its backward pass makes them again
    logits = (1 + facts.mtp_layers) * facts.width * padded(facts.vocab_size)
    weights = 0.0
    if execution.remat.preset != "none":
        blocks = {name: tree for name, tree in params.items() if isinstance(tree, dict)}
        weights = sum(
            _met_again(tree, execution.remat, facts.experts, behind=name == "mtp")
            for name, tree in blocks.items()
        )
    attention = _attention_again(facts, length, execution)
    # 2: the terms are multiply-adds
    return flops_per_token_of(architecture, params, length=length) + 2 * (
        logits + weights + attention
    )


def _met_again(tree: Params, remat: Remat, experts: ExpertFacts, *, behind: bool) -> float:
    """Numbers in the weights of a block that a token is multiplied with again; `behind`: whether a norm
    comes behind its last product.
    """
    found = 0.0
    for key, leaf in tree.items():
        if isinstance(leaf, dict):
            found += _met_again(leaf, remat, experts, behind=behind or f"{key}_post_norm" in tree)
            continue
        letters = letters_of(key).replace("N", "")
        # one letter is the scale of a norm, and a name with b a bias: neither is a product
        if len(letters) < 2 or key.startswith("b"):
            continue
        # DE, of two letters, is the router, which every token meets
        of_experts = "E" in letters and len(letters) > 2
        if _is_needed(key.rsplit("_", 1)[0], tree, remat, of_experts=of_experts, behind=behind):
            found += math.prod(leaf.shape) * (experts.top_k / experts.experts if of_experts else 1)
    return found


def _is_needed(
    weight: str, siblings: Params, remat: Remat, *, of_experts: bool, behind: bool
) -> bool:
    """Whether the backward pass needs the product of this weight, and does not find it."""
    if remat.preset == "dots":
        return of_experts
    # nothing reads the last result of a dense block again; that of an expert is multiplied with
    # the router's weight, whose gradient needs it
    if weight == "w_down" and (of_experts or not behind):
        return of_experts
    latent = any(key.startswith("wkv_down") for key in siblings)
    name = (LATENT_RESULTS if latent else RESULTS).get(weight)
    return name not in _kept(remat) or NORMED.get(name) in siblings


def _kept(remat: Remat) -> set[str]:
    return {*KEPT.get(remat.preset, ()), *remat.keep, *remat.offload}


def _attention_again(facts: Facts, length: int, execution: Execution) -> float:
    """Multiply-adds of scores (queries with keys) and mixing (weights with values)."""
    remat = execution.remat.preset != "none"
    mixes = remat and "mixed" not in _kept(execution.remat)
    # every kernel but `plain` makes the scores again in its own backward pass (+ 1), and once more
    # where its forward pass is run again
    scores = mixes + 1 if execution.attention != "plain" else int(remat)
    total = 0.0
    for attention, _ in facts.layers:
        keys = mean_keys(length, attention.window)
        total += attention.heads * keys * (scores * attention.qk_width + mixes * attention.v_width)
    return total
