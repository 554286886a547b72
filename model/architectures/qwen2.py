"""Qwen2 and 2.5 (Yang et al. 2024): a Llama with biases on queries, keys and values."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architectures import llama_like
from model.architectures.one_stack import check_heads
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import require
from model.hugging_face.tensor import Tensor
from model.layers.rope_scaling import Scaling


class Qwen2(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("qwen2",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    rope_theta: PositiveFloat = 1_000_000.0
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-6
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Qwen2":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return llama_like.build(self, precision, execution, biased="qkv")

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Qwen2":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        require(config, hidden_act=("silu",), use_sliding_window=(False,))
        return cls(**llama_like.sizes_of(config))

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        return {**names, "use_sliding_window": False, **llama_like.fields_of(self)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return llama_like.rows(self, biased="qkv")


def _qwen2_5(**sizes: Any) -> Qwen2:
    return Qwen2(**{"vocab_size": 152_064, "head_width": 128, "context": 131_072, **sizes})


_SMALL = {"vocab_size": 151_936, "kv_heads": 2, "tied": True}

PRESETS = {  # Qwen2.5 as first trained, without the stretching that its authors suggest for long texts
    "qwen2_5_0_5b": _qwen2_5(
        **_SMALL, width=896, layers=24, heads=14, head_width=64, feed_forward_width=4864, context=32_768
    ),
    "qwen2_5_1_5b": _qwen2_5(**_SMALL, width=1536, layers=28, heads=12, feed_forward_width=8960),
    "qwen2_5_3b": _qwen2_5(
        **_SMALL, width=2048, layers=36, heads=16, feed_forward_width=11_008, context=32_768
    ),
    "qwen2_5_7b": _qwen2_5(width=3584, layers=28, heads=28, kv_heads=4, feed_forward_width=18_944),
    "qwen2_5_14b": _qwen2_5(
        width=5120, layers=48, heads=40, kv_heads=8, feed_forward_width=13_824, norm_eps=1e-5
    ),
    "qwen2_5_32b": _qwen2_5(
        width=5120, layers=64, heads=40, kv_heads=8, feed_forward_width=27_648, norm_eps=1e-5
    ),
    "qwen2_5_72b": _qwen2_5(
        width=8192, layers=80, heads=64, kv_heads=8, feed_forward_width=29_568, norm_eps=1e-5
    ),
}
