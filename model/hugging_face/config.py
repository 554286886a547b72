"""config.json of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype):
read either, write both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from model.layers.rope import Rope
from model.layers.rope_scaling import Linear, Llama3, Scaling, YaRN, yarn_growth

Config = Mapping[str, Any]
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def require(config: Config, **allowed: Sequence[Any]) -> None:
    """Refuse what we would compute differently: a field that is there must have one of its allowed values.

    Raises:
        ValueError: it has another one.
    """
    for field, values in allowed.items():
        if config.get(field) is not None and config[field] not in values:
            known = " or ".join(map(repr, values))
            raise ValueError(
                f"config.json has {field}={config[field]!r}, and only {known} can be imported; take another checkpoint"
            )


def size(config: Config, *fields: str, default: Any = None) -> Any:
    """The first of `fields` that is there and not null, or the default.

    Raises:
        ValueError: none is, and there is no default.
    """
    for field in fields:
        if config.get(field) is not None:
            return config[field]
    if default is None:
        raise ValueError(f"config.json has no {' or '.join(fields)}; complete it, or download it again")
    return default


def head_width(config: Config) -> int:
    """`head_dim`, where it is not the width divided by the heads."""
    return size(
        config, "head_dim", default=size(config, "hidden_size") // size(config, "num_attention_heads")
    )


def dtype_of(config: Config) -> str:
    """What the weights are stored in, as the config says it."""
    return size(config, "dtype", "torch_dtype", default="float32").removeprefix("torch.")


def dtype_fields(dtype: str) -> dict[str, str]:
    """For transformers 5 and 4."""
    return {"dtype": dtype, "torch_dtype": dtype}


def rope_of(config: Config, *, default_theta: float = 10_000.0) -> Rope:
    """The rotary positions of a model whose layers all turn alike.

    Raises:
        ValueError: the type is unknown, or both layouts are there and disagree.
    """
    flat = config.get("rope_scaling")
    theta = config.get("rope_theta")
    new = config.get("rope_parameters")
    found = (
        [] if new is None else [_rope(new, config, size(new, "rope_theta", default=theta or default_theta))]
    )
    if new is None or flat is not None:
        found.append(_rope(flat or {}, config, theta or default_theta))
    if theta is not None and any(rope.theta != theta for rope in found) or len(set(found)) > 1:
        raise ValueError(
            f"config.json says rotary positions twice and differently: rope_parameters={new}, rope_theta={theta}, rope_scaling={flat}; "
            "delete the wrong ones"
        )
    return found[0]


def rope_fields(rope: Rope, *, extra: Config | None = None) -> dict[str, Any]:
    """The rotary fields of config.json in both layouts; `extra` is added to the scaling (DeepSeek's
    mscale).
    """
    scaling = None if rope.scaling is None else {**_scaling_fields(rope.scaling), **(extra or {})}
    parameters = {"rope_theta": rope.theta, **(scaling or {"rope_type": "default"})}
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": parameters}


def local_and_global_ropes(config: Config) -> tuple[Rope, Rope]:
    """Those of Gemma 3: of the layers with a window, and of the layers that see everything, which alone are
    scaled.

    Raises:
        ValueError: the type is unknown.
    """
    if config.get("rope_parameters"):
        return tuple(rope_of(_as_new(config, kind)) for kind in LAYER_KINDS)
    scaling = config.get("rope_scaling") or {}
    local = Rope(theta=size(config, "rope_local_base_freq", default=10_000.0))
    return local, _rope(scaling, config, size(config, "rope_theta", default=1_000_000.0))


LAYER_KINDS = ("sliding_attention", "full_attention")


def _as_new(config: Config, kind: str) -> dict[str, Any]:
    parameters = config["rope_parameters"].get(kind)
    if not isinstance(parameters, Mapping):
        raise ValueError(f"config.json has no rope_parameters.{kind}; complete it, or download it again")
    return {"rope_parameters": parameters, "max_position_embeddings": config.get("max_position_embeddings")}


def local_and_global_fields(local: Rope, everywhere: Rope) -> dict[str, Any]:
    """The inverse of `local_and_global_ropes`, in both layouts.

    Raises:
        ValueError: the layers with a window are scaled, for which there are no fields.
    """
    if local.scaling is not None:
        raise ValueError(
            f"local_rope.scaling={local.scaling} has no place in config.json; leave the local layers unscaled to export them"
        )
    old = rope_fields(everywhere)
    parameters = {
        kind: rope_fields(rope)["rope_parameters"]
        for kind, rope in zip(LAYER_KINDS, (local, everywhere), strict=True)
    }
    return {**old, "rope_local_base_freq": local.theta, "rope_parameters": parameters}


def _rope(scaling: Config, config: Config, theta: float) -> Rope:
    kind = size(scaling, "rope_type", "type", default="default")
    if kind not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise ValueError(
            f"config.json has rope_type={kind!r}, and only {known} can be imported; take another checkpoint"
        )
    if (part := scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))) not in (
        None,
        1,
        1.0,
    ):
        raise ValueError(
            f"config.json has partial_rotary_factor={part}, and only whole heads can be turned; take another checkpoint"
        )
    return Rope(theta=float(theta), scaling=_scaling(kind, scaling, config))


def _scaling(kind: str, scaling: Config, config: Config) -> Scaling | None:
    if kind == "default":
        return None
    factor = float(size(scaling, "factor"))
    if kind == "linear":
        return Linear(factor=factor)
    original = int(
        size(scaling, "original_max_position_embeddings", default=config.get("max_position_embeddings"))
    )
    if kind == "llama3":
        low, high = size(scaling, "low_freq_factor"), size(scaling, "high_freq_factor")
        return Llama3(factor=factor, low_freq_factor=low, high_freq_factor=high, original_context=original)
    return YaRN(
        factor=factor,
        original_context=original,
        beta_fast=size(scaling, "beta_fast", default=32.0),
        beta_slow=size(scaling, "beta_slow", default=1.0),
        table_factor=_table_factor(scaling, factor),
        truncate=size(scaling, "truncate", default=True),
    )


def _table_factor(scaling: Config, factor: float) -> float | None:
    """What cosines and sines are multiplied with, where it is not YaRN's own: given, or the ratio of
    DeepSeek's two coefficients.
    """
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    one, all_dimensions = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return (
        yarn_growth(factor, float(one)) / yarn_growth(factor, float(all_dimensions))
        if one and all_dimensions
        else None
    )


def _scaling_fields(scaling: Scaling) -> dict[str, Any]:
    fields = {
        "rope_type": scaling.type,
        **scaling.model_dump(exclude={"type", "original_context", "table_factor"}),
    }
    if (original := getattr(scaling, "original_context", None)) is not None:
        fields["original_max_position_embeddings"] = original
    if (factor := getattr(scaling, "table_factor", None)) is not None:
        fields["attention_factor"] = factor
    return fields
