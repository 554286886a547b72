"""Gemma 2 (Gemma Team 2024): sliding and full layers in turn, norms before and after, soft-capped scores
and logits, GeGLU.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architectures import gemma_like
from model.architectures.one_stack import check_heads
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.tensor import Tensor
from model.layers.rope import Rope
from model.layers.rope_scaling import Scaling


class Gemma2(BaseModel, frozen=True, extra="forbid", strict=True):
    """`window` is how many positions back, itself counted, a position sees in layers 0, 2, 4, …; layers 1,
    3, 5, … see all.
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("gemma2",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    window: PositiveInt
    query_pre_attn_scalar: PositiveInt  # scores are divided by its root
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: Scaling | None = None
    attention_soft_cap: PositiveFloat | None = 50.0
    logit_soft_cap: PositiveFloat | None = 30.0
    norm_eps: PositiveFloat = 1e-6
    tied: bool = True  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Gemma2":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        ropes = {"rope": Rope(theta=self.rope_theta, scaling=self.rope_scaling)}
        pattern = (
            {"window": self.window, "soft_cap": self.attention_soft_cap},
            {"soft_cap": self.attention_soft_cap},
        )
        return (
            gemma_like.decoder(self, execution, ropes, pattern)
            ._replace(soft_cap=self.logit_soft_cap)
            .build(precision)
        )

    def windows(self) -> tuple[int | None, ...]:
        """How many positions back each layer sees; None: all."""
        return tuple(self.window if i % 2 == 0 else None for i in range(self.layers))

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Gemma2":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        sizes = gemma_like.sizes_of(config)
        gemma_like.check_pattern(config, sizes["layers"], 2)
        caps = {ours: config.get(theirs, default) for ours, (theirs, default) in _CAPS.items()}
        return cls(**sizes, **caps)

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
        caps = {theirs: getattr(self, ours) for ours, (theirs, _) in _CAPS.items()}
        return {**names, **caps, **gemma_like.fields_of(self, 2)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return gemma_like.rows(self)


_CAPS = {
    "attention_soft_cap": ("attn_logit_softcapping", 50.0),
    "logit_soft_cap": ("final_logit_softcapping", 30.0),
}


def _gemma2(**sizes: Any) -> Gemma2:
    return Gemma2(
        **{
            "vocab_size": 256_000,
            "context": 8192,
            "window": 4096,
            "head_width": 256,
            "query_pre_attn_scalar": 256,
            **sizes,
        }
    )


PRESETS = {
    "gemma2_2b": _gemma2(width=2304, layers=26, heads=8, kv_heads=4, feed_forward_width=9216),
    "gemma2_9b": _gemma2(width=3584, layers=42, heads=16, kv_heads=8, feed_forward_width=14_336),
    "gemma2_27b": _gemma2(
        width=4608,
        layers=46,
        heads=32,
        kv_heads=16,
        feed_forward_width=36_864,
        head_width=128,
        query_pre_attn_scalar=144,
    ),
}
