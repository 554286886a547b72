"""config.json and tensors of Llama, Mistral, Qwen2 and Qwen3, which are all instances of our `Llama`."""

from collections.abc import Mapping
from typing import Any

from model.hugging_face.config import decoder_fields, decoder_sizes
from model.hugging_face.defaults import completed, require
from model.hugging_face.names import attention_rows, gated_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor

# model_type -> fields of config.json that change the result, and the values that we can compute
REQUIRED: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (1,)},
    "mistral": {"attention_bias": (False,), "layer_types": (None,)},
    "qwen2": {"use_sliding_window": (False,)},
    "qwen3": {"attention_bias": (False,), "use_sliding_window": (False,)},
}


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Llama` that a config.json of these four describes.

    Raises:
        ValueError: a size is missing, or a field asks for a computation that ours does not do.
    """
    kind = config["model_type"]
    config = completed(config, kind)
    # SwiGLU is what `FeedForward` computes
    require(config, hidden_act=("silu",), **REQUIRED[kind])
    # Qwen's layers may be told one by one to have a window, whatever `use_sliding_window` says
    if kind in ("qwen2", "qwen3") and "sliding_attention" in (config.get("layer_types") or ()):
        raise ValueError(
            "config.json has sliding_attention in layer_types, and only full_attention can be imported; "
            "take another checkpoint"
        )
    window = config["sliding_window"] if kind == "mistral" else None
    return {
        **decoder_sizes(config),
        "attention_bias": kind == "qwen2",
        "head_norm": kind == "qwen3",
        "window": window,
        "model_type": "mistral" if kind == "mistral" and window is None else "llama",
    }


def fields_of(llama: Any) -> dict[str, Any]:
    """config.json for transformers 4 and 5; `llama` has the fields of `Llama`.

    Raises:
        ValueError: two switches are on that no model of transformers has together, or it reads media.
    """
    if llama.media_width:
        raise ValueError(
            f"media_width={llama.media_width}: no text model of transformers has a projection of media; "
            "export a model without one"
        )
    switches = {
        "mistral": llama.window is not None,
        "qwen2": llama.attention_bias,
        "qwen3": llama.head_norm,
    }
    kinds = [kind for kind, is_on in switches.items() if is_on]
    if len(kinds) > 1:
        raise ValueError(
            f"no model of transformers is {' and '.join(kinds)} at once; "
            "of window, attention_bias and head_norm one alone can be exported"
        )
    kind = kinds[0] if kinds else llama.model_type
    fields = {
        "llama": {"attention_bias": False, "mlp_bias": False},
        "mistral": {"sliding_window": llama.window},
        "qwen2": {"use_sliding_window": False},
        "qwen3": {"attention_bias": False, "use_sliding_window": False},
    }
    # transformers looks its class up by these two
    names = {"architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind}
    return {**names, **fields[kind], **decoder_fields(llama)}


def tensors_of(llama: Any) -> tuple[Tensor, ...]:
    """Names and layouts of their checkpoints."""
    biased = "qkv" if llama.attention_bias else ""
    attention = attention_rows(biased=biased, head_norm=llama.head_norm)
    return (*outer_rows(tied=llama.tied), *attention, *norm_rows(), *gated_rows())
