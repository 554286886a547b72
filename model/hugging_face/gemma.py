"""Gemma 2 and 3 at Hugging Face: fields of config.json, and the names of their four norms a layer."""

from collections.abc import Mapping
from typing import Any

from model.hugging_face.config import LAYER_KINDS, decoder_fields, decoder_sizes, size
from model.hugging_face.defaults import require
from model.hugging_face.names import attention_rows, gated_rows, outer_rows
from model.hugging_face.tensor import Tensor

NORMS = {  # ours → theirs
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both generations have, from a config.json that is `completed`.

    Raises:
        ValueError: a size is missing, or a field asks for a computation that ours does not do.
    """
    require(
        config,
        hidden_activation=("gelu_pytorch_tanh",),
        attention_bias=(False,),
        use_bidirectional_attention=(False,),
    )
    return {
        **decoder_sizes(config),
        "window": size(config, "sliding_window"),
        "query_pre_attn_scalar": size(config, "query_pre_attn_scalar"),
    }


def fields_of(sizes: Any, *, full_every: int) -> dict[str, Any]:
    """The inverse of `sizes_of`, for transformers 4 and 5."""
    fields = decoder_fields(sizes)
    # Gemma's field is `hidden_activation`; a `hidden_act` of "silu" beside it would contradict it.
    del fields["hidden_act"]
    # The pattern of layers is written twice, for older and newer versions of transformers.
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
    """The kind of every layer: each `full_every`-th has full attention, the others a sliding window."""
    sliding, full = LAYER_KINDS
    return [full if (i + 1) % full_every == 0 else sliding for i in range(layers)]


def full_every(config: Mapping[str, Any]) -> int:
    """The number of layers in a pattern, from either of the fields that versions of config.json have."""
    _, full = LAYER_KINDS
    kinds = config.get("layer_types") or ()
    if full in kinds:
        # a full layer ends the pattern, so the first one tells its length
        return kinds.index(full) + 1
    return config["sliding_window_pattern"]


def check_pattern(config: Mapping[str, Any], layers: int, *, full_every: int) -> None:
    """Refuse layers that do not repeat their pattern.

    Raises:
        ValueError: `layer_types` is set, and is another sequence.
    """
    kinds = config.get("layer_types")
    expected = layer_types(layers, full_every)
    if kinds not in (None, expected):
        raise ValueError(
            f"config.json has layer_types={kinds}, not every {full_every}th layer a full one "
            f"as in {expected}; take another checkpoint"
        )


def rows(*, tied: bool, head_norm: bool) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors."""
    norms = [
        Tensor(f"blocks.{ours}.scale_ND", f"model.layers.{{N}}.{theirs}.weight", "D")
        for ours, theirs in NORMS.items()
    ]
    return (*outer_rows(tied=tied), *attention_rows(head_norm=head_norm), *norms, *gated_rows())
