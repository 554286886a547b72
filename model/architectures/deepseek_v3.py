"""DeepSeek-V3 (DeepSeek-AI 2024): latent attention, many small experts beside shared ones, and multi-token
prediction.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import jax
from flax import nnx
from pydantic import (
    BaseModel,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from model.api import Model
from model.architecture import Facts
from model.decoder import Decoder
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face import deepseek as checkpoint
from model.hugging_face.config import rope_fields, rope_of, size
from model.hugging_face.defaults import completed, require
from model.hugging_face.tensor import Tensor
from model.kernels.choose import attend_of
from model.layers.block import Block
from model.layers.feed_forward import FeedForward
from model.layers.latent_attention import LatentAttention
from model.layers.moe import MoE
from model.layers.mtp import Module, MultiToken
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.rope_scaling import LongRoPE, Scaling, YaRN, check_rotation, yarn_growth
from model.layers.router import WEIGH, Router, move_biases
from model.layers.stack import Stack


class DeepSeekV3(BaseModel, frozen=True, extra="forbid", strict=True):
    """The first `dense_layers` of the `layers` have a dense feed-forward layer instead of experts.

    `balance_loss` is α of eq. 17, applied to the loads of the whole batch instead of each sequence;
    `router_z_loss` is a coefficient too (see `Router.balance`). `bias_rate` is the amount by which router
    biases are adjusted after each step (eq. 16); 0 keeps them as they are.
    `capacity_factor`: an expert takes at most this many times an even share of a row's choices and drops the
    rest; None drops nothing.
    `mscale_all_dim`: scores are multiplied by (0.1 · mscale_all_dim · ln(rope_scaling.factor) + 1)².
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("deepseek_v3",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    dense_layers: NonNegativeInt
    heads: PositiveInt
    head_width: PositiveInt  # of queries and keys, without the rotated entries
    rope_width: PositiveInt  # the rotated entries
    value_width: PositiveInt
    latent_width: PositiveInt
    query_latent_width: PositiveInt | None  # None: queries have no latent
    feed_forward_width: PositiveInt  # of the dense layers
    experts: PositiveInt
    shared_experts: NonNegativeInt
    top_k: PositiveInt  # experts per token, without the shared ones
    expert_width: PositiveInt
    n_groups: PositiveInt
    top_groups: PositiveInt
    routed_scale: PositiveFloat
    context: PositiveInt  # longest sequence in tokens
    balance_loss: NonNegativeFloat
    bias_rate: NonNegativeFloat
    router_z_loss: NonNegativeFloat = 0.0
    expert_weights: Literal["scores", "renormalised"] = "renormalised"
    capacity_factor: PositiveFloat | None = None
    mtp_layers: NonNegativeInt = 0  # how many tokens beyond the next are predicted too
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: Scaling | None = None
    mscale_all_dim: NonNegativeFloat = 0.0
    norm_eps: PositiveFloat = 1e-6
    tied: bool = False  # the output matrix is the embedding
    # whether a Hugging Face checkpoint stores rotary pairs as neighbours; our parameters have them in halves
    rope_interleave: bool = True

    @model_validator(mode="after")
    def _sizes_agree(self) -> "DeepSeekV3":
        check_rotation(self.rope_scaling, width=self.rope_width, name="rope_width")
        if self.mscale_all_dim and isinstance(self.rope_scaling, LongRoPE):
            raise ValueError(
                f"mscale_all_dim={self.mscale_all_dim} needs a scaling with one factor for all frequencies, "
                "and longrope has many; set it to 0"
            )
        if self.dense_layers >= self.layers:
            raise ValueError(
                f"dense_layers={self.dense_layers} leaves none of layers={self.layers} for experts; "
                "lower it, or take a Llama"
            )
        self._router().check(self.experts)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return self._decoder(execution).build(precision)

    def facts(self) -> Facts:
        """Heads, widths and experts of every layer, and of the prediction modules."""
        return self._decoder(DEFAULT).facts()

    def _decoder(self, execution: Execution) -> Decoder:
        norm = partial(RMSNorm, size=self.width, eps=self.norm_eps)

        def dense(rngs: nnx.Rngs) -> Block:
            attention = self._attention(execution, rngs)
            feed_forward = FeedForward(D=self.width, F=self.feed_forward_width, rngs=rngs)
            return Block(norm=norm, attention=attention, feed_forward=feed_forward)

        def sparse(rngs: nnx.Rngs) -> Block:
            attention = self._attention(execution, rngs)
            return Block(norm=norm, attention=attention, feed_forward=self._experts(rngs))

        stacks = {"blocks": Stack([sparse], N=self.layers - self.dense_layers, execution=execution)}
        if self.dense_layers:
            # the first key of the dict is the first stack: dense layers come first
            stacks = {
                "dense_blocks": Stack([dense], N=self.dense_layers, execution=execution),
                **stacks,
            }

        def module(rngs: nnx.Rngs) -> Module:
            # its block has experts, like the model's last layers (§2.2)
            return Module(D=self.width, norm=norm, block=sparse, rngs=rngs)

        rope = Rope(theta=self.rope_theta, scaling=self.rope_scaling)
        return Decoder(
            vocab_size=self.vocab_size,
            width=self.width,
            stacks=stacks,
            norm=norm,
            tied=self.tied,
            # only rope_width entries of a head are rotated
            ropes={"rope": (rope, self.rope_width)},
            further=MultiToken(module, self.mtp_layers, execution) if self.mtp_layers else None,
            # Router biases have no gradient: the experts' loads adjust them after each step (eq. 16).
            after_step=partial(move_biases, rate=self.bias_rate),
        )

    def _attention(self, execution: Execution, rngs: nnx.Rngs) -> LatentAttention:
        return LatentAttention(
            D=self.width,
            H=self.heads,
            A=self.head_width,
            A2=self.rope_width,
            A3=self.value_width,
            latent=self.latent_width,
            query_latent=self.query_latent_width,
            scale=self.scale,
            attend=attend_of(execution),
            rngs=rngs,
        )

    def _experts(self, rngs: nnx.Rngs) -> MoE:
        return MoE(
            D=self.width,
            F=self.expert_width,
            E=self.experts,
            router=self._router(),
            # Every token passes all shared experts, so they are computed as one of their joint width.
            shared_F=self.shared_experts * self.expert_width,
            capacity_factor=self.capacity_factor,
            rngs=rngs,
        )

    def _router(self) -> Router:
        """Experts are chosen in groups, by sigmoid scores plus a bias."""
        return Router(
            top_k=self.top_k,
            score=jax.nn.sigmoid,
            weigh=WEIGH[self.expert_weights],
            # divided: the loads of eq. 17 are divided by `top_k`, those of `Router` are not
            balance_loss=self.balance_loss / self.top_k,
            z_loss=self.router_z_loss,
            n_groups=self.n_groups,
            top_groups=self.top_groups,
            scale=self.routed_scale,
            bias_rate=self.bias_rate,
        )

    @property
    def scale(self) -> float:
        """The factor of attention scores."""
        growth = 1.0
        if self.rope_scaling and self.mscale_all_dim:
            growth = yarn_growth(self.rope_scaling.factor, self.mscale_all_dim)
        # squared: YaRN's growth applies to queries and to keys
        return (self.head_width + self.rope_width) ** -0.5 * growth**2

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "DeepSeekV3":
        """The architecture that a config.json describes, with `bias_rate` 0.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        config = completed(config, "deepseek_v3")
        heads = config["num_attention_heads"]
        router = {
            "scoring_func": ("sigmoid",),
            "topk_method": ("noaux_tc",),
            "moe_layer_freq": (1,),
        }
        require(config, hidden_act=("silu",), attention_bias=(False,), **router)
        # every head has its own keys and values, once they are computed from the latents
        require(config, num_key_value_heads=(heads,))
        rope = rope_of(_with_rope_width(config))
        get = partial(size, config)
        # `mscale_all_dim` stands beside the factor; of two tables transformers reads the older one
        scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
        return cls(
            **{ours: get(theirs) for ours, theirs in FIELDS.items()},
            query_latent_width=config["q_lora_rank"],
            mtp_layers=get("num_nextn_predict_layers", default=0),
            expert_weights="renormalised" if config["norm_topk_prob"] else "scores",
            balance_loss=get("aux_loss_alpha"),
            bias_rate=0.0,  # as at the end of the authors' training; a run may set it
            rope_theta=rope.theta,
            rope_scaling=rope.scaling,
            mscale_all_dim=scaling.get("mscale_all_dim") or 0.0,
            rope_interleave=config["rope_interleave"],
            norm_eps=get("rms_norm_eps"),
            tied=config["tie_word_embeddings"],
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5, and for the authors' own code."""
        rope = Rope(theta=self.rope_theta, scaling=self.rope_scaling)
        own = dict(self)  # a pydantic model iterates over its fields
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            **{theirs: own[ours] for ours, theirs in FIELDS.items()},
            # every head has its own keys and values, once they are computed from the latents
            "num_key_value_heads": self.heads,
            "q_lora_rank": self.query_latent_width,
            "num_nextn_predict_layers": self.mtp_layers,
            "norm_topk_prob": self.expert_weights == "renormalised",
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "moe_layer_freq": 1,
            "aux_loss_alpha": self.balance_loss,
            "rope_interleave": self.rope_interleave,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": self.tied,
            **rope_fields(rope, extra=self._mscales()),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint; prediction modules are layers after the last one,
        which transformers ignores.
        """
        return checkpoint.rows(self)

    def _mscales(self) -> dict[str, float]:
        """`mscale` and `mscale_all_dim` of the authors' config; our factor of the rotary tables is the ratio
        of their growths.
        """
        if not self.mscale_all_dim:
            return {}
        scaling = self.rope_scaling
        if not isinstance(scaling, YaRN) or scaling.factor <= 1:
            return {"mscale_all_dim": self.mscale_all_dim}
        # yarn_growth(f, m) = 1 + m · unit, and the tables' factor is growth(mscale) / growth(mscale_all_dim)
        unit = yarn_growth(scaling.factor, 1.0) - 1
        growth = scaling.factor_of_tables() * yarn_growth(scaling.factor, self.mscale_all_dim)
        return {"mscale": (growth - 1) / unit, "mscale_all_dim": self.mscale_all_dim}


FIELDS = {  # ours -> config.json
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "dense_layers": "first_k_dense_replace",
    "heads": "num_attention_heads",
    "head_width": "qk_nope_head_dim",
    "rope_width": "qk_rope_head_dim",
    "value_width": "v_head_dim",
    "latent_width": "kv_lora_rank",
    "feed_forward_width": "intermediate_size",
    "experts": "n_routed_experts",
    "shared_experts": "n_shared_experts",
    "top_k": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "n_groups": "n_group",
    "top_groups": "topk_group",
    "routed_scale": "routed_scaling_factor",
    "context": "max_position_embeddings",
}


def _with_rope_width(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "head_dim": config.get("qk_rope_head_dim")}


PRESETS = {
    "deepseek_v3": DeepSeekV3(
        vocab_size=129_280,
        width=7168,
        layers=61,
        dense_layers=3,
        heads=128,
        head_width=128,
        rope_width=64,
        value_width=128,
        latent_width=512,
        query_latent_width=1536,
        feed_forward_width=18_432,
        experts=256,
        shared_experts=1,
        top_k=8,
        expert_width=2048,
        n_groups=8,
        top_groups=4,
        routed_scale=2.5,
        # 40 · 4,096, after YaRN
        context=163_840,
        # §4.2 of the paper; the rate was 1e-3 for 14.3 of the 14.8 trillion tokens and then 0
        balance_loss=1e-4,
        bias_rate=1e-3,
        mtp_layers=1,
        # table_factor: `mscale` and `mscale_all_dim` are both 1, so the ratio of their growths is 1
        rope_scaling=YaRN(factor=40.0, original_context=4096, table_factor=1.0),
        mscale_all_dim=1.0,
    ),
}
