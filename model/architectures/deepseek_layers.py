"""The layers of DeepSeek-V3."""

from typing import Any

import jax
from flax import nnx

from model.execution import Execution
from model.layers.attention import attend_of
from model.layers.feed_forward import FeedForward
from model.layers.latent_attention import LatentAttention
from model.layers.moe import MoE
from model.layers.router import WEIGH, Router


def router_of(sizes: Any) -> Router:
    """Sigmoid scores with a bias, in groups; α of eq. 17 stands before loads that are divided by `top_k`,
    unlike those of `Router`.
    """
    return Router(
        top_k=sizes.top_k,
        score=jax.nn.sigmoid,
        weigh=WEIGH[sizes.expert_weights],
        balance_loss=sizes.balance_loss / sizes.top_k,
        z_loss=sizes.router_z_loss,
        n_groups=sizes.n_groups,
        top_groups=sizes.top_groups,
        scale=sizes.routed_scale,
        bias_rate=sizes.bias_rate,
    )


def attention(sizes: Any, execution: Execution, rngs: nnx.Rngs) -> LatentAttention:
    """Of every layer."""
    return LatentAttention(
        D=sizes.width,
        H=sizes.heads,
        A=sizes.head_width,
        A2=sizes.rope_width,
        A3=sizes.value_width,
        latent=sizes.latent_width,
        query_latent=sizes.query_latent_width,
        scale=sizes.scale,
        attend=attend_of(execution),
        rngs=rngs,
    )


def feed_forward(sizes: Any, rngs: nnx.Rngs) -> FeedForward:
    """Of a dense layer."""
    return FeedForward(D=sizes.width, F=sizes.feed_forward_width, rngs=rngs)


def experts(sizes: Any, rngs: nnx.Rngs) -> MoE:
    """Of the other layers."""
    return MoE(
        D=sizes.width,
        F=sizes.expert_width,
        E=sizes.experts,
        router=router_of(sizes),
        shared_F=sizes.shared_experts * sizes.expert_width,
        capacity_factor=sizes.capacity_factor,
        rngs=rngs,
    )
