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
from model.hugging_face.gguf_rope import number
from model.hugging_face.load import load
from model.layers.rope import Rope
from model.layers.rope_scaling import Linear, Llama3, LongRoPE, YaRN, yarn_growth
from tests.examples import ONE_DEVICE, under

FOLDER = Path(__file__).parent.parent / "data" / "hugging_face" / "llama_tied"
ROOTS = ("general", "split", "tokenizer")  # of keys that are no model's
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


def written(
    path: Path,
    *,
    kind: str = "llama",
    quantized: bool = False,
    further: dict[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    """The reference model as a GGUF file, with `further` tensors and other fields."""
    writer = gguf.GGUFWriter(path, kind)
    for name, value in (FIELDS | fields).items():
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            bool: writer.add_bool,
            list: writer.add_array,
        }[type(value)]
        add(name if "." in name and name.split(".")[0] in ROOTS else f"{kind}.{name}", value)
    for name, x in (further or {}).items():
        writer.add_tensor(name, x)
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


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.bias", "blk", "blk.0", "model.norm.weight", "{x}.weight", "blk.{y}.z"]
)
def test_a_tensor_that_no_llama_has_is_named(name, tmp_path):
    path = written(tmp_path / "tiny.gguf", further={name: np.ones(32, np.float32)})
    with pytest.raises(ValueError, match="which no llama model has") as error:
        open_gguf(path)
    assert f"has a tensor {name!r}, " in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope.dimension_count": 4}, "llama.rope.dimension_count=4, which we do not compute"),
        ({"attention.sliding_window": 16}, "llama.attention.sliding_window=16, which we do not"),
        ({"attention.causal": False}, "llama.attention.causal=False, which we do not compute"),
        ({"logit_scale": 0.5}, "llama.logit_scale=0.5, which we do not compute"),
        ({"rope.scaling.yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
        ({"rope.freq_base": "10000"}, "rope.freq_base='10000', which must be a finite number"),
        ({"rope.freq_base": float("nan")}, "rope.freq_base=nan, which must be a finite number"),
        ({"attention.head_count": [4, 4]}, r"head_count=\[4, 4\], which must be a finite number"),
        (
            {"block_count": 20_000},
            "tiny.gguf has llama.block_count=20000, which must be from 1 to 10",
        ),
        ({"attention.head_count": 0.5}, "llama.attention.head_count=0.5, which must be a whole"),
        (
            {"feed_forward_length": 0.5},
            "llama.feed_forward_length=0.5, which must be a whole number",
        ),
        ({"attention.key_length": 1.5}, "llama.attention.key_length=1.5, which must be a whole"),
        ({"split.count": 3}, "is one of 3 files; join them with"),
        (
            {"rope.scaling.type": "su"},
            "rope.scaling.type='su', and only none, linear, yarn, longrope",
        ),
        ({"rope.scaling.type": "longrope"}, "has no factors beside .*'longrope'"),
        ({"rope.scaling.attn_factor": 1.5}, "attn_factor=1.5, and 1 alone is computed"),
    ],
)
def test_what_we_would_compute_differently_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_gguf(written(tmp_path / "tiny.gguf", **fields))


@pytest.mark.parametrize("value", [1e300, -(10**400)])
def test_a_number_beyond_float32_is_refused_by_the_name_that_the_file_has_for_it(value, tmp_path):
    path = tmp_path / "tiny.gguf"
    with pytest.raises(ValueError, match="tiny.gguf has llama.x=.*, which must be a finite number"):
        number(path, {"llama.x": value}, "llama.x", 0)


def scaling_of(path: Path) -> Any:
    return Llama.from_hugging_face(open_gguf(path).checkpoint.config).rope_scaling


def test_keys_that_leave_a_feature_out_are_passed_over(tmp_path):
    plain = {"rope.dimension_count": 8, "attention.causal": True, "expert_count": 0}
    plain |= {"attention.sliding_window": 128, "rope.scaling.type": "none", "logit_scale": 0.0}
    assert scaling_of(written(tmp_path / "tiny.gguf", **plain)) is None


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"type": "linear", "factor": 4.0}, Linear(factor=4.0)),
        # llama.cpp takes a factor without a type for a linear one
        ({"factor": 4.0}, Linear(factor=4.0)),
        ({"type": "none", "factor": 4.0}, None),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32},
            YaRN(factor=4.0, original_context=32),
        ),
        (
            {"type": "yarn", "factor": 4.0, "yarn_beta_fast": 8.0, "attn_factor": 2.0},
            YaRN(
                factor=4.0,
                original_context=128,
                beta_fast=8.0,
                table_factor=2 * yarn_growth(4.0, 1.0),
            ),
        ),
    ],
)
def test_scaling_in_the_metadata_is_read(fields, scaling, tmp_path):
    named = {f"rope.scaling.{name}": value for name, value in fields.items()}
    assert scaling_of(written(tmp_path / "tiny.gguf", **named)) == scaling


def converted(scaling: Llama3, theta: float, A: int = 8) -> np.ndarray:
    """As llama.cpp's converter stores Llama 3.1's scaling (convert_hf_to_gguf.py,
    `LlamaModel.generate_extra_tensors`).
    """
    factors = []
    for frequency in 1.0 / theta ** (np.arange(0, A, 2, dtype=np.float32) / A):
        wavelength = 2 * np.pi / frequency
        if wavelength < scaling.original_context / scaling.high_freq_factor:
            factors.append(1.0)
        elif wavelength > scaling.original_context / scaling.low_freq_factor:
            factors.append(scaling.factor)
        else:
            smooth = scaling.original_context / wavelength - scaling.low_freq_factor
            smooth /= scaling.high_freq_factor - scaling.low_freq_factor
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("original", [8192, 6000])
def test_factors_of_frequencies_turn_heads_as_llama_3_does(factor, original, tmp_path):
    wanted = Llama3(
        factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=original
    )
    freqs = converted(wanted, theta=5e5)
    assert 1 < freqs[2] < factor == freqs[3]  # a frequency on the slope, else the test is of little
    further, fields = {"rope_freqs.weight": freqs}, {"rope.freq_base": 5e5}
    found = scaling_of(written(tmp_path / "tiny.gguf", further=further, **fields))
    # the released models' own scaling comes back by its name, any other one as what it does
    assert found == wanted if original == 8192 else isinstance(found, LongRoPE)
    positions_BL = jax.numpy.array([[0, 1, 100, 8000]])
    turned, expected = (
        Rope(theta=5e5, scaling=scaling).rotations(positions_BL, 8) for scaling in (found, wanted)
    )
    np.testing.assert_allclose(turned, expected, atol=1e-4)


def test_factors_are_multiplied_with_a_linear_one_and_ones_are_none(tmp_path):
    factors = np.array([1, 2, 3, 4], np.float32)
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    path = written(tmp_path / "a.gguf", further={"rope_freqs.weight": factors}, **linear)
    assert scaling_of(path).factors == (2, 4, 6, 8)
    ones = {"rope_freqs.weight": np.ones(4, np.float32)}
    assert scaling_of(written(tmp_path / "b.gguf", further=ones)) is None


def test_one_list_for_all_lengths_is_read_and_two_are_refused(tmp_path):
    short = np.array([1, 2, 3, 4], np.float32)
    lists = {"rope_factors_short.weight": short, "rope_factors_long.weight": short}
    fields = {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": 1.5}
    found = scaling_of(written(tmp_path / "a.gguf", further=lists, **fields))
    assert found == LongRoPE(factors=(1, 2, 3, 4), original_context=128, table_factor=1.5)
    lists["rope_factors_long.weight"] = 2 * short
    with pytest.raises(ValueError, match="different rope_factors_long.weight and rope_factors_sh"):
        open_gguf(written(tmp_path / "b.gguf", further=lists, **fields))


@pytest.mark.parametrize(
    ("factors", "fields", "message"),
    [
        ([1, 2, 3], {}, "3 numbers in rope_freqs.weight, which must be 4 finite positive"),
        ([1, 2, 3, 0], {}, "4 numbers in rope_freqs.weight, which must be 4 finite positive"),
        ([1, 2, 3, np.nan], {}, "which must be 4 finite positive"),
        ([1, 2, 3, 4], {"rope.scaling.type": "longrope"}, "rope_freqs.weight beside .*'longrope'"),
        (
            [1, 2, 3, 4],
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0},
            "factors of frequencies beside yarn",
        ),
    ],
)
def test_factors_that_make_no_sense_are_refused(factors, fields, message, tmp_path):
    further = {"rope_freqs.weight": np.array(factors, np.float32)}
    with pytest.raises(ValueError, match=message):
        open_gguf(written(tmp_path / "tiny.gguf", further=further, **fields))
