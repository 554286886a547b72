"""Llama (Touvron et al. 2023) and its closest relatives: pre-norm blocks of rotary grouped-query attention
and SwiGLU, without biases.

Three switches make the others of the family: `window` Mistral (Jiang et al. 2023), `attention_bias` Qwen2
(Yang et al. 2024), `head_norm` Qwen3 (Yang et al. 2025). Their sizes stand in llama_presets.py.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from flax import nnx
from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architecture import Facts
from model.decoder import Decoder
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face import llama as checkpoint
from model.hugging_face.tensor import Tensor
from model.kernels.choose import attend_of
from model.layers.attention import Attention
from model.layers.block import Block
from model.layers.feed_forward import FeedForward
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.rope_scaling import Scaling, check_heads
from model.layers.stack import Stack


class Llama(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes by the names of the field; heads × head_width need not be the width."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2", "qwen3")

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
    attention_bias: bool = False  # on queries, keys and values, not on the output
    head_norm: bool = False  # an RMSNorm over each head of queries and keys, before their rotation
    window: PositiveInt | None = None  # positions that one sees, itself counted; None: all
    media_width: PositiveInt | None = None  # of encoded images that a projection brings to `width`
    # Mistral 7B from v0.2 on has no window: nothing but this name tells it from a Llama, and exports keep it
    model_type: Literal["llama", "mistral"] = "llama"

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Llama":
        check_heads(self)
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return self._decoder(execution).build(precision)

    def facts(self) -> Facts:
        """Heads, widths and windows of every layer."""
        return self._decoder(DEFAULT).facts()

    def _decoder(self, execution: Execution) -> Decoder:
        # makers, not modules: a stack makes one block for shapes, and N sets of parameters for it
        norm = partial(RMSNorm, size=self.width, eps=self.norm_eps)
        # scales over A, which all heads share
        head_norm = partial(RMSNorm, size=self.head_width, eps=self.norm_eps, letter="A")

        def block(rngs: nnx.Rngs) -> Block:
            attention = Attention(
                D=self.width,
                H=self.heads,
                K=self.kv_heads,
                A=self.head_width,
                window=self.window,
                biased="qkv" if self.attention_bias else "",  # the products that have a bias
                head_norm=head_norm if self.head_norm else None,
                attend=attend_of(execution),  # the kernel for the platform of the mesh
                rngs=rngs,
            )
            feed_forward = FeedForward(D=self.width, F=self.feed_forward_width, rngs=rngs)
            return Block(norm=norm, attention=attention, feed_forward=feed_forward)

        rope = Rope(theta=self.rope_theta, scaling=self.rope_scaling)
        return Decoder(
            vocab_size=self.vocab_size,
            width=self.width,
            # one `lax.scan` over N layers: XLA compiles one block, however deep the model
            stacks={"blocks": Stack([block], N=self.layers, execution=execution)},
            norm=norm,
            tied=self.tied,
            # tables of cosines and sines, made once for all layers; `Attention` asks for them by this name
            ropes={"rope": (rope, self.head_width)},
            media_width=self.media_width,
        )

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Llama":
        """The sizes and switches in the config.json of any of `hugging_face_types`."""
        return cls(**checkpoint.sizes_of(config))

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        return checkpoint.fields_of(self)

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        return checkpoint.tensors_of(self)
