"""What Gemma 2 and 3 share: the decoder, and the fields and tensors of a Hugging Face checkpoint."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from model.architectures import llama_like, one_stack
from model.decoder import Decoder
from model.execution import Execution
from model.hugging_face.config import LAYER_KINDS, require, size
from model.hugging_face.tables import attention_rows, gated_rows, outer_rows
from model.hugging_face.tensor import Tensor
from model.layers.feed_forward import FeedForward, gelu_tanh
from model.layers.norm import RMSNorm
from model.layers.rope import Rope


def decoder(
    sizes: Any, execution: Execution, ropes: dict[str, Rope], pattern: Sequence[dict[str, Any]]
) -> Decoder:
    """Blocks with norms before and after, whose attention differs as `pattern` says; norms store scales
    less 1.
    """
    return one_stack.decoder(
        sizes,
        execution,
        norm=partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps, offset=1.0),
        pattern=[{"scale": sizes.query_pre_attn_scalar**-0.5, **attention} for attention in pattern],
        feed_forward=partial(FeedForward, D=sizes.width, F=sizes.feed_forward_width, activation=gelu_tanh),
        ropes=ropes,
        post_norms=True,
    )._replace(embed_scale=sizes.width**0.5)


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both have, from a config.json.

    Raises:
        ValueError: one is missing, or asks for what we would compute differently.
    """
    require(
        config,
        hidden_activation=("gelu_pytorch_tanh",),
        attention_bias=(False,),
        use_bidirectional_attention=(False,),
    )
    return {
        **llama_like.sizes_of(config, default_tied=True),
        "window": size(config, "sliding_window", default=4096),
        "query_pre_attn_scalar": size(config, "query_pre_attn_scalar", default=256),
    }


def fields_of(sizes: Any, full_every: int) -> dict[str, Any]:
    """The inverse of `sizes_of`, for transformers 4 and 5."""
    fields = llama_like.fields_of(sizes)
    del fields["hidden_act"]
    return {
        **fields,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "sliding_window": sizes.window,
        "sliding_window_pattern": full_every,
        "layer_types": layer_types(sizes.layers, full_every),
        "query_pre_attn_scalar": sizes.query_pre_attn_scalar,
    }


def layer_types(layers: int, full_every: int) -> list[str]:
    """What every layer sees: its window, and in each `full_every`-th all."""
    return [LAYER_KINDS[(i + 1) % full_every == 0] for i in range(layers)]


def full_every(config: Mapping[str, Any], *, default: int = 6) -> int:
    """The number of layers in a pattern, as one of three generations of config.json says it."""
    kinds = config.get("layer_types") or ()
    if LAYER_KINDS[1] in kinds:
        return kinds.index(LAYER_KINDS[1]) + 1
    return size(config, "sliding_window_pattern", "_sliding_window_pattern", default=default)


def check_pattern(config: Mapping[str, Any], layers: int, full_every: int) -> None:
    """Refuse layers that do not repeat their pattern.

    Raises:
        ValueError: `layer_types` is there and is another sequence.
    """
    if config.get("layer_types") not in (None, expected := layer_types(layers, full_every)):
        raise ValueError(
            f"config.json has layer_types={config['layer_types']}, not every {full_every}th layer a full one as in {expected}; "
            "take another checkpoint"
        )


def rows(sizes: Any, *, head_norm: bool = False) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors."""
    norms = {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_post_norm": "post_feedforward_layernorm",
    }
    norm_rows = [
        Tensor(f"blocks.{ours}.scale_ND", f"model.layers.{{N}}.{theirs}.weight", "D")
        for ours, theirs in norms.items()
    ]
    return (*outer_rows(tied=sizes.tied), *attention_rows(head_norm=head_norm), *norm_rows, *gated_rows())
