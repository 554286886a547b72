"""Llamas whose feed-forward layers are mixtures of experts: Mixtral (Jiang et al. 2024) with few large
experts, and Qwen3-MoE (Yang et al. 2025) with many small ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import jax
from flax import nnx
from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architecture import Facts
from model.decoder import Decoder
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import decoder_fields, decoder_sizes, expert_sizes, size
from model.hugging_face.defaults import completed, require
from model.hugging_face.names import attention_rows, expert_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor
from model.kernels.choose import attend_of
from model.layers.attention import Attention
from model.layers.block import Block
from model.layers.moe import MoE
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.rope_scaling import Scaling, check_heads
from model.layers.router import WEIGH, Router
from model.layers.stack import Stack


class _ExpertLlama(BaseModel, ABC, frozen=True, extra="forbid", strict=True):
    """The sizes that both families have.

    `balance_loss` and `router_z_loss` are coefficients (see `Router.balance`). `capacity_factor`: an expert
    takes at most this many times an even share of a row's choices and drops the rest; None drops nothing.
    """

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
    rope_theta: PositiveFloat = 1_000_000.0
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-6
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "_ExpertLlama":
        check_heads(self)
        # at least as many experts as a token chooses
        _router(self).check(self.experts)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return _decoder(self, execution, **self._attention()).build(precision)

    def facts(self) -> Facts:
        """Heads, widths, windows and experts of every layer."""
        return _decoder(self, DEFAULT, **self._attention()).facts()

    @abstractmethod
    def _attention(self) -> dict[str, Any]:
        """Arguments of `Attention` that Llama's layers do not have."""


class Mixtral(_ExpertLlama):
    """Mixtral; `window` is as in Mistral."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("mixtral",)
    # Mixtral's softmax over the chosen experts equals that over all, divided by the sum of the chosen ones.
    expert_weights: ClassVar[str] = "renormalised"

    # how many positions, itself included, a position sees; None = all
    window: PositiveInt | None = None
    norm_eps: PositiveFloat = 1e-5

    def _attention(self) -> dict[str, Any]:
        return {"window": self.window}

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Mixtral":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        config = completed(config, "mixtral")
        # router_jitter_noise: we have no noise on the router's inputs
        require(config, hidden_act=("silu",), attention_bias=(False,), router_jitter_noise=(0,))
        sizes = decoder_sizes(config, default_theta=1_000_000.0)
        # null in the released checkpoints, which have no window
        return cls(**sizes, **expert_sizes(config), window=config["sliding_window"])

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "router_aux_loss_coef": self.balance_loss,
            "sliding_window": self.window,
            **decoder_fields(self),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        # w1, w2 and w3 are the names in the authors' own code
        theirs = "model.layers.{N}.block_sparse_moe."
        experts = expert_rows("blocks.feed_forward.", theirs, gate="w1", up="w3", down="w2")
        return (*outer_rows(tied=self.tied), *attention_rows(), *norm_rows(), *experts)


class Qwen3MoE(_ExpertLlama):
    """Qwen3-MoE's sizes; its heads are normed as in Qwen3.

    `expert_weights`: the weights of the chosen experts are their probabilities in the softmax over all
    ("scores"), or these divided by their sum ("renormalised").
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("qwen3_moe",)

    expert_weights: Literal["scores", "renormalised"] = "renormalised"

    def _attention(self) -> dict[str, Any]:
        head_norm = partial(RMSNorm, size=self.head_width, eps=self.norm_eps, letter="A")
        return {"head_norm": head_norm}

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Qwen3MoE":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        config = completed(config, "qwen3_moe")
        require(config, hidden_act=("silu",), attention_bias=(False,), use_sliding_window=(False,))
        require(config, mlp_only_layers=([],), decoder_sparse_step=(1,))  # all layers have experts
        sizes = {
            **decoder_sizes(config),
            **expert_sizes(config),
            # `intermediate_size` is that of dense layers, of which there are none
            "feed_forward_width": size(config, "moe_intermediate_size"),
        }
        weights = "renormalised" if config["norm_topk_prob"] else "scores"
        return cls(**sizes, expert_weights=weights)

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
            # every layer has experts
            "mlp_only_layers": [],
            "decoder_sparse_step": 1,
            "use_sliding_window": False,
            **decoder_fields(self),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        experts = expert_rows("blocks.feed_forward.", "model.layers.{N}.mlp.")
        return (
            *outer_rows(tied=self.tied),
            *attention_rows(head_norm=True),
            *norm_rows(),
            *experts,
        )


def _router(sizes: _ExpertLlama) -> Router:
    """A softmax over all experts, whatever is chosen of them."""
    return Router(
        top_k=sizes.top_k,
        score=jax.nn.softmax,
        weigh=WEIGH[sizes.expert_weights],
        balance_loss=sizes.balance_loss,
        z_loss=sizes.router_z_loss,
    )


def _decoder(sizes: _ExpertLlama, execution: Execution, **attention: Any) -> Decoder:
    """Llama's blocks with experts; `attention` is what `Attention` has beyond Llama's."""
    norm = partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps)

    def block(rngs: nnx.Rngs) -> Block:
        return Block(
            norm=norm,
            attention=Attention(
                D=sizes.width,
                H=sizes.heads,
                K=sizes.kv_heads,
                A=sizes.head_width,
                attend=attend_of(execution),
                rngs=rngs,
                **attention,
            ),
            feed_forward=MoE(
                D=sizes.width,
                F=sizes.feed_forward_width,
                E=sizes.experts,
                router=_router(sizes),
                capacity_factor=sizes.capacity_factor,
                rngs=rngs,
            ),
        )

    rope = Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling)
    return Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        stacks={"blocks": Stack([block], N=sizes.layers, execution=execution)},
        norm=norm,
        tied=sizes.tied,
        ropes={"rope": (rope, sizes.head_width)},
    )


def _mixtral(**sizes: Any) -> Mixtral:
    return Mixtral(vocab_size=32_000, kv_heads=8, head_width=128, experts=8, top_k=2, **sizes)


def _qwen3(**sizes: Any) -> Qwen3MoE:
    attention = {"kv_heads": 4, "head_width": 128, "context": 40_960}
    return Qwen3MoE(
        vocab_size=151_936, **attention, experts=128, top_k=8, balance_loss=0.001, **sizes
    )


PRESETS = {
    # balance losses are those of the authors' config.json
    "mixtral_8x7b": _mixtral(
        width=4096,
        layers=32,
        heads=32,
        feed_forward_width=14_336,
        context=32_768,
        balance_loss=0.02,
    ),
    "mixtral_8x22b": _mixtral(
        width=6144,
        layers=56,
        heads=48,
        feed_forward_width=16_384,
        context=65_536,
        balance_loss=0.001,
    ),
    # a3b and a22b: billions of parameters that are active for a token
    "qwen3_30b_a3b": _qwen3(width=2048, layers=48, heads=32, feed_forward_width=768),
    "qwen3_235b_a22b": _qwen3(width=4096, layers=94, heads=64, feed_forward_width=1536),
}
