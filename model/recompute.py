"""Hardware FLOPs (HFU): what a training step computes beyond the FLOPs of the model, because products are
recomputed in the backward pass instead of being kept.
"""

import math

from model.api import Params, padded
from model.architecture import Architecture, ExpertFacts, Facts
from model.execution import KEPT, Execution, Remat
from model.sharding import letters_of
from model.size import flops_per_token_of, mean_keys

# weight -> the activation name of its product, by which `Remat` keeps it (model/execution.py)
RESULTS = {
    "wq": "query",
    "wk": "key",
    "wv": "value",
    "wo": "attention",
    "w_gate": "gate",
    "w_up": "up",
    "w_down": "feed_forward",
}
# Of latent attention: its other named activations follow norms, whose backward pass needs their inputs, so
# keeping them spares no product.
LATENT_RESULTS = {
    "wk_rope": "key",
    "wo": "attention",
}
# Likewise where heads are normed: the named activation follows the norm.
NORMED = {"query": "q_norm", "key": "k_norm"}


def hardware_flops_per_token_of(
    architecture: Architecture, params: Params, *, length: int, execution: Execution
) -> float:
    """FLOPs computed in training on one token of a causal row: `flops_per_token_of`, plus what the backward
    pass recomputes.

    These are always the logits, and the scores of attention (except with `plain`, which keeps them); with
    `execution.remat` also every product of a block whose result is needed and not kept. The result of a
    block's last product is needed only if a norm or a router's weight follows it; preset `full` thus repeats
    the forward pass of the blocks without that product. Masked scores do not count, as in the model's FLOPs;
    nor do the optimizer's products, and what splash recomputes beyond 4,096 keys.
    """
    facts = architecture.facts()
    # the loss keeps no logits, the largest array of a step, and recomputes them
    logits = (1 + facts.mtp_layers) * facts.width * padded(facts.vocab_size)
    weights = 0.0
    if execution.remat.preset != "none":
        blocks = {name: tree for name, tree in params.items() if isinstance(tree, dict)}
        # a norm follows the blocks of prediction modules
        weights = sum(
            _recomputed_params(tree, execution.remat, facts.experts, norm_follows=name == "mtp")
            for name, tree in blocks.items()
        )
    attention = _attention_again(facts, length, execution)
    # 2: a multiply-add is 2 FLOPs
    return flops_per_token_of(architecture, params, length=length) + 2 * (
        logits + weights + attention
    )


def _recomputed_params(
    tree: Params, remat: Remat, experts: ExpertFacts, *, norm_follows: bool
) -> float:
    """Parameters of a block whose product with a token the backward pass recomputes; `norm_follows`: a norm
    reads the block's last product.
    """
    total = 0.0
    for key, leaf in tree.items():
        if isinstance(leaf, dict):
            follows = norm_follows or f"{key}_post_norm" in tree
            total += _recomputed_params(leaf, remat, experts, norm_follows=follows)
            continue
        letters = letters_of(key).replace("N", "")
        # a single letter is a norm's scale, and a name that starts with b a bias: neither is a product
        if len(letters) < 2 or key.startswith("b"):
            continue
        # DE, of two letters, is the router, which every token is multiplied by
        of_experts = "E" in letters and len(letters) > 2
        weight = key.rsplit("_", 1)[0]
        if _is_recomputed(weight, tree, remat, of_experts=of_experts, norm_follows=norm_follows):
            share = experts.top_k / experts.experts if of_experts else 1
            total += math.prod(leaf.shape) * share
    return total


def _is_recomputed(
    weight: str, siblings: Params, remat: Remat, *, of_experts: bool, norm_follows: bool
) -> bool:
    """Whether the backward pass needs the product of this weight, and it is not kept."""
    if remat.preset == "dots":
        return of_experts
    # Nothing reads the last product of a dense block again. That of an expert is multiplied by the router's
    # weight, whose gradient needs it.
    if weight == "w_down" and (of_experts or not norm_follows):
        return of_experts
    latent = any(key.startswith("wkv_down") for key in siblings)
    name = (LATENT_RESULTS if latent else RESULTS).get(weight)
    return name not in _kept(remat) or NORMED.get(name) in siblings


def _kept(remat: Remat) -> set[str]:
    return {*KEPT.get(remat.preset, ()), *remat.keep, *remat.offload}


def _attention_again(facts: Facts, length: int, execution: Execution) -> float:
    """Multiply-adds a token of recomputed scores (queries · keys) and mixing (weights · values)."""
    remat = execution.remat.preset != "none"
    mixes = remat and "mixed" not in _kept(execution.remat)
    # Every kernel but `plain` recomputes the scores in its own backward pass (+ 1), and once more if remat
    # repeats its forward pass.
    scores = mixes + 1 if execution.attention != "plain" else int(remat)
    total = 0.0
    for attention, _ in facts.layers:
        keys = mean_keys(length, attention.window)
        total += attention.heads * keys * (scores * attention.qk_width + mixes * attention.v_width)
    return total
