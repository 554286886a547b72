"""Read GGUF files of Llama models as Hugging Face checkpoints: names, layouts and config are translated, and
weights dequantized.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.hugging_face.checkpoint import Checkpoint, File

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
    reader = _reader(path)
    with _naming_damage(path):
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    # other architectures have names and row orders of their own
    kind = metadata.get("general.architecture")
    if kind != "llama" or metadata.get("llama.expert_count", 0):
        raise ValueError(
            f"{path} has general.architecture={kind!r}, and only dense llama models are imported from GGUF; "
            "take safetensors"
        )
    config = _config(path, metadata, {tensor.name for tensor in reader.tensors})
    # llama.cpp reorders the rows of what is rotated, queries and keys
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {
        _their_name(tensor.name): _Weight(path, tensor, _heads_of(tensor.name, heads))
        for tensor in reader.tensors
    }
    shapes = {name: weight.shape for name, weight in weights.items()}
    # the library maps the file into memory, so there is nothing to open or close
    file = File(path, shapes, partial(contextlib.nullcontext, weights))
    return Gguf(Checkpoint(path, config, (file,)), metadata)


def _reader(path: Path) -> Any:
    try:
        import gguf  # an optional dependency, needed only for .gguf files
    except ImportError as error:
        remedy = "run `pip install 'meshwright[huggingface]'`"
        raise ValueError(f"{path} needs the library `gguf`; {remedy}") from error
    with _naming_damage(path):
        return gguf.GGUFReader(path)


@contextlib.contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn what the library raises on a damaged file into a ValueError that names the file."""
    try:
        yield
    except (ValueError, KeyError, IndexError, OverflowError, OSError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); download it again") from error


def _config(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: set[str],
) -> dict[str, Any]:
    """The metadata as fields of config.json."""
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
    known = {"llama.vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())), **metadata}
    known.setdefault("llama.attention.head_count_kv", metadata.get("llama.attention.head_count"))
    missing = [name for name in fields.values() if not known.get(name)]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)} in its metadata; take another file")
    return {
        "model_type": "llama",
        # the format has no field for tied embeddings
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_scaling": _scaling(metadata),
        "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 10_000.0)),
        "head_dim": metadata.get("llama.attention.key_length"),
        **{ours: known[name] for ours, name in fields.items()},
        "rms_norm_eps": _shortest(known[fields["rms_norm_eps"]]),
    }


def _shortest(number: float) -> float:
    """The shortest decimal of a float32: 1e-05 instead of 9.999999747378752e-06, as the library gives it."""
    return float(str(np.float32(number)))


def _scaling(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": metadata.get("llama.rope.scaling.factor")}
    original = metadata.get("llama.rope.scaling.original_context_length")
    if original:
        scaling["original_max_position_embeddings"] = original
    return scaling


def _their_name(name: str) -> str:
    """Hugging Face's name; an unknown name stays, and is later refused as an unknown tensor."""
    parts = name.split(".")
    if parts[0] != "blk":
        return NAMES.get(name, name)
    _, layer, *rest = parts
    return NAMES.get(".".join(["blk", "{}", *rest]), name).format(layer)


def _heads_of(name: str, heads: Mapping[str, int]) -> int:
    """The number of heads if the tensor holds queries or keys, else 0."""
    return next((n for product, n in heads.items() if f".{product}." in name), 0)


class _Weight(NamedTuple):
    """A tensor that is dequantized when it is sliced. `heads` > 0: its rows are of this many heads, in which
    llama.cpp stores rotary pairs as neighbours.
    """

    path: Path
    tensor: Any
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns); GGUF lists the fastest dimension first."""
        return tuple(int(n) for n in reversed(self.tensor.shape))

    def __getitem__(self, cuts: Any) -> np.ndarray:
        from gguf.quants import dequantize

        with _naming_damage(self.path):
            # all of it: a quantized block is 32 or 256 weights of a row, which a slice may split
            x = dequantize(self.tensor.data, self.tensor.tensor_type).reshape(self.shape)
        return (self._in_halves(x) if self.heads else x)[cuts]

    def _in_halves(self, x: np.ndarray) -> np.ndarray:
        """The inverse of llama.cpp's `permute`: Hugging Face stores the first entries of all pairs, then the
        second ones.
        """
        n_pairs = x.shape[0] // self.heads // 2
        return x.reshape(self.heads, n_pairs, 2, -1).swapaxes(1, 2).reshape(x.shape)
