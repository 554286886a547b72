"""What Llama and its relatives share: the decoder, and the fields and tensors of a Hugging Face
checkpoint.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import nnx

from model.api import Model
from model.architectures import one_stack
from model.execution import Execution, Precision
from model.hugging_face.config import head_width, rope_fields, rope_of, size
from model.hugging_face.tables import attention_rows, gated_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor
from model.layers.feed_forward import FeedForward
from model.layers.norm import RMSNorm
from model.layers.rope import Rope


def build(
    sizes: Any,
    precision: Precision,
    execution: Execution,
    *,
    feed_forward: Callable[..., nnx.Module] | None = None,
    **attention: Any,
) -> Model:
    """Pre-norm blocks of rotary grouped-query attention and SwiGLU, or of another `feed_forward(rngs=…)`.

    `attention` is what `Attention` has beyond Llama's.
    """
    return one_stack.decoder(
        sizes,
        execution,
        norm=partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps),
        pattern=[attention],
        feed_forward=feed_forward or partial(FeedForward, D=sizes.width, F=sizes.feed_forward_width),
        ropes={"rope": Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling)},
    ).build(precision)


def head_norm(sizes: Any) -> Callable[[], RMSNorm]:
    """Of queries and keys, head by head (Qwen3)."""
    return partial(RMSNorm, size=sizes.head_width, eps=sizes.norm_eps, letter="A")


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
    return (*outer_rows(tied=sizes.tied), *attention_rows(**attention), *norm_rows(), *gated_rows())
