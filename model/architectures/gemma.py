"""Gemma 2 (Gemma Team 2024) and the text model of Gemma 3 (Gemma Team 2025): layers with sliding windows and
with full attention, norms before and after each half of a block, GeGLU, and embeddings scaled by √width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from flax import nnx
from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architecture import Facts
from model.decoder import Decoder
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face import gemma as checkpoint
from model.hugging_face.config import local_and_global_fields, local_and_global_ropes
from model.hugging_face.defaults import completed, require
from model.hugging_face.tensor import Tensor
from model.kernels.choose import attend_of
from model.layers.attention import Attention
from model.layers.block import Block
from model.layers.feed_forward import FeedForward, gelu_tanh
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.rope_scaling import Linear, Scaling, check_heads
from model.layers.stack import Stack


class _Gemma(BaseModel, ABC, frozen=True, extra="forbid", strict=True):
    """The sizes that both generations have; they differ in their patterns of layers."""

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    window: PositiveInt  # how many positions, itself included, a position sees in a sliding layer
    query_pre_attn_scalar: PositiveInt  # scores are divided by its square root
    rope_scaling: Scaling | None = None
    norm_eps: PositiveFloat = 1e-6
    tied: bool = True  # the output matrix is the embedding

    @model_validator(mode="after")
    def _sizes_agree(self) -> "_Gemma":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return self._decoder(execution).build(precision)

    def facts(self) -> Facts:
        """Heads, widths and windows of every layer."""
        return self._decoder(DEFAULT).facts()

    @abstractmethod
    def _decoder(self, execution: Execution) -> Decoder:
        """The layers of this generation."""


class Gemma2(_Gemma):
    """Layers 0, 2, 4, … have a sliding `window`; layers 1, 3, 5, … full attention."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("gemma2",)

    rope_theta: PositiveFloat = 10_000.0
    attention_soft_cap: PositiveFloat | None = 50.0
    logit_soft_cap: PositiveFloat | None = 30.0

    def _decoder(self, execution: Execution) -> Decoder:
        # in the order of the pattern: layer 0 is sliding
        full = partial(_block, self, execution, soft_cap=self.attention_soft_cap)
        sliding = partial(full, window=self.window)
        ropes = {"rope": Rope(theta=self.rope_theta, scaling=self.rope_scaling)}
        decoder = _decoder(self, execution, [sliding, full], ropes)
        return decoder._replace(soft_cap=self.logit_soft_cap)  # Gemma 3 has neither soft cap

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Gemma2":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        config = completed(config, "gemma2")
        sizes = checkpoint.sizes_of(config)
        checkpoint.check_pattern(config, sizes["layers"], full_every=2)
        return cls(
            **sizes,
            attention_soft_cap=config["attn_logit_softcapping"],
            logit_soft_cap=config["final_logit_softcapping"],
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        return {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "attn_logit_softcapping": self.attention_soft_cap,
            "final_logit_softcapping": self.logit_soft_cap,
            **checkpoint.fields_of(self, full_every=2),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return checkpoint.rows(tied=self.tied, head_norm=False)


class Gemma3(_Gemma):
    """Every `full_every`-th layer has full attention and rotates by `rope_theta` and `rope_scaling`; the
    others have a sliding `window` and rotate by `local_rope_theta`.
    """

    hugging_face_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)

    full_every: PositiveInt = 6
    rope_theta: PositiveFloat = 1_000_000.0
    local_rope_theta: PositiveFloat = 10_000.0

    def _decoder(self, execution: Execution) -> Decoder:
        head_norm = partial(
            RMSNorm, size=self.head_width, eps=self.norm_eps, letter="A", offset=1.0
        )
        block = partial(_block, self, execution, head_norm=head_norm)
        sliding = partial(block, rope="local", window=self.window)
        full = partial(block, rope="full")
        ropes = {"local": self._local_rope(), "full": self._full_rope()}
        # a full layer ends each repeat of the pattern: layers 5, 11, 17, … in the released sizes
        return _decoder(self, execution, [*[sliding] * (self.full_every - 1), full], ropes)

    def _local_rope(self) -> Rope:
        return Rope(theta=self.local_rope_theta)

    def _full_rope(self) -> Rope:
        return Rope(theta=self.rope_theta, scaling=self.rope_scaling)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Gemma3":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        config = completed(config, "gemma3_text")
        require(config, attn_logit_softcapping=(None,), final_logit_softcapping=(None,))
        local, full = local_and_global_ropes(config)
        if local.scaling is not None:
            raise ValueError(
                f"config.json scales the rope of its sliding layers ({local.scaling}), "
                "which we do not compute; take another checkpoint"
            )
        # without the ropes, which are read above: `sizes_of` knows only models with a single rope
        sizes = checkpoint.sizes_of({**config, "rope_parameters": None, "rope_scaling": None})
        full_every = checkpoint.full_every(config)
        checkpoint.check_pattern(config, sizes["layers"], full_every=full_every)
        ropes = {
            "rope_theta": full.theta,
            "rope_scaling": full.scaling,
            "local_rope_theta": local.theta,
        }
        return cls(**{**sizes, **ropes}, full_every=full_every)

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            **checkpoint.fields_of(self, full_every=self.full_every),
            **local_and_global_fields(self._local_rope(), self._full_rope()),
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return checkpoint.rows(tied=self.tied, head_norm=True)


def _decoder(
    sizes: _Gemma,
    execution: Execution,
    pattern: Sequence[Callable[[nnx.Rngs], Block]],
    ropes: dict[str, Rope],
) -> Decoder:
    """Layer i is made by `pattern[i % len(pattern)]`."""
    return Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        stacks={"blocks": Stack(pattern, N=sizes.layers, execution=execution)},
        norm=_norm(sizes),
        tied=sizes.tied,
        ropes={name: (rope, sizes.head_width) for name, rope in ropes.items()},
        # Embeddings are drawn with standard deviation width^-1/2, as they are the output matrix too.
        embed_scale=sizes.width**0.5,
    )


def _block(sizes: _Gemma, execution: Execution, rngs: nnx.Rngs, **attention: Any) -> Block:
    """A block; `attention` are further arguments of its `Attention`."""
    return Block(
        norm=_norm(sizes),
        attention=Attention(
            D=sizes.width,
            H=sizes.heads,
            K=sizes.kv_heads,
            A=sizes.head_width,
            scale=sizes.query_pre_attn_scalar**-0.5,  # not head_width: the 27B sizes differ
            attend=attend_of(execution),
            rngs=rngs,
            **attention,
        ),
        feed_forward=FeedForward(
            D=sizes.width, F=sizes.feed_forward_width, activation=gelu_tanh, rngs=rngs
        ),
        post_norms=True,
    )


def _norm(sizes: _Gemma) -> Callable[[], RMSNorm]:
    """Norms that multiply by 1 + scale, as in the authors' checkpoints."""
    return partial(RMSNorm, size=sizes.width, eps=sizes.norm_eps, offset=1.0)


def _gemma2(**sizes: Any) -> Gemma2:
    shared = {"vocab_size": 256_000, "context": 8192, "window": 4096}
    return Gemma2(**{**shared, "head_width": 256, "query_pre_attn_scalar": 256, **sizes})


def _gemma3(**sizes: Any) -> Gemma3:
    """The sizes that were trained with images have a larger vocabulary, and a context extended from 32,768 to
    131,072 tokens.
    """
    large = {
        "vocab_size": 262_208,
        "context": 131_072,
        "window": 1024,
        "rope_scaling": Linear(factor=8.0),
    }
    return Gemma3(**{**large, "head_width": 256, "query_pre_attn_scalar": 256, **sizes})


# the sizes of Gemma 3 that were trained without images
_TEXT_ONLY = {"vocab_size": 262_144, "context": 32_768, "window": 512, "rope_scaling": None}
_SMALL = {**_TEXT_ONLY, "heads": 4, "kv_heads": 1}

PRESETS = {
    "gemma2_2b": _gemma2(width=2304, layers=26, heads=8, kv_heads=4, feed_forward_width=9216),
    "gemma2_9b": _gemma2(width=3584, layers=42, heads=16, kv_heads=8, feed_forward_width=14_336),
    # 144 is width / heads = 4608 / 32, though a head is 128 wide
    "gemma2_27b": _gemma2(
        width=4608,
        layers=46,
        heads=32,
        kv_heads=16,
        feed_forward_width=36_864,
        head_width=128,
        query_pre_attn_scalar=144,
    ),
    "gemma3_270m": _gemma3(**_SMALL, width=640, layers=18, feed_forward_width=2048),
    "gemma3_1b": _gemma3(**_SMALL, width=1152, layers=26, feed_forward_width=6912),
    "gemma3_4b": _gemma3(width=2560, layers=34, heads=8, kv_heads=4, feed_forward_width=10_240),
    "gemma3_12b": _gemma3(width=3840, layers=48, heads=16, kv_heads=8, feed_forward_width=15_360),
    # 168 is width / heads = 5376 / 32
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
