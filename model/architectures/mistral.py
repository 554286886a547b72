"""Mistral (Jiang et al. 2023): a Llama whose layers see a sliding window."""

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


class Mistral(BaseModel, frozen=True, extra="forbid", strict=True):
    """`window`: how many positions back, itself counted, a position sees; None (from 7B v0.2 on): all."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("mistral",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    window: PositiveInt | None
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-5
    tied: bool = False  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Mistral":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return llama_like.build(self, precision, execution, window=self.window)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Mistral":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        require(config, hidden_act=("silu",), attention_bias=(False,), layer_types=(None,))
        return cls(**llama_like.sizes_of(config), window=config.get("sliding_window", 4096))

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
        return {**names, "sliding_window": self.window, **llama_like.fields_of(self)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return llama_like.rows(self)


def _7b(**sizes: Any) -> Mistral:
    return Mistral(
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_width=128,
        feed_forward_width=14_336,
        context=32_768,
        **sizes,
    )


PRESETS = {
    "mistral_7b_v0_1": _7b(vocab_size=32_000, window=4096),
    "mistral_7b_v0_3": _7b(vocab_size=32_768, window=None, rope_theta=1_000_000.0),
}
