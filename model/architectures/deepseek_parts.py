"""How the layers of DeepSeek-V3 are put together."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx

from model.api import Model
from model.architectures.deepseek_layers import attention, experts, feed_forward
from model.decoder import Decoder
from model.execution import Execution, Precision
from model.layers.block import Block
from model.layers.mtp import Module, MultiToken
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.router import move_biases
from model.layers.stack import Stack


def assemble(sizes: Any, precision: Precision, execution: Execution) -> Model:
    """Two stacks, `dense_blocks` and `blocks`, and behind them what predicts further ahead."""
    norm = partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps)
    dense, sparse = (partial(_block, sizes, execution, norm, make) for make in (feed_forward, experts))
    stacks = {"blocks": Stack([sparse], N=sizes.layers - sizes.dense_layers, execution=execution)}
    if sizes.dense_layers:
        stacks = {"dense_blocks": Stack([dense], N=sizes.dense_layers, execution=execution), **stacks}
    further = MultiToken(
        lambda rngs: Module(D=sizes.width, norm=norm, block=sparse, rngs=rngs), sizes.mtp_layers, execution
    )
    return Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        stacks=stacks,
        norm=norm,
        tied=sizes.tied,
        ropes={"rope": (Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling), sizes.rope_width)},
        further=further if sizes.mtp_layers else None,
        after_step=partial(move_biases, rate=sizes.bias_rate),
    ).build(precision)


def _block(sizes: Any, execution: Execution, norm: Callable, make: Callable, rngs: nnx.Rngs) -> Block:
    return Block(norm=norm, attention=attention(sizes, execution, rngs), feed_forward=make(sizes, rngs))
