"""Qwen3, dense (Yang et al. 2025): a Llama whose queries and keys are normalised head by head."""

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


class Qwen3(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field; heads × head_width need not be the width."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("qwen3",)

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
    def _sizes_agree(self) -> "Qwen3":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return llama_like.build(self, precision, execution, head_norm=llama_like.head_norm(self))

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Qwen3":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        require(config, hidden_act=("silu",), attention_bias=(False,), use_sliding_window=(False,))
        return cls(**llama_like.sizes_of(config))

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
        return {**names, "attention_bias": False, "use_sliding_window": False, **llama_like.fields_of(self)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return llama_like.rows(self, head_norm=True)


def _qwen3(**sizes: Any) -> Qwen3:
    return Qwen3(vocab_size=151_936, kv_heads=8, head_width=128, context=40_960, **sizes)


PRESETS = {
    "qwen3_0_6b": _qwen3(width=1024, layers=28, heads=16, feed_forward_width=3072, tied=True),
    "qwen3_1_7b": _qwen3(width=2048, layers=28, heads=16, feed_forward_width=6144, tied=True),
    "qwen3_4b": _qwen3(width=2560, layers=36, heads=32, feed_forward_width=9728, tied=True),
    "qwen3_8b": _qwen3(width=4096, layers=36, heads=32, feed_forward_width=12_288),
    "qwen3_14b": _qwen3(width=5120, layers=40, heads=40, feed_forward_width=17_408),
    "qwen3_32b": _qwen3(width=5120, layers=64, heads=64, feed_forward_width=25_600),
}
