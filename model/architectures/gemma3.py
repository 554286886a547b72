"""Gemma 3, its text model (Gemma Team 2025): five sliding layers to a full one, a rope for each kind, norms
over heads, GeGLU.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architectures import gemma_like
from model.architectures.one_stack import check_heads
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import local_and_global_fields, local_and_global_ropes, require
from model.hugging_face.tensor import Tensor
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.rope_scaling import Linear, Scaling


class Gemma3(BaseModel, frozen=True, extra="forbid", strict=True):
    """Every `full_every`-th layer sees all positions and turns by `rope_theta` and `rope_scaling`; the
    others see `window` positions back, itself counted, and turn by `local_rope_theta`.
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)

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
    full_every: PositiveInt = 6
    rope_theta: PositiveFloat = 1_000_000.0
    rope_scaling: Scaling | None = None
    local_rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-6
    tied: bool = True  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Gemma3":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        local, full = self._ropes()
        head_norm = partial(RMSNorm, size=self.head_width, eps=self.norm_eps, letter="A", offset=1.0)
        sliding = {"rope": "local", "window": self.window, "head_norm": head_norm}
        pattern = (*[sliding] * (self.full_every - 1), {"rope": "full", "head_norm": head_norm})
        return gemma_like.decoder(self, execution, {"local": local, "full": full}, pattern).build(precision)

    def _ropes(self) -> tuple[Rope, Rope]:
        return Rope(theta=self.local_rope_theta), Rope(theta=self.rope_theta, scaling=self.rope_scaling)

    def windows(self) -> tuple[int | None, ...]:
        """How many positions back each layer sees; None: all."""
        return tuple(None if (i + 1) % self.full_every == 0 else self.window for i in range(self.layers))

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Gemma3":
        """The sizes in a config.json.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        require(config, attn_logit_softcapping=(None,), final_logit_softcapping=(None,))
        local, full = local_and_global_ropes(config)
        if local.scaling is not None:
            raise ValueError(
                f"config.json scales the rope of its sliding layers ({local.scaling}), which we have not; take another checkpoint"
            )
        sizes = gemma_like.sizes_of({**config, "rope_parameters": None, "rope_scaling": None})
        full_every = gemma_like.full_every(config)
        gemma_like.check_pattern(config, sizes["layers"], full_every)
        ropes = {"rope_theta": full.theta, "rope_scaling": full.scaling, "local_rope_theta": local.theta}
        return cls(**{**sizes, **ropes}, full_every=full_every)

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        names = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
        return {
            **names,
            **gemma_like.fields_of(self, self.full_every),
            **local_and_global_fields(*self._ropes()),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return gemma_like.rows(self, head_norm=True)


def _gemma3(**sizes: Any) -> Gemma3:
    """Those that were trained with images have a larger vocabulary, and were stretched from 32,768 to
    131,072 tokens.
    """
    large = {"vocab_size": 262_208, "context": 131_072, "window": 1024, "rope_scaling": Linear(factor=8.0)}
    return Gemma3(**{**large, "head_width": 256, "query_pre_attn_scalar": 256, **sizes})


_SMALL = {
    "vocab_size": 262_144,
    "context": 32_768,
    "window": 512,
    "rope_scaling": None,
    "heads": 4,
    "kv_heads": 1,
}

PRESETS = {
    "gemma3_270m": _gemma3(**_SMALL, width=640, layers=18, feed_forward_width=2048),
    "gemma3_1b": _gemma3(**_SMALL, width=1152, layers=26, feed_forward_width=6912),
    "gemma3_4b": _gemma3(width=2560, layers=34, heads=8, kv_heads=4, feed_forward_width=10_240),
    "gemma3_12b": _gemma3(width=3840, layers=48, heads=16, kv_heads=8, feed_forward_width=15_360),
    "gemma3_27b": _gemma3(
        width=5376,
        layers=62,
        heads=32,
        kv_heads=16,
        feed_forward_width=21_504,
        head_width=128,
        query_pre_attn_scalar=168,
    ),
}
