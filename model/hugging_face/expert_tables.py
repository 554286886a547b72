"""Fields and rows of name tables that mixtures of experts share."""

from collections.abc import Mapping
from typing import Any

from model.hugging_face.config import size
from model.hugging_face.tables import attention_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor


def expert_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Mixtral and Qwen3-MoE that are about experts, from a config.json.

    Raises:
        ValueError: one is missing.
    """
    return {
        "experts": size(config, "num_local_experts", "num_experts"),
        "top_k": size(config, "num_experts_per_tok"),
        "balance_loss": size(config, "router_aux_loss_coef", default=0.001),
    }


def expert_rows(
    ours: str, theirs: str, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> tuple[Tensor, ...]:
    """The router and the products of every expert; `ours` and `theirs` are what the names of the layer
    begin with.
    """
    N, experts = "N" if "{N}" in theirs else "", f"{theirs}experts.{{E}}."
    return (
        Tensor(f"{ours}router_{N}DE", f"{theirs}gate.weight", "E D"),
        Tensor(f"{ours}w_gate_{N}EDF", f"{experts}{gate}.weight", "F D"),
        Tensor(f"{ours}w_up_{N}EDF", f"{experts}{up}.weight", "F D"),
        Tensor(f"{ours}w_down_{N}EFD", f"{experts}{down}.weight", "D F"),
    )


def rows(sizes: Any, *, theirs: str, head_norm: bool = False, **products: str) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors; `theirs` is the module of the experts in a layer, `products` is as
    for `expert_rows`.
    """
    experts = expert_rows("blocks.feed_forward.", f"model.layers.{{N}}.{theirs}.", **products)
    return (*outer_rows(tied=sizes.tied), *attention_rows(head_norm=head_norm), *norm_rows(), *experts)
