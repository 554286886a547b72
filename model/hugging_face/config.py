"""config.json of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype):
read either, write both.
"""

import math
from collections.abc import Mapping
from typing import Any

from model.hugging_face.defaults import check_type
from model.layers.rope import Rope
from model.layers.rope_scaling import Linear, Llama3, LongRoPE, Scaling, YaRN, yarn_growth

Config = Mapping[str, Any]
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")
LAYER_KINDS = ("sliding_attention", "full_attention")
ROPE_NUMBERS = (
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
)
ROPE_LISTS = ("short_factor", "long_factor")


def size(config: Config, *fields: str, default: Any = None) -> Any:
    """The value of the first of `fields` that is set and not null, else the default.

    Raises:
        ValueError: none is set, and there is no default.
    """
    # Families and versions of transformers have different names for the same size.
    for field in fields:
        if config.get(field) is not None:
            return config[field]
    if default is None:
        raise ValueError(
            f"config.json has no {' or '.join(fields)}; complete it, or download it again"
        )
    return default


def head_width(config: Config) -> int:
    """`head_dim`, by default the width divided by the number of heads."""
    shared = size(config, "hidden_size") // size(config, "num_attention_heads")
    return size(config, "head_dim", default=shared)


def dtype_fields(dtype: str) -> dict[str, str]:
    """The fields of a dtype for transformers 5 and 4."""
    return {"dtype": dtype, "torch_dtype": dtype}


def decoder_sizes(config: Config, *, default_theta: float = 10_000.0) -> dict[str, Any]:
    """The fields that every relative of Llama has, from a config.json that is `completed`.

    Raises:
        ValueError: a size is missing, or the type of rotary positions is unknown.
    """
    rope = rope_of(config, default_theta=default_theta)
    # null where every query head has its own key/value head
    heads = size(config, "num_attention_heads")
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
        "norm_eps": size(config, "rms_norm_eps"),
        "tied": config["tie_word_embeddings"],
    }


def decoder_fields(sizes: Any) -> dict[str, Any]:
    """The inverse of `decoder_sizes`, for transformers 4 and 5; `sizes` has those fields as attributes."""
    return {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        # always written, although many models could derive it: their defaults differ
        "head_dim": sizes.head_width,
        "intermediate_size": sizes.feed_forward_width,
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": sizes.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": sizes.tied,
        **rope_fields(Rope(theta=sizes.rope_theta, scaling=sizes.rope_scaling)),
    }


def expert_sizes(config: Config) -> dict[str, Any]:
    """The fields of Mixtral and Qwen3-MoE that are about experts, from a config.json.

    Raises:
        ValueError: one is missing.
    """
    return {
        "experts": size(config, "num_local_experts", "num_experts"),  # Mixtral's name, and Qwen3's
        "top_k": size(config, "num_experts_per_tok"),
        "balance_loss": size(config, "router_aux_loss_coef"),
    }


def rope_of(config: Config, *, default_theta: float = 10_000.0) -> Rope:
    """The rotary positions of a model whose layers all have the same.

    Raises:
        ValueError: the type is unknown, or the fields of transformers 4 and 5 are both set and disagree.
    """
    theta = config.get("rope_theta")
    if theta is not None:
        check_type("rope_theta", theta, float)
    scaling = _table_of(config, "rope_scaling")  # transformers 4; theta stands beside it
    parameters = _table_of(config, "rope_parameters")  # transformers 5; theta stands in it
    # Both may be set, as in our own exports; then they must agree.
    ropes = []
    if parameters is not None:
        ropes.append(_rope(parameters, config, theta or default_theta))
    if parameters is None or scaling is not None:
        ropes.append(_rope(scaling or {}, config, theta or default_theta))
    contradicts_theta = theta is not None and any(rope.theta != theta for rope in ropes)
    if contradicts_theta or len(set(ropes)) > 1:
        fields = f"rope_parameters={parameters}, rope_theta={theta}, rope_scaling={scaling}"
        raise ValueError(
            f"config.json says rotary positions twice and differently: {fields}; delete the wrong ones"
        )
    return ropes[0]


def rope_fields(rope: Rope, *, extra: Config | None = None) -> dict[str, Any]:
    """The rotary fields of config.json for transformers 4 and 5; `extra` is added to the scaling (DeepSeek's
    mscale).
    """
    scaling = None
    if rope.scaling is not None:
        scaling = {**_scaling_fields(rope.scaling), **(extra or {})}
    # Without scaling, transformers 4 expects null and 5 the type "default".
    parameters = {"rope_theta": rope.theta, **(scaling or {"rope_type": "default"})}
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": parameters}


def local_and_global_ropes(config: Config) -> tuple[Rope, Rope]:
    """The ropes of Gemma 3: that of sliding layers, and that of full layers, which alone is scaled.

    Raises:
        ValueError: the type is unknown.
    """
    # transformers 5 has a table for each kind of layer, 4 a separate theta for the sliding ones, which is
    # also what a table without its theta means
    sliding, full = LAYER_KINDS
    local_theta = size(config, "rope_local_base_freq", default=10_000.0)
    full_theta = size(config, "rope_theta", default=1_000_000.0)
    check_type("rope_local_base_freq", local_theta, float)
    check_type("rope_theta", full_theta, float)
    scaling = _table_of(config, "rope_scaling") or {}
    # transformers adds it to a table that has a rope_type, beside which the older name counts for nothing
    if "type" in scaling and "rope_type" not in scaling:
        raise ValueError(
            f"config.json has rope_scaling.type={scaling['type']!r:.40}, which classes of several ropes do "
            "not read; rename it to rope_type"
        )
    tables = {sliding: {}, full: {}}
    if _mapping_of(config, "rope_parameters"):
        tables = {kind: _parameters_of(config, kind) for kind in LAYER_KINDS}
    # of the old fields `rope_scaling` alone is added to the new ones, for the full layers
    tables[full] = {**tables[full], **scaling}
    # The original context at the top of a config is read only for models with a single table.
    context = {"max_position_embeddings": config.get("max_position_embeddings")}
    local_rope = _rope(tables[sliding], context, local_theta)
    return local_rope, _rope(tables[full], context, full_theta)


def _parameters_of(config: Config, kind: str) -> Config:
    """The rotary fields for the layers of one kind."""
    if kind not in config["rope_parameters"]:
        raise ValueError(
            f"config.json has no rope_parameters.{kind}; complete it, or download it again"
        )
    return _table_of(config["rope_parameters"], kind) or {}


def _mapping_of(config: Config, field: str) -> Config | None:
    """The object in a field, None where it is absent."""
    table = config.get(field)
    if table is not None:
        check_type(field, table, dict)
    return table


def _table_of(config: Config, field: str) -> Config | None:
    """The rotary fields in an object, checked for their types; None where it is absent."""
    table = _mapping_of(config, field)
    for name, value in (table or {}).items():
        if name in ROPE_NUMBERS and value is not None:
            check_type(f"{field}.{name}", value, float)
        if name in ROPE_LISTS and value is not None:
            check_type(f"{field}.{name}", value, list)
            for number in value:
                check_type(f"{field}.{name}", number, float)
        # one table for each kind of layer, which only models with several ropes have
        if isinstance(value, Mapping):
            raise ValueError(
                f"config.json has a table in {field}.{name}, and this model has one rope for all layers; "
                "take another checkpoint"
            )
    return table


def local_and_global_fields(local: Rope, full: Rope) -> dict[str, Any]:
    """The inverse of `local_and_global_ropes`, for transformers 4 and 5.

    Raises:
        ValueError: the rope of the sliding layers is scaled, for which there are no fields.
    """
    if local.scaling is not None:
        raise ValueError(
            f"local_rope.scaling={local.scaling} has no place in config.json; "
            "leave the local layers unscaled to export them"
        )
    old = rope_fields(full)
    ropes = zip(LAYER_KINDS, (local, full), strict=True)
    parameters = {kind: rope_fields(rope)["rope_parameters"] for kind, rope in ropes}
    return {**old, "rope_local_base_freq": local.theta, "rope_parameters": parameters}


def _rope(scaling: Config, config: Config, default_theta: float) -> Rope:
    kind = size(scaling, "rope_type", "type", default="default")  # `type` in older configs
    if kind not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise ValueError(
            f"config.json has rope_type={kind!r}, and only {known} can be imported; take another checkpoint"
        )
    turned_frac = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if turned_frac not in (None, 1, 1.0):
        raise ValueError(
            f"config.json has partial_rotary_factor={turned_frac}, and only whole heads can be turned; "
            "take another checkpoint"
        )
    theta = size(scaling, "rope_theta", default=default_theta)
    return Rope(theta=float(theta), scaling=_scaling(kind, scaling, config))


def _scaling(kind: str, scaling: Config, config: Config) -> Scaling | None:
    if kind == "default":
        return None
    if kind == "longrope":
        return _longrope(scaling, config)
    factor = float(size(scaling, "factor"))
    if kind == "linear":
        return Linear(factor=factor)
    original = _original_context(scaling, config)
    if kind == "llama3":
        return Llama3(
            factor=factor,
            low_freq_factor=size(scaling, "low_freq_factor"),
            high_freq_factor=size(scaling, "high_freq_factor"),
            original_context=original,
        )
    return YaRN(
        factor=factor,
        original_context=original,
        beta_fast=size(scaling, "beta_fast", default=32.0),
        beta_slow=size(scaling, "beta_slow", default=1.0),
        table_factor=_table_factor(scaling, factor),
        # whether the ends of the ramp are rounded to whole dimensions; GPT-OSS does not round
        truncate=size(scaling, "truncate", default=True),
    )


def _longrope(scaling: Config, config: Config) -> LongRoPE:
    """The factors of LongRoPE, where those for short and for long texts are the same."""
    factors = size(scaling, "long_factor")
    if size(scaling, "short_factor") != factors:
        raise ValueError(
            "config.json has a longrope whose short_factor and long_factor differ, and only one list for "
            "texts of every length can be imported; take another checkpoint"
        )
    original = _original_context(scaling, config)
    table_factor = scaling.get("attention_factor")
    if table_factor is None:
        context = config.get("max_position_embeddings") or original
        growth = size(scaling, "factor", default=context / original)
        # the paper's factor for contexts that grew (Ding et al. 2024, §3.3); 2: the logarithm of 1 is 0
        share = math.log(max(growth, 1.0)) / math.log(max(original, 2))
        table_factor = math.sqrt(1 + share)
    return LongRoPE(
        factors=tuple(factors), original_context=original, table_factor=float(table_factor)
    )


def _original_context(scaling: Config, config: Config) -> int:
    """The context before scaling. The field at the top of the config wins over that in the table; where both
    are missing, it is `max_position_embeddings`.
    """
    field = "original_max_position_embeddings"
    at_the_top = config.get(field)
    if at_the_top is not None:
        check_type(field, at_the_top, float)
    inner = {field: scaling.get(field) if at_the_top is None else at_the_top}
    original = int(size(inner, field, default=config.get("max_position_embeddings")))
    check_type(field, original, int)
    return original


def _table_factor(scaling: Config, factor: float) -> float | None:
    """The factor of cosines and sines, if it is not YaRN's own: `attention_factor`, or the ratio that follows
    from DeepSeek's two coefficients.
    """
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    mscale = scaling.get("mscale")
    mscale_all_dim = scaling.get("mscale_all_dim")
    # 0 counts as absent, as in transformers: YaRN's own factor then applies
    if not mscale or not mscale_all_dim:
        return None
    return yarn_growth(factor, float(mscale)) / yarn_growth(factor, float(mscale_all_dim))


def _scaling_fields(scaling: Scaling) -> dict[str, Any]:
    """The scaling's fields under the names of config.json, which are ours but for two."""
    theirs = {
        "original_context": "original_max_position_embeddings",
        "table_factor": "attention_factor",
    }
    fields = scaling.model_dump(exclude={"type", "factors", *theirs})
    if isinstance(scaling, LongRoPE):
        # 1: their factors, not a single one, say how much the context grew
        lists = dict.fromkeys(ROPE_LISTS, list(scaling.factors))
        fields = {**fields, "factor": 1.0, **lists}
    renamed = {
        theirs[name]: value for name, value in scaling if name in theirs and value is not None
    }
    return {"rope_type": scaling.type, **fields, **renamed}
