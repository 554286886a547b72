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
from model.hugging_face.config import decoder_fields, decoder_sizes, require
from model.hugging_face.names import attention_rows, gated_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor
from model.layers.attention import Attention, attend_of, check_heads
from model.layers.block import Block
from model.layers.feed_forward import FeedForward
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.rope_scaling import Scaling
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
    attention_bias: bool = (
        False  # on queries, keys and values, not on the output, as Qwen2 has them
    )
    head_norm: bool = (
        False  # an RMSNorm over each head of queries and keys, before they are rotated
    )
    window: PositiveInt | None = (
        None  # how many positions back, itself counted, a position sees; None: all
    )
    media_width: PositiveInt | None = (
        None  # of encoded images or sounds that a projection brings to `width`
    )
    # Mistral 7B from v0.2 on has no window: nothing but this name tells it from a Llama, and exports keep it
    model_type: Literal["llama", "mistral"] = "llama"

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Llama":
        check_heads(heads=self.heads, kv_heads=self.kv_heads, head_width=self.head_width)
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
                # the letters of the products that have a bias
                biased="qkv" if self.attention_bias else "",
                head_norm=head_norm if self.head_norm else None,
                # the kernel; which one is decided while tracing, by the platform of the mesh
                attend=attend_of(execution),
                rngs=rngs,
            )
            feed_forward = FeedForward(D=self.width, F=self.feed_forward_width, rngs=rngs)
            # x + attention(norm(x)), then x + feed_forward(norm(x))
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
        """The sizes and switches in the config.json of any of `hugging_face_types`.

        Raises:
            ValueError: it lacks one, or asks for what we would compute differently.
        """
        kind = config["model_type"]
        # SwiGLU is what `FeedForward` computes
        require(config, hidden_act=("silu",), **_REQUIRED[kind])
        # a Mistral config that does not name a window is one of v0.1, which had 4,096
        window = config.get("sliding_window", 4096) if kind == "mistral" else None
        return cls(
            **decoder_sizes(config),
            attention_bias=kind == "qwen2",
            head_norm=kind == "qwen3",
            window=window,
            model_type="mistral" if kind == "mistral" and window is None else "llama",
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5.

        Raises:
            ValueError: two switches are on that no model of transformers has together, or it reads media.
        """
        if self.media_width:
            raise ValueError(
                f"media_width={self.media_width}: no text model of transformers has a projection of media; "
                "export a model without one"
            )
        switches = {
            "mistral": self.window is not None,
            "qwen2": self.attention_bias,
            "qwen3": self.head_norm,
        }
        kinds = [kind for kind, is_on in switches.items() if is_on]
        if len(kinds) > 1:
            raise ValueError(
                f"no model of transformers is {' and '.join(kinds)} at once; "
                "of window, attention_bias and head_norm one alone can be exported"
            )
        kind = kinds[0] if kinds else self.model_type
        fields = {
            "llama": {"attention_bias": False, "mlp_bias": False},
            "mistral": {"sliding_window": self.window},
            "qwen2": {"use_sliding_window": False},
            "qwen3": {"attention_bias": False, "use_sliding_window": False},
        }
        # transformers looks its class up by these two
        names = {"architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind}
        return {**names, **fields[kind], **decoder_fields(self)}

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint."""
        biased = "qkv" if self.attention_bias else ""
        attention = attention_rows(biased=biased, head_norm=self.head_norm)
        return (*outer_rows(tied=self.tied), *attention, *norm_rows(), *gated_rows())


# by model_type: fields of config.json that change the result, and the values that we compute
_REQUIRED: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (1,)},
    "mistral": {"attention_bias": (False,), "layer_types": (None,)},
    "qwen2": {"use_sliding_window": (False,)},
    "qwen3": {"attention_bias": (False,), "use_sliding_window": (False,)},
}
