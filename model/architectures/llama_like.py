"""What Llama and its relatives share: the decoder, and the fields and tensors of a Hugging Face checkpoint."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from model.api import Model, Precision
from model.decoder import Decoder
from model.execution import Execution
from model.hugging_face.config import head_width, rope_fields, rope_of, size
from model.hugging_face.tables import attention_rows, gated_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor
from model.layers.attention import Attention, attend_of
from model.layers.block import Block
from model.layers.feed_forward import FeedForward
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.stack import Stack


def build(sizes: Any, precision: Precision, execution: Execution, **attention: Any) -> Model:
    """Pre-norm blocks of rotary grouped-query attention and SwiGLU; `attention` is what `Attention` has beyond Llama's."""
    norm = partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps)
    heads = {"D": sizes.width, "H": sizes.heads, "K": sizes.kv_heads, "A": sizes.head_width}

    def block(rngs: Any) -> Block:
        return Block(
            norm=norm,
            attention=Attention(**heads, attend=attend_of(execution), rngs=rngs, **attention),
            feed_forward=FeedForward(D=sizes.width, F=sizes.feed_forward_width, rngs=rngs),
        )

    return Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        stacks={"blocks": Stack([block], N=sizes.layers, execution=execution)},
        norm=norm,
        tied=sizes.tied,
        ropes={"rope": (Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling), sizes.head_width)},
    ).build(precision)


def sizes_of(config: Mapping[str, Any], *, default_tied: bool = False) -> dict[str, Any]:
    """The fields that every relative of Llama has, from a config.json.

    Raises:
        ValueError: one is missing, or its rotary positions are unknown.
    """
    rope, heads = rope_of(config), size(config, "num_attention_heads")
    return {
        "vocab_size": size(config, "vocab_size"),
        "width": size(config, "hidden_size"),
        "layers": size(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": size(config, "num_key_value_heads", default=heads),
        "head_width": head_width(config),
        "feed_forward_width": size(config, "intermediate_size"),
        "context": size(config, "max_position_embeddings"),
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "norm_eps": size(config, "rms_norm_eps", default=1e-6),
        "tied": config.get("tie_word_embeddings", default_tied),
    }


def fields_of(sizes: Any) -> dict[str, Any]:
    """The inverse of `sizes_of`, for transformers 4 and 5."""
    return {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_width,
        "intermediate_size": sizes.feed_forward_width,
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": sizes.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": sizes.tied,
        **rope_fields(Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling)),
    }


def rows(sizes: Any, **attention: Any) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors; `attention` is what `attention_rows` takes."""
    return (*outer_rows(tied=sizes.tied), *attention_rows("blocks", **attention), *norm_rows("blocks"), *gated_rows("blocks"))
