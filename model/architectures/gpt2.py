"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere, a plain feed-forward layer,
tied.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from flax import nnx
from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator

from model.api import Model
from model.architecture import Facts
from model.decoder import Decoder
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.config import size
from model.hugging_face.defaults import completed, require
from model.hugging_face.tensor import Tensor
from model.kernels.choose import attend_of
from model.layers.attention import Attention
from model.layers.block import Block
from model.layers.feed_forward import PlainFeedForward, gelu_tanh
from model.layers.norm import LayerNorm
from model.layers.stack import Stack


class GPT2(BaseModel, frozen=True, extra="forbid", strict=True):
    """There is a learned vector for each of `context` positions. Unlike the original we have no dropout."""

    hugging_face_types: ClassVar[tuple[str, ...]] = ("gpt2",)

    vocab_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    feed_forward_width: PositiveInt
    context: PositiveInt  # longest sequence in tokens
    norm_eps: PositiveFloat = 1e-5
    tied: bool = True  # the output matrix is the embedding

    @property
    def head_width(self) -> int:
        """The heads share the width."""
        return self.width // self.heads

    @model_validator(mode="after")
    def _sizes_agree(self) -> "GPT2":
        if self.width % self.heads:
            raise ValueError(
                f"width={self.width} is not a multiple of heads={self.heads}; "
                "the heads share the width, choose equal parts"
            )
        return self

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions of this architecture at these dtypes."""
        return self._decoder(execution).build(precision)

    def facts(self) -> Facts:
        """Heads and widths of every layer."""
        return self._decoder(DEFAULT).facts()

    def _decoder(self, execution: Execution) -> Decoder:
        norm = partial(LayerNorm, size=self.width, eps=self.norm_eps)

        def block(rngs: nnx.Rngs) -> Block:
            attention = Attention(
                D=self.width,
                H=self.heads,
                K=self.heads,  # each head has keys and values of its own
                A=self.head_width,
                rope=None,  # positions are in the embedding already
                biased="qkvo",
                attend=attend_of(execution),
                rngs=rngs,
            )
            inner = {"F": self.feed_forward_width, "activation": gelu_tanh}
            feed_forward = PlainFeedForward(D=self.width, **inner, rngs=rngs)
            return Block(norm=norm, attention=attention, feed_forward=feed_forward)

        return Decoder(
            vocab_size=self.vocab_size,
            width=self.width,
            stacks={"blocks": Stack([block], N=self.layers, execution=execution)},
            norm=norm,
            tied=self.tied,
            learned_positions=self.context,
        )

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "GPT2":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        config = completed(config, "gpt2")
        # "gelu_new" is transformers' name for the approximation with tanh
        require(
            config,
            activation_function=("gelu_new", "gelu_pytorch_tanh"),
            add_cross_attention=(False,),
        )
        # some descendants of GPT-2 scale their scores differently
        require(config, scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,))
        return cls(
            vocab_size=size(config, "vocab_size"),
            width=size(config, "n_embd"),
            layers=size(config, "n_layer"),
            heads=size(config, "n_head"),
            # null in the published configs, which means four times the width
            feed_forward_width=size(config, "n_inner", default=4 * size(config, "n_embd")),
            context=size(config, "n_positions"),
            norm_eps=size(config, "layer_norm_epsilon"),
            tied=config["tie_word_embeddings"],
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_inner": self.feed_forward_width,
            "n_positions": self.context,
            "layer_norm_epsilon": self.norm_eps,
            "activation_function": "gelu_new",
            "tie_word_embeddings": self.tied,
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """Names and layouts of a Hugging Face checkpoint: matrices are (in, out), and queries, keys and
        values are thirds of a fused one.
        """
        outer = [("embed_VD", "wte.weight", "V D"), ("positions_TD", "wpe.weight", "T D")]
        outer += [("norm.scale_D", "ln_f.weight", "D"), ("norm.bias_D", "ln_f.bias", "D")]
        rows = [Tensor(ours, f"transformer.{theirs}", layout) for ours, theirs, layout in outer]
        rows += [
            Tensor(f"blocks.{ours}", f"transformer.h.{{N}}.{theirs}", layout)
            for ours, theirs, layout in _BLOCK
        ]
        ours = "blocks.attention."
        theirs = "transformer.h.{N}.attn.c_attn."
        for i, (product, head) in enumerate((("q", "H"), ("k", "K"), ("v", "K"))):
            third = (i, 3)  # part i of 3 of the fused matrix
            w, b = f"{ours}w{product}_ND{head}A", f"{ours}b{product}_N{head}A"
            # GPT-2's Conv1D stores (in, out) where torch's Linear has (out, in)
            rows.append(Tensor(w, f"{theirs}weight", f"D *{head}A", part=third))
            rows.append(Tensor(b, f"{theirs}bias", f"{head}A", part=third))
        return tuple(rows if self.tied else [*rows, Tensor("unembed_DV", "lm_head.weight", "V D")])


_BLOCK = (
    ("attention_norm.scale_ND", "ln_1.weight", "D"),
    ("attention_norm.bias_ND", "ln_1.bias", "D"),
    ("attention.wo_NHAD", "attn.c_proj.weight", "HA D"),
    ("attention.bo_ND", "attn.c_proj.bias", "D"),
    ("feed_forward_norm.scale_ND", "ln_2.weight", "D"),
    ("feed_forward_norm.bias_ND", "ln_2.bias", "D"),
    ("feed_forward.w_up_NDF", "mlp.c_fc.weight", "D F"),
    ("feed_forward.b_up_NF", "mlp.c_fc.bias", "F"),
    ("feed_forward.w_down_NFD", "mlp.c_proj.weight", "F D"),
    ("feed_forward.b_down_ND", "mlp.c_proj.bias", "D"),
)


def _gpt2(*, width: int, layers: int, heads: int) -> GPT2:
    # 50,257 = 256 bytes + 50,000 merges + <|endoftext|>
    shared = {"vocab_size": 50_257, "context": 1024}
    return GPT2(**shared, width=width, layers=layers, heads=heads, feed_forward_width=4 * width)


PRESETS = {
    "gpt2_124m": _gpt2(width=768, layers=12, heads=12),
    "gpt2_350m": _gpt2(width=1024, layers=24, heads=16),
    "gpt2_774m": _gpt2(width=1280, layers=36, heads=20),
    "gpt2_1_5b": _gpt2(width=1600, layers=48, heads=25),
}
