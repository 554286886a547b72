"""Decoders of one stack of blocks with grouped-query attention: all families but DeepSeek."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flax import nnx

from model.decoder import Decoder
from model.execution import Execution
from model.layers.attention import Attention, attend_of
from model.layers.block import Block
from model.layers.rope import Rope
from model.layers.stack import Stack


def check_heads(sizes: Any) -> None:
    """Query heads in equal groups, and pairs to turn.

    Raises:
        ValueError: a rule is broken.
    """
    if sizes.heads % sizes.kv_heads:
        raise ValueError(
            f"heads={sizes.heads} is not a multiple of kv_heads={sizes.kv_heads}; choose equal groups"
        )
    if sizes.head_width % 2:
        raise ValueError(
            f"head_width={sizes.head_width} is odd; rotary positions turn pairs, choose an even width"
        )


def decoder(
    sizes: Any,
    execution: Execution,
    *,
    norm: Callable[[], nnx.Module],
    pattern: Sequence[dict[str, Any]],
    feed_forward: Callable[..., nnx.Module],
    ropes: dict[str, Rope],
    **block: Any,
) -> Decoder:
    """A decoder of these sizes; layer i has what `pattern[i % len(pattern)]` says of its `Attention`.

    `feed_forward(rngs=…)` makes the other half of a layer, and `block` is what `Block` takes beyond the
    parts.
    """
    heads = {"D": sizes.width, "H": sizes.heads, "K": sizes.kv_heads, "A": sizes.head_width}

    def layer(own: dict[str, Any], rngs: nnx.Rngs) -> Block:
        attention = Attention(**heads, attend=attend_of(execution), rngs=rngs, **own)
        return Block(norm=norm, attention=attention, feed_forward=feed_forward(rngs=rngs), **block)

    return Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        stacks={
            "blocks": Stack([partial(layer, own) for own in pattern], N=sizes.layers, execution=execution)
        },
        norm=norm,
        tied=sizes.tied,
        ropes={name: (rope, sizes.head_width) for name, rope in ropes.items()},
    )
