"""Rules of mixtures of experts, and the decoder of Llama's relatives among them."""

from functools import partial
from typing import Any

from flax import nnx

from model.api import Model, Precision
from model.architectures.checks import check_heads
from model.decoder import Decoder
from model.execution import Execution
from model.layers.attention import Attention, attend_of
from model.layers.block import Block
from model.layers.moe import MoE
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.router import Router, as_scored, renormalised
from model.layers.stack import Stack

WEIGH = {"scores": as_scored, "renormalised": renormalised}


def check(sizes: Any, router: Router) -> None:
    """Heads in equal groups, and experts that can be chosen.

    Raises:
        ValueError: a rule is broken.
    """
    check_heads(sizes)
    router.check(sizes.experts)


def build(sizes: Any, precision: Precision, execution: Execution, *, router: Router, **attention: Any) -> Model:
    """Pre-norm blocks of rotary grouped-query attention and experts; `attention` is what `Attention` has beyond Llama's."""
    norm = partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps)
    heads = {"D": sizes.width, "H": sizes.heads, "K": sizes.kv_heads, "A": sizes.head_width}
    experts = {"E": sizes.experts, "F": sizes.feed_forward_width, "router": router, "capacity_factor": sizes.capacity_factor}

    def block(rngs: nnx.Rngs) -> Block:
        return Block(
            norm=norm,
            attention=Attention(**heads, attend=attend_of(execution), rngs=rngs, **attention),
            feed_forward=MoE(D=sizes.width, **experts, rngs=rngs),
        )

    return Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        stacks={"blocks": Stack([block], N=sizes.layers, execution=execution)},
        norm=norm,
        tied=sizes.tied,
        ropes={"rope": (Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling), sizes.head_width)},
    ).build(precision)
