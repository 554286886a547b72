"""Qwen3-MoE (Yang et al. 2025): a Qwen3 whose feed-forward layers are mixtures of many small experts."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architectures import llama_like, moe_like
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import require, size
from model.hugging_face.expert_tables import expert_sizes, rows
from model.hugging_face.tensor import Tensor
from model.layers.rope_scaling import Scaling


class Qwen3MoE(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field; `balance_loss` and `router_z_loss` are coefficients (see
    `Router.balance`).

    `expert_weights`: the chosen experts count what the softmax over all says, or that divided by its sum.
    `capacity_factor`: an expert takes so many times an even share of a row's choices and drops the rest;
    None drops nothing.
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("qwen3_moe",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    experts: PositiveInt
    top_k: PositiveInt  # experts a token
    feed_forward_width: PositiveInt  # of each expert
    context: PositiveInt  # longest sequence in tokens
    balance_loss: NonNegativeFloat
    router_z_loss: NonNegativeFloat = 0.0
    expert_weights: Literal["scores", "renormalised"] = "renormalised"
    capacity_factor: PositiveFloat | None = None
    rope_theta: PositiveFloat = 1_000_000.0
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-6
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Qwen3MoE":
        moe_like.check(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return moe_like.build(self, precision, execution, head_norm=llama_like.head_norm(self))

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Qwen3MoE":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        everywhere = {"mlp_only_layers": ([],), "decoder_sparse_step": (1,)}  # all layers have experts
        require(
            config, hidden_act=("silu",), attention_bias=(False,), use_sliding_window=(False,), **everywhere
        )
        sizes = {
            **llama_like.sizes_of(config),
            **expert_sizes(config),
            "feed_forward_width": size(config, "moe_intermediate_size"),
        }
        return cls(
            **sizes, expert_weights="renormalised" if config.get("norm_topk_prob", False) else "scores"
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "moe_intermediate_size": self.feed_forward_width,
            "norm_topk_prob": self.expert_weights == "renormalised",
            "router_aux_loss_coef": self.balance_loss,
            "mlp_only_layers": [],
            "decoder_sparse_step": 1,
            "use_sliding_window": False,
            **llama_like.fields_of(self),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return rows(self, theirs="mlp", head_norm=True)


def _qwen3(**sizes: Any) -> Qwen3MoE:
    return Qwen3MoE(
        vocab_size=151_936,
        kv_heads=4,
        head_width=128,
        experts=128,
        top_k=8,
        context=40_960,
        balance_loss=0.001,
        **sizes,
    )


PRESETS = {
    "qwen3_30b_a3b": _qwen3(width=2048, layers=48, heads=32, feed_forward_width=768),
    "qwen3_235b_a22b": _qwen3(width=4096, layers=94, heads=64, feed_forward_width=1536),
}
