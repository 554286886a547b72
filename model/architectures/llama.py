"""Llama (Touvron et al. 2023): pre-norm blocks of rotary grouped-query attention and SwiGLU, without
biases.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architectures import llama_like
from model.architectures.one_stack import check_heads
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import require
from model.hugging_face.tensor import Tensor
from model.layers.rope_scaling import Llama3, Scaling


class Llama(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("llama",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-5
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Llama":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return llama_like.build(self, precision, execution)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Llama":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        require(config, hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,), pretraining_tp=(1,))
        return cls(**llama_like.sizes_of(config))

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        return {**names, "attention_bias": False, "mlp_bias": False, **llama_like.fields_of(self)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return llama_like.rows(self)


def _llama2(**sizes: int) -> Llama:
    return Llama(vocab_size=32_000, head_width=128, context=4096, **sizes)


def _llama3(*, factor: float = 8.0, **sizes: Any) -> Llama:
    """Llama 3.1 and 3.2, stretched from 8,192 to 131,072 tokens."""
    scaling = Llama3(factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    return Llama(
        vocab_size=128_256, kv_heads=8, context=131_072, rope_theta=500_000.0, rope_scaling=scaling, **sizes
    )


PRESETS = {
    "llama2_7b": _llama2(width=4096, layers=32, heads=32, kv_heads=32, feed_forward_width=11_008),
    "llama2_13b": _llama2(width=5120, layers=40, heads=40, kv_heads=40, feed_forward_width=13_824),
    "llama2_70b": _llama2(width=8192, layers=80, heads=64, kv_heads=8, feed_forward_width=28_672),
    "llama3_1_8b": _llama3(width=4096, layers=32, heads=32, head_width=128, feed_forward_width=14_336),
    "llama3_1_70b": _llama3(width=8192, layers=80, heads=64, head_width=128, feed_forward_width=28_672),
    "llama3_1_405b": _llama3(width=16_384, layers=126, heads=128, head_width=128, feed_forward_width=53_248),
    "llama3_2_1b": _llama3(
        width=2048, layers=16, heads=32, head_width=64, feed_forward_width=8192, factor=32.0, tied=True
    ),
    "llama3_2_3b": _llama3(
        width=3072, layers=28, heads=24, head_width=128, feed_forward_width=8192, factor=32.0, tied=True
    ),
    "smollm2_135m": Llama(
        vocab_size=49_152,
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_width=64,
        feed_forward_width=1536,
        context=8192,
        rope_theta=100_000.0,
        tied=True,
    ),
}
