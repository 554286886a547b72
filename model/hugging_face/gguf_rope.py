"""Rotary positions of a GGUF file, which stand in its metadata and in tensors of factors, as fields of
config.json. The rules are those of llama.cpp (src/llama-model.cpp and ggml's rope).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.hugging_face.defaults import check_type
from model.hugging_face.gguf_file import Stored
from model.layers.rope_scaling import yarn_growth

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROTARY = (FREQUENCIES, LONG, SHORT)  # tensors that are no parameters
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
KINDS = ("none", "linear", "yarn", "longrope")
# Llama 3.1, 3.2 and 3.3 differ in their largest factor (8 or 32) alone; a converted file does not say these.
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Converters compute factors in float32, whose error grows up to 32 times on the slope between two plateaus.
FACTOR_ERROR = 1e-4


def rope_scaling(
    path: Path,
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
) -> dict[str, Any] | None:
    """The field `rope_scaling` of config.json; `tensors` are those of `ROTARY` that the file has, and
    `config` its other fields.

    Raises:
        ValueError: the file has what config.json cannot say.
    """

    def get(name: str, default: float | int) -> Any:
        return number(path, metadata, f"llama.rope.scaling.{name}", default)

    # llama.cpp takes a file that names a factor and no type for a linear one, by either name of the factor
    kind = metadata.get("llama.rope.scaling.type", "linear")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise _refusal(path, f"llama.rope.scaling.type={kind!r:.40}", f"only {known} are")
    factor = get("factor", 0.0) or number(path, metadata, "llama.rope.scale_linear", 0.0)
    is_scaled = kind != "none" and factor not in (0, 1)
    table_factor = get("attn_factor", 1.0)
    if table_factor != 1 and kind not in ("yarn", "longrope"):
        raise _refusal(path, f"llama.rope.scaling.attn_factor={table_factor}", "1 alone is")
    original = get("original_context_length", 0) or config["max_position_embeddings"]
    shared = {"original_max_position_embeddings": original}
    if factors := _factors(path, config, tensors, kind=kind):
        if kind == "yarn" or (kind == "longrope" and is_scaled):
            raise _refusal(path, f"factors of frequencies beside {kind}", "either alone is")
        if is_scaled:
            factors = [factor * x for x in factors]
        if kind == "longrope" or not is_llama3(factors, config):
            both = {"short_factor": factors, "long_factor": factors}
            scales = {"factor": 1.0, "attention_factor": float(table_factor)}
            return {"rope_type": "longrope", **both, **scales, **shared}
        return {"rope_type": "llama3", "factor": max(factors), **LLAMA3}
    if not is_scaled:
        return None
    if kind == "yarn":
        betas = {name: get(f"yarn_{name}", default) for name, default in BETAS.items()}
        fields = {"rope_type": "yarn", "factor": factor, **betas, **shared}
        # theirs is a factor beside YaRN's own; config.json has the product, or null for YaRN's alone
        growth = yarn_growth(factor, 1.0)
        return (
            fields if table_factor == 1 else {**fields, "attention_factor": table_factor * growth}
        )
    return {"rope_type": "linear", "factor": factor}


def number(path: Path, metadata: Mapping[str, Any], name: str, default: float | int) -> Any:
    """A number of the metadata, the default where there is none.

    Raises:
        ValueError: what stands there is no finite number.
    """
    value = metadata.get(name, default)
    # a double of 1e300 too is infinite in float32
    check_type(name, value, float, said=f"{path} has {name}")
    # The shortest decimal of a float32: 1e-05 instead of 9.999999747378752e-06, as it is stored.
    return float(str(np.float32(value))) if isinstance(value, float) else value


def is_llama3(factors: list[float], config: Mapping[str, Any]) -> bool:
    """Whether these factors are those of Llama 3.1 and later, which follow from the largest of them."""
    n = len(factors)
    frequencies_A2 = config["rope_theta"] ** (-np.arange(n) / n)
    turns_A2 = LLAMA3["original_max_position_embeddings"] * frequencies_A2 / (2 * math.pi)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    # 0 for frequencies that are divided by the largest factor, 1 for those that stay
    short_A2 = np.clip((turns_A2 - low) / (high - low), 0, 1)
    wanted_A2 = 1 / (short_A2 + (1 - short_A2) / max(factors))
    return bool(np.allclose(factors, wanted_A2, rtol=FACTOR_ERROR, atol=0))


def _factors(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, Stored], *, kind: str
) -> list[float]:
    """The number that each frequency is divided by; an empty list where all are 1 or the file has none."""
    wanted = {LONG, SHORT} if kind == "longrope" else tensors.keys() & {FREQUENCIES}
    if tensors.keys() != wanted:
        there = ", ".join(sorted(tensors)) or "no factors"
        known = "the tensors that its type of scaling needs are"
        raise _refusal(path, f"{there} beside llama.rope.scaling.type={kind!r}", known)
    lists = [_numbers(path, tensor, config) for tensor in tensors.values()]
    if not lists:
        return []
    if lists[0] != lists[-1]:
        raise _refusal(path, f"different {LONG} and {SHORT}", "one list for all lengths is")
    return [] if kind != "longrope" and set(lists[0]) == {1.0} else lists[0]


def _numbers(path: Path, tensor: Stored, config: Mapping[str, Any]) -> list[float]:
    from gguf.quants import dequantize

    x = dequantize(tensor.data, tensor.kind).reshape(-1)
    width = config["head_dim"] or config["hidden_size"] // config["num_attention_heads"]
    if x.shape != (width // 2,) or not (np.isfinite(x) & (x > 0)).all():
        rule = f"which must be {width // 2} finite positive numbers, one for each frequency"
        raise ValueError(f"{path} has {x.size} numbers in {tensor.name}, {rule}; download it again")
    return [float(str(factor)) for factor in x.astype(np.float32)]


def _refusal(path: Path, what: str, known: str) -> ValueError:
    return ValueError(f"{path} has {what}, and {known} computed; take safetensors")
