"""Mixtral (Jiang et al. 2024): a Mistral whose feed-forward layers are mixtures of experts."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architectures import llama_like, moe_like
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import require
from model.hugging_face.expert_tables import expert_sizes, rows
from model.hugging_face.tensor import Tensor
from model.layers.rope_scaling import Scaling


class Mixtral(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field; `balance_loss` and `router_z_loss` are coefficients (see
    `Router.balance`).

    `capacity_factor`: an expert takes so many times an even share of a row's choices and drops the rest;
    None drops nothing.
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("mixtral",)
    expert_weights: ClassVar[str] = "renormalised"

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
    capacity_factor: PositiveFloat | None = None
    window: PositiveInt | None = None  # how many positions back, itself counted, a position sees
    rope_theta: PositiveFloat = 1_000_000.0
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-5
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Mixtral":
        moe_like.check(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return moe_like.build(self, precision, execution, window=self.window)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Mixtral":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        require(config, hidden_act=("silu",), attention_bias=(False,), router_jitter_noise=(0,))
        return cls(**llama_like.sizes_of(config), **expert_sizes(config), window=config.get("sliding_window"))

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
        experts = {
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "router_aux_loss_coef": self.balance_loss,
        }
        return {**names, **experts, "sliding_window": self.window, **llama_like.fields_of(self)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return rows(self, theirs="block_sparse_moe", gate="w1", up="w3", down="w2")


def _mixtral(**sizes: Any) -> Mixtral:
    return Mixtral(vocab_size=32_000, kv_heads=8, head_width=128, experts=8, top_k=2, **sizes)


PRESETS = {
    "mixtral_8x7b": _mixtral(
        width=4096, layers=32, heads=32, feed_forward_width=14_336, context=32_768, balance_loss=0.02
    ),
    "mixtral_8x22b": _mixtral(
        width=6144, layers=56, heads=48, feed_forward_width=16_384, context=65_536, balance_loss=0.001
    ),
}
