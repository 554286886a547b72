"""Read GGUF files of Llama models as Hugging Face checkpoints: names, layouts and config are translated, and
weights dequantized.
"""

import contextlib
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.hugging_face.checkpoint import Checkpoint, File
from model.hugging_face.defaults import check_type
from model.hugging_face.gguf_file import Stored, read
from model.hugging_face.gguf_rope import ROTARY, number, rope_scaling

NAMES = {  # GGUF → Hugging Face; {} is the layer
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blk.{}.attn_q.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blk.{}.attn_k.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blk.{}.attn_v.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blk.{}.attn_output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight": "model.layers.{}.mlp.down_proj.weight",
}
# Keys that change no number, or are read below. With any other one, whose meaning we do not know, a file
# would be computed as something else than it is.
HARMLESS = (
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
)


class Gguf(NamedTuple):
    """A file and its metadata, by the format's names (`llama.block_count`, `tokenizer.ggml.tokens`)."""

    checkpoint: Checkpoint
    metadata: dict[str, Any]


def open_gguf(path: Path) -> Gguf:
    """Open a .gguf file.

    Raises:
        ValueError: it is cut short or damaged, of another architecture than llama, or the library `gguf` is
            not installed.
    """
    metadata, stored = _read(path)
    # other architectures have names and row orders of their own
    kind = metadata.get("general.architecture")
    if kind != "llama" or metadata.get("llama.expert_count"):
        raise ValueError(
            f"{path} has general.architecture={kind!r:.40}, and only dense llama models are imported from "
            "GGUF; take safetensors"
        )
    n_files = metadata.get("split.count", 1)
    if n_files not in (0, 1):
        raise ValueError(
            f"{path} is one of {n_files!r:.40} files; join them with `llama-gguf-split --merge`"
        )
    _check_keys(path, metadata)
    factors = {tensor.name: tensor for tensor in stored if tensor.name in ROTARY}
    tensors = [tensor for tensor in stored if tensor.name not in ROTARY]
    config = _config(path, metadata, {tensor.name for tensor in tensors})
    config["rope_scaling"] = rope_scaling(path, metadata, config, factors)
    # llama.cpp reorders the rows of what is rotated, queries and keys
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {
        _their_name(path, tensor.name): _Weight(path, tensor, _heads_of(tensor.name, heads))
        for tensor in tensors
    }
    shapes = {name: tensor.shape for name, tensor in zip(weights, tensors, strict=True)}
    # the file is mapped into memory, so there is nothing to open or close
    file = File(path, shapes, partial(contextlib.nullcontext, weights))
    return Gguf(Checkpoint(path, config, (file,)), metadata)


def _read(path: Path) -> tuple[dict[str, Any], list[Stored]]:
    try:
        # an optional dependency, needed only for .gguf files
        from gguf.quants import dequantize
    except ImportError as error:
        remedy = "run `pip install 'meshwright[huggingface]'`"
        raise ValueError(f"{path} needs the library `gguf`; {remedy}") from error
    with naming_damage(path):
        metadata, stored = read(path)
    for tensor in {tensor.kind: tensor for tensor in stored}.values():
        try:
            # a single row of each kind: most kinds can be read, and none need be tried twice
            dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], tensor.kind)
        except NotImplementedError:
            what = f"{tensor.name!r:.60} as {tensor.kind.name}, which cannot be made floats"
            raise ValueError(f"{path} has {what}; take safetensors") from None
    return metadata, stored


def _check_keys(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError: there is a key that we do not know, or one that says what we do not compute."""
    for name, value in metadata.items():
        key = name.removeprefix("llama.")
        # 0, false and empty texts are what leaves a feature out
        if key != name and key not in HARMLESS and value:
            raise _not_computed(path, name, value)
    # false does mean something here: every position sees those behind it too
    if metadata.get("llama.attention.causal", True) is not True:
        raise _not_computed(path, "llama.attention.causal", False)
    name = "llama.attention.sliding_window"
    window = number(path, metadata, name, 0)
    # a window that no text passes is none
    if 0 < window < number(path, metadata, "llama.context_length", 0):
        raise _not_computed(path, name, window)


def _not_computed(path: Path, name: str, value: Any) -> ValueError:
    what = f"{path} has {name}={value!r:.40}, which we do not compute"
    return ValueError(f"{what}; take safetensors")


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn what is raised on a damaged file into a ValueError that names the file."""
    try:
        yield
    except (ValueError, KeyError, IndexError, OverflowError, OSError, struct.error) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); download it again") from error


def _config(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: set[str],
) -> dict[str, Any]:
    """The metadata as fields of config.json, without the scaling of rotary positions."""
    fields = {
        "vocab_size": "llama.vocab_size",
        "hidden_size": "llama.embedding_length",
        "num_hidden_layers": "llama.block_count",
        "num_attention_heads": "llama.attention.head_count",
        "num_key_value_heads": "llama.attention.head_count_kv",
        "intermediate_size": "llama.feed_forward_length",
        "max_position_embeddings": "llama.context_length",
        "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    }
    # Older files leave out the size of the vocabulary, which they list, and the number of key/value heads if
    # it is that of the query heads.
    tokens = metadata.get("tokenizer.ggml.tokens")
    n_tokens = len(tokens) if isinstance(tokens, list) else 0
    known = {"llama.vocab_size": n_tokens, **metadata}
    known.setdefault("llama.attention.head_count_kv", metadata.get("llama.attention.head_count"))
    missing = [name for name in fields.values() if not known.get(name)]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)} in its metadata; take another file")
    sizes = {ours: number(path, known, name, 0) for ours, name in fields.items()}
    width = number(path, metadata, "llama.attention.key_length", 0)
    if width:
        fields["head_dim"], sizes["head_dim"] = "llama.attention.key_length", width
    for ours, value in sizes.items():
        kind = float if ours == "rms_norm_eps" else int
        check_type(ours, value, kind, said=f"{path} has {fields[ours]}")
    head_width = width or sizes["hidden_size"] // sizes["num_attention_heads"]
    # of a head, the entries that are rotated; the others stay, as in StableLM
    n_rotated = number(path, metadata, "llama.rope.dimension_count", head_width)
    if n_rotated != head_width:
        raise _not_computed(path, "llama.rope.dimension_count", n_rotated)
    return {
        "model_type": "llama",
        # the format has no field for tied embeddings
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_theta": number(path, metadata, "llama.rope.freq_base", 10_000.0),
        "head_dim": None,
        **sizes,
    }


def _their_name(path: Path, name: str) -> str:
    """Hugging Face's name of a tensor.

    Raises:
        ValueError: no llama model has such a tensor.
    """
    block, _, rest = name.partition(".")
    layer, _, rest = rest.partition(".")
    pattern = f"blk.{{}}.{rest}" if block == "blk" else name
    if pattern not in NAMES:
        raise ValueError(
            f"{path} has a tensor {name!r:.60}, which no llama model has; take safetensors"
        )
    return NAMES[pattern].format(layer)


def _heads_of(name: str, heads: Mapping[str, int]) -> int:
    """The number of heads if the tensor holds queries or keys, else 0."""
    return next((n for product, n in heads.items() if f".{product}." in name), 0)


class _Weight(NamedTuple):
    """A tensor that is dequantized when it is sliced. `heads` > 0: its rows are of this many heads, in which
    llama.cpp stores rotary pairs as neighbours.
    """

    path: Path
    tensor: Stored
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self.tensor.shape

    def __getitem__(self, cuts: Any) -> np.ndarray:
        from gguf.quants import dequantize

        with naming_damage(self.path):
            # all of it: a quantized block is 32 or 256 weights of a row, which a slice may split
            x = dequantize(self.tensor.data, self.tensor.kind).reshape(self.shape)
        return (self._in_halves(x) if self.heads else x)[cuts]

    def _in_halves(self, x: np.ndarray) -> np.ndarray:
        """The inverse of llama.cpp's `permute`: Hugging Face stores the first entries of all pairs, then the
        second ones.
        """
        n_pairs = x.shape[0] // self.heads // 2
        return x.reshape(self.heads, n_pairs, 2, -1).swapaxes(1, 2).reshape(x.shape)
