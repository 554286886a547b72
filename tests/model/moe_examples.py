"""Tiny mixtures of experts, batches on which no router is close to another choice, and how close it is."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.batch import TokenBatch
from model.api import ModelInputs
from model.architectures.deepseek_v3 import DeepSeekV3
from model.architectures.mixtral import Mixtral, Qwen3MoE
from model.decoder import _embed, _norm, _rows
from model.layers.rope_scaling import YaRN
from model.layers.stacked_names import of_layer
from model.sharding import shard
from tests.examples import ONE_DEVICE, batch_on, built, params_on, quick_jit, random_tokens, under

B, L = 8, 12
GROUPED = {
    "vocab_size": 40,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 6,
    "experts": 8,
    "context": 32,
}
EXAMPLES = {
    "Mixtral": Mixtral(
        **GROUPED, top_k=2, feed_forward_width=12, balance_loss=0.03, router_z_loss=0.002, window=5
    ),
    "Qwen3MoE": Qwen3MoE(
        **GROUPED, top_k=3, feed_forward_width=10, balance_loss=0.02, expert_weights="scores"
    ),
    "DeepSeekV3": DeepSeekV3(
        vocab_size=40,
        width=16,
        layers=3,
        dense_layers=1,
        heads=4,
        head_width=6,
        rope_width=4,
        value_width=10,
        latent_width=8,
        query_latent_width=24,
        feed_forward_width=20,
        experts=8,
        shared_experts=1,
        top_k=3,
        expert_width=14,
        n_groups=4,
        top_groups=2,
        routed_scale=2.5,
        context=32,
        balance_loss=0.05,
        bias_rate=0.01,
        mtp_layers=1,
        rope_scaling=YaRN(factor=4.0, original_context=16, beta_fast=8.0, table_factor=0.9),
        mscale_all_dim=0.7,
    ),
}
MARGIN = 1e-3


def least_margin(name: str, batch: TokenBatch) -> float:
    """The smallest distance, over all routers and real tokens, between a choice and the best that was not
    chosen.
    """
    with jax.set_mesh(under(ONE_DEVICE)):
        inputs = batch_on(
            under(ONE_DEVICE), ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)
        )
        return float(_margin(name)(params_on(under(ONE_DEVICE), EXAMPLES[name]), inputs))


@cache
def _margin(name: str) -> Any:
    decoder, precision = built(EXAMPLES[name]).apply.args

    def margin(params: Any, inputs: ModelInputs) -> jax.Array:
        rows, x_BLD, found = (
            _rows(decoder, inputs),
            _embed(decoder, params, inputs, precision),
            [jnp.inf],
        )
        for stack_name, stack in decoder.stacks.items():
            for layer in range(stack.N):
                weights = jax.tree.map(lambda x, i=layer: x[i], of_layer(params[stack_name]))
                block = _filled(stack.blocks[0], weights)
                found.append(_of_block(block, x_BLD, rows))
                x_BLD = block(x_BLD, rows)[0]
        x_BLD = _norm(decoder, params, x_BLD)
        for depth, later in enumerate(decoder.further.inputs(inputs) if decoder.further else (), 1):
            module, later_rows = (
                _filled(decoder.further.module, params["mtp"][f"depth{depth}"]),
                _rows(decoder, later),
            )
            joined_BLD = module.join(x_BLD, _embed(decoder, params, later, precision))
            found.append(_of_block(module.block, joined_BLD, later_rows))
            x_BLD = module(x_BLD, _embed(decoder, params, later, precision), later_rows)[0]
        return jnp.min(jnp.array(found))

    return quick_jit(margin)


def _filled(make: Any, weights: Any) -> Any:
    return nnx.merge(nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0], weights)


def _of_block(block: Any, x_BLD: jax.Array, rows: Any) -> jax.Array:
    if not hasattr(block.feed_forward, "router"):
        return jnp.array(jnp.inf)
    x_BLD = x_BLD + block.attention(shard(block.attention_norm(x_BLD), "BLD"), rows)
    moe, h_BLD = block.feed_forward, block.feed_forward_norm(x_BLD)
    bias_E = moe.router_bias_E[...] if hasattr(moe, "router_bias_E") else 0.0
    scores_BLE = moe.router.score(h_BLD @ moe.router_DE[...]) + bias_E
    router, gap_BL = moe.router, 9.0
    if router.n_groups > 1:
        groups_BLPE = scores_BLE.reshape(*scores_BLE.shape[:2], router.n_groups, -1)
        worth_BLP = jnp.sum(jax.lax.top_k(groups_BLPE, 2)[0], -1)
        gap_BL = _gap(worth_BLP, router.top_groups)
        least_BL = jax.lax.top_k(worth_BLP, router.top_groups)[0][..., -1]
        scores_BLE = jnp.where(
            (worth_BLP >= least_BL[..., None])[..., None], groups_BLPE, -9.0
        ).reshape(scores_BLE.shape)
    return jnp.min(
        jnp.where(rows.segments_BL > 0, jnp.minimum(gap_BL, _gap(scores_BLE, router.top_k)), 9.0)
    )


def _gap(scores: jax.Array, k: int) -> jax.Array:
    best = jax.lax.top_k(scores, k + 1)[0]
    return best[..., k - 1] - best[..., k]


SEEDS = {
    "Mixtral": 7,
    "Qwen3MoE": 2,
    "DeepSeekV3": 3,
}  # of batches whose margins are at least MARGIN


def clear_batch(name: str) -> TokenBatch:
    """Packed rows with padding on which routers choose clearly."""
    return random_tokens(B=B, L=L, seed=SEEDS[name])


def search(name: str) -> int:
    """The first seed of a batch with clear margins, for SEEDS."""
    return next(
        seed
        for seed in range(2000)
        if least_margin(name, random_tokens(B=B, L=L, seed=seed)) >= MARGIN
    )
