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


def expert_rows(ours: str, theirs: str, *, gate: str, up: str, down: str, first: int = 0) -> tuple[Tensor, ...]:
    """The router and the products of every expert; `ours` is the name of the layer, `theirs` that of the layer's module with its dot."""
    N = "N" if "{N}" in theirs else ""
    experts = f"{theirs}experts.{{E}}."
    return (
        Tensor(f"{ours}.router_{N}DE", f"{theirs}gate.weight", "E D", first),
        Tensor(f"{ours}.w_gate_{N}EDF", f"{experts}{gate}.weight", "F D", first),
        Tensor(f"{ours}.w_up_{N}EDF", f"{experts}{up}.weight", "F D", first),
        Tensor(f"{ours}.w_down_{N}EFD", f"{experts}{down}.weight", "D F", first),
    )


def rows(sizes: Any, *, theirs: str, gate: str, up: str, down: str, head_norm: bool = False) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors; `theirs` is the module of the experts in a layer."""
    attention = attention_rows("blocks", head_norm=head_norm)
    experts = expert_rows("blocks.feed_forward", f"model.layers.{{N}}.{theirs}.", gate=gate, up=up, down=down)
    return (*outer_rows(tied=sizes.tied), *attention, *norm_rows("blocks"), *experts)
