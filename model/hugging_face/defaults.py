"""The fields of config.json that decide a model's numbers: their defaults in each class of transformers, and
their types.

Configs leave fields out, and the classes differ in what that means: a Qwen3 without `head_dim` has heads of
128, a Llama those that divide its width. The table is that of transformers 5.23; a test of ours holds the
values that its classes gave.
"""

from collections.abc import Mapping, Sequence
from typing import Any

LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # as many as query heads
    "head_dim": None,  # the width divided by the heads
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
}
MISTRAL = LLAMA | {
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
QWEN2 = LLAMA | {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
}
QWEN3_MOE = QWEN2 | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "router_aux_loss_coef": 0.001,
}
GEMMA2 = LLAMA | {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "sliding_window_pattern": 2,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "use_bidirectional_attention": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN2 | {"head_dim": 128},
    "mixtral": MISTRAL
    | {
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
    },
    "qwen3_moe": QWEN3_MOE,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2
    | {
        "vocab_size": 262_208,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131_072,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
    "gpt2": {
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,  # four times the width
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "deepseek_v3": LLAMA
    | {
        "vocab_size": 129_280,
        "hidden_size": 7168,
        "intermediate_size": 18_432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "routed_scaling_factor": 2.5,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "qk_nope_head_dim": 128,
        "n_group": 8,
        "topk_group": 4,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "norm_topk_prob": True,
        "max_position_embeddings": 4096,
        "rope_interleave": True,
        "num_nextn_predict_layers": 0,  # 1 in transformers, which computes none of them
        "aux_loss_alpha": 1e-4,  # of the authors' code: transformers has no such field
    },
}
# Other names that a class takes for its fields (its `attribute_map`): theirs → the one above.
ALIASES = {
    "mixtral": {"num_experts": "num_local_experts"},
    "qwen3_moe": {"num_local_experts": "num_experts"},
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "deepseek_v3": {
        "num_local_experts": "n_routed_experts",
        "num_mtp_layers": "num_nextn_predict_layers",
    },
}
# Fields that every class obeys, with the only value that we compute: others let positions see later ones,
# or give single layers sizes of their own.
COMMON = {"is_causal": True, "per_layer_config": {}}
# Null has a meaning of its own in these: no window, no soft cap, no latent, or derived from other sizes.
# In the others a null is what is left out.
NULLABLE = (
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "layer_types",
    "n_inner",
    "q_lora_rank",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
# The type of a field whose default is None does not show in the table; all others there are sizes.
TYPES = {
    "layer_types": list,
    "final_logit_softcapping": float,
    "attn_logit_softcapping": float,
}
IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    list: "a list",
    dict: "an object",
}
# Far beyond every model: with more, lists as long as the layers would fill the memory.
MOST = {"num_hidden_layers": 10_000, "n_layer": 10_000}
MOST_OF_OTHERS = 1 << 31
MOST_FLOAT = 3e38  # float32, in which rotations and norms are computed, ends there
MAY_BE_ZERO = ("first_k_dense_replace", "n_shared_experts", "num_nextn_predict_layers")


def completed(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """`config` with the class's defaults where it leaves fields out.

    Raises:
        ValueError: a field is of another type, a size is negative or absurdly large, two names of a field
            have different values, or a field of `COMMON` is not what we compute.
    """
    require(config, **{name: (value,) for name, value in COMMON.items()})
    if config.get("quantization_config"):
        raise ValueError(
            f"config.json has quantization_config={config['quantization_config']!r:.200}: it is quantized; "
            "take the one in bfloat16, or delete the field if its tensors are"
        )
    defaults = DEFAULTS[kind]
    given = {}
    for name, value in _under_one_name(config, ALIASES.get(kind, {})).items():
        if name in defaults and value is not None:
            default = defaults[name]
            check_type(name, value, TYPES.get(name, int) if default is None else type(default))
        # a truth value that is null counts as false, as in Python
        if isinstance(defaults.get(name), bool) and value is None:
            value = False
        if value is not None or name in NULLABLE:
            given[name] = value
    return {**defaults, **given}


def _under_one_name(config: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The config with the class's own names of its fields."""
    result = {name: value for name, value in config.items() if name not in aliases}
    for alias, name in aliases.items():
        value = config.get(alias)
        if value is None:
            continue
        if result.get(name) not in (None, value):
            raise ValueError(
                f"config.json has {name}={result[name]!r:.60} and {alias}={value!r:.60}, "
                "two names of one size; delete the wrong one"
            )
        result[name] = value
    return result


def require(config: Mapping[str, Any], **allowed: Sequence[Any]) -> None:
    """Refuse configs that ask for a computation that ours does not do: a field that is set must have one of
    its allowed values.

    Raises:
        ValueError: a field has another value.
    """
    for field, values in allowed.items():
        value = config.get(field)
        # a field that is null counts as absent
        if value is not None and value not in values:
            known = " or ".join(map(repr, values))
            raise ValueError(
                f"config.json has {field}={value!r:.200}, and only {known} can be imported; "
                "take another checkpoint"
            )


def check_type(name: str, value: Any, kind: type, *, said: str | None = None) -> None:
    """Check a field's type; a whole number must be positive and below a limit, a float finite. `said` is how
    the message names the field, where it was not read from config.json.

    Raises:
        ValueError: it is another.
    """
    said = said or f"config.json has {name}"
    # JSON writes 1 for 1.0, and True is an int in Python
    of_kind = isinstance(value, int | float if kind is float else kind)
    is_wrong = not of_kind or (isinstance(value, bool) and kind is not bool)
    rule = ""
    # written so that NaN is refused too; JSON's whole numbers may be too large for any float
    if is_wrong or (kind is float and not abs(value) <= MOST_FLOAT):
        rule = IN_WORDS[kind]
    else:
        most = MOST.get(name, MOST_OF_OTHERS)
        least = 0 if name in MAY_BE_ZERO else 1
        if kind is int and not least <= value <= most:
            rule = f"from {least} to {most}"
    if rule:
        raise ValueError(
            f"{said}={value!r:.60}, which must be {rule}; correct it, or download it again"
        )
