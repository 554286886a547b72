"""GGUF files of Llama models: the same parameters as from safetensors, and a sentence for what cannot be
read.
"""

from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from model.architectures.llama import Llama
from model.hugging_face.checkpoint import open_folder
from model.hugging_face.gguf import NAMES, open_gguf
from model.hugging_face.load import load
from tests.examples import ONE_DEVICE, under

FOLDER = Path(__file__).parent.parent / "data" / "hugging_face" / "llama_tied"
FIELDS: dict[str, Any] = {
    "vocab_size": 101,
    "block_count": 2,
    "context_length": 128,
    "embedding_length": 32,
    "feed_forward_length": 40,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000.0,
}


def permuted(x: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter stores queries and keys (convert_hf_to_gguf.py, `LlamaModel.permute`)."""
    return (
        x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
    )


def written(path: Path, *, kind: str = "llama", quantized: bool = False, **fields: Any) -> Path:
    """The reference model as a GGUF file."""
    writer = gguf.GGUFWriter(path, kind)
    for name, value in (FIELDS | fields).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[
            type(value)
        ]
        add(f"{kind}.{name}", value)
    theirs = {hf.format(i): name.format(i) for name, hf in NAMES.items() for i in range(2)}
    for hf, x in load_file(FOLDER / "model.safetensors").items():
        heads = {"q_proj": 4, "k_proj": 2}.get(hf.split(".")[-2], 0)
        x = permuted(x, heads) if heads else x
        if quantized and x.ndim == 2 and x.shape[1] % 32 == 0:
            block = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(theirs[hf], gguf.quantize(x, block), raw_dtype=block)
        else:
            writer.add_tensor(theirs[hf], x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def params_of(checkpoint: Any) -> list[tuple[Any, np.ndarray]]:
    with jax.set_mesh(under(ONE_DEVICE)):
        params = load(Llama.from_hugging_face(checkpoint.config), checkpoint, params="float32")
    return [(path, np.asarray(x)) for path, x in jax.tree.leaves_with_path(params)]


def test_a_gguf_file_gives_the_parameters_of_the_safetensors_it_was_made_from(tmp_path):
    found = open_gguf(written(tmp_path / "tiny.gguf")).checkpoint
    wanted = open_folder(FOLDER)
    assert Llama.from_hugging_face(found.config) == Llama.from_hugging_face(wanted.config)
    for (path, x), (_, y) in zip(params_of(found), params_of(wanted), strict=True):
        np.testing.assert_array_equal(x, y, str(path))


def test_quantized_weights_come_within_their_steps(tmp_path):
    found = params_of(open_gguf(written(tmp_path / "tiny.gguf", quantized=True)).checkpoint)
    for (path, x), (_, y) in zip(found, params_of(open_folder(FOLDER)), strict=True):
        step = 2 * np.abs(y).max() / 15  # 4 bits over the range of a block
        assert np.abs(x - y).max() <= 0.51 * step + 1e-3, path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mamba"}, "general.architecture='mamba', and only dense llama"),
        ({"expert_count": 4}, "only dense llama"),
        ({"block_count": 0}, "has no llama.block_count in its metadata"),
    ],
)
def test_another_kind_of_file_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_gguf(written(tmp_path / "tiny.gguf", **options))


@pytest.mark.parametrize("n_bytes", [0, 3, 20, 300, 9000])
def test_a_file_cut_short_is_refused_in_a_sentence(n_bytes, tmp_path):
    path = written(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match="tiny.gguf is cut short or damaged .*download it again"):
        params_of(open_gguf(path).checkpoint)


def test_linear_scaling_of_the_metadata_is_read(tmp_path):
    path = written(
        tmp_path / "tiny.gguf", **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    )
    assert Llama.from_hugging_face(open_gguf(path).checkpoint.config).rope_scaling.factor == 4.0
