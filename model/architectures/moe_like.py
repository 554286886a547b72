"""What Mixtral and Qwen3-MoE share: Llamas with mixtures of experts, whose routers take a softmax over
all.
"""

from functools import partial
from typing import Any

import jax

from model.api import Model
from model.architectures import llama_like
from model.architectures.one_stack import check_heads
from model.execution import Execution, Precision
from model.layers.moe import MoE
from model.layers.router import WEIGH, Router


def router_of(sizes: Any) -> Router:
    """Of every layer."""
    return Router(
        top_k=sizes.top_k,
        score=jax.nn.softmax,
        weigh=WEIGH[sizes.expert_weights],
        balance_loss=sizes.balance_loss,
        z_loss=sizes.router_z_loss,
    )


def check(sizes: Any) -> None:
    """Heads in equal groups, and experts that can be chosen.

    Raises:
        ValueError: a rule is broken.
    """
    check_heads(sizes)
    router_of(sizes).check(sizes.experts)


def build(sizes: Any, precision: Precision, execution: Execution, **attention: Any) -> Model:
    """`llama_like.build` with experts."""
    experts = {"E": sizes.experts, "F": sizes.feed_forward_width, "capacity_factor": sizes.capacity_factor}
    feed_forward = partial(MoE, D=sizes.width, router=router_of(sizes), **experts)
    return llama_like.build(sizes, precision, execution, feed_forward=feed_forward, **attention)
