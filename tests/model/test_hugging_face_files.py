"""Files of foreign checkpoints: onto any mesh, in parts, out again; and what is wrong with them in a
sentence.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.api import leaf_name, padded
from model.architectures.deepseek_v3 import DeepSeekV3
from model.architectures.gpt2 import GPT2
from model.architectures.llama import Llama
from model.architectures.mixtral import Mixtral
from model.hugging_face import load as loading
from model.hugging_face.checkpoint import INDEX, open_folder
from model.hugging_face.load import load
from model.hugging_face.save import on_host, rounded, save, stored_dtype
from model.hugging_face.tied import without_false_tie
from model.mesh import make_mesh
from model.sharding import letters_of, named
from tests.examples import ONE_DEVICE, under

ROOT = Path(__file__).parent.parent / "data" / "hugging_face"
LLAMA, TIED, GPT, MOE = (
    ROOT / name for name in ("llama_untied_gqa", "llama_tied", "gpt2", "mixtral")
)
MESHES = ({"fsdp": 4, "tensor": 2}, {"stage": 2, "data": 2, "tensor": 2})


def architecture_of(folder: Path) -> Any:
    config = open_folder(folder).config
    return {"llama": Llama, "gpt2": GPT2, "mixtral": Mixtral}[
        config["model_type"]
    ].from_hugging_face(config)


def loaded(
    folder: Path,
    sizes: dict[str, int] = ONE_DEVICE,
    *,
    like: Path | None = None,
    params: str = "float32",
) -> Any:
    with jax.set_mesh(under(sizes)):
        return load(architecture_of(like or folder), open_folder(folder), params=params)


def host(tree: Any) -> dict[str, np.ndarray]:
    return {leaf_name(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


def check_equal(found: Any, wanted: Any) -> None:
    found, wanted = host(found), host(wanted)
    assert found.keys() == wanted.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(x, wanted[name], name)


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: x for path in folder.glob("*.safetensors") for name, x in load_file(path).items()}


def copied(folder: Path, to: Path, change: Any = None, **config: Any) -> Path:
    """A checkpoint with other tensors, and with other fields of its config."""
    to.mkdir()
    fields = json.loads((folder / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(fields))
    tensors = tensors_of(folder)
    save_file(tensors if change is None else change(tensors), to / "model.safetensors")
    return to


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("folder", [LLAMA, GPT], ids=["llama", "gpt2"])
def test_parameters_lie_by_their_letters_and_are_the_same_on_every_mesh(folder, sizes):
    found = loaded(folder, sizes)
    check_equal(found, loaded(folder))
    for path, x in jax.tree.leaves_with_path(found):
        assert x.sharding.is_equivalent_to(
            named(under(sizes), letters_of(path[-1].key), x.shape, at_rest=True), x.ndim
        )


def test_experts_go_to_the_devices_that_hold_them(tmp_path):
    def four(
        tensors: dict[str, np.ndarray],
    ) -> dict[str, np.ndarray]:  # the mesh divides 4 experts, not 5
        routers = {
            name: np.ascontiguousarray(x[:4])
            for name, x in tensors.items()
            if name.endswith("gate.weight")
        }
        return {name: x for name, x in tensors.items() if ".experts.4." not in name} | routers

    folder = copied(MOE, tmp_path / "moe", four, num_local_experts=4)
    check_equal(loaded(folder, {"expert": 4, "fsdp": 2}), loaded(folder))


def test_what_is_too_large_for_the_host_is_put_together_on_the_devices_in_small_pieces(monkeypatch):
    wanted = loaded(LLAMA)
    monkeypatch.setattr(loading, "HOST_BYTES", 0)
    monkeypatch.setattr(loading, "PIECE_BYTES", 3000)
    with jax.set_mesh(make_mesh(jax.devices()[:2], tensor=2)):
        check_equal(load(architecture_of(LLAMA), open_folder(LLAMA), params="float32"), wanted)


def test_the_vocabulary_is_padded_with_zeros_that_are_not_exported(tmp_path):
    params = loaded(LLAMA)
    assert params["embed_VD"].shape[0] == padded(101) == params["unembed_DV"].shape[1] == 128
    assert not np.any(np.asarray(params["embed_VD"])[101:]) and not np.any(
        np.asarray(params["unembed_DV"])[:, 101:]
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        save(
            architecture_of(LLAMA),
            params,
            tmp_path / "out",
            dtype="float32",
            max_shard_bytes=1 << 30,
            files={},
        )
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].shape == (101, 32)


@pytest.mark.parametrize("params", ["float32", "bfloat16"])
def test_weights_are_cast_to_the_dtype_that_is_asked_for(params):
    found = loaded(LLAMA, params=params)["norm"]["scale_D"]
    stored = load_file(LLAMA / "model.safetensors")["model.norm.weight"]
    assert found.dtype == params
    np.testing.assert_array_equal(np.asarray(found), stored.astype(found.dtype))


@pytest.mark.parametrize("sizes", MESHES)
def test_shards_written_from_a_mesh_are_the_whole_and_no_larger_than_asked(sizes, tmp_path):
    folder = tmp_path / "out"
    with jax.set_mesh(under(sizes)):
        params = load(architecture_of(TIED), open_folder(TIED), params="float32")
        save(
            architecture_of(TIED),
            params,
            folder,
            dtype="float32",
            max_shard_bytes=20_000,
            files={"tokenizer.json": b"{}"},
        )
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((folder / name).stat().st_size < 22_000 for name in files)
    found, stored = tensors_of(folder), tensors_of(TIED)
    assert found.keys() == stored.keys() and "lm_head.weight" not in found
    assert all(np.array_equal(found[name], x) for name, x in stored.items())
    assert set(json.loads((folder / INDEX).read_text())["weight_map"]) == set(stored)
    assert (folder / "tokenizer.json").read_bytes() == b"{}"
    check_equal(loaded(folder, like=TIED), loaded(TIED))


def test_an_export_says_its_dtype_for_both_versions_and_replaces_nothing(tmp_path):
    with jax.set_mesh(under(ONE_DEVICE)):
        params = loaded(TIED)
        save(
            architecture_of(TIED),
            params,
            tmp_path / "out",
            dtype="bfloat16",
            max_shard_bytes=1 << 30,
            files={},
        )
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["dtype"] == config["torch_dtype"] == "bfloat16"
        assert (
            load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"].dtype
            == ml_dtypes.bfloat16
        )
        with pytest.raises(ValueError, match="exists already"):
            save(
                architecture_of(TIED),
                params,
                tmp_path / "out",
                dtype="bfloat16",
                max_shard_bytes=1 << 30,
                files={},
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_router_biases_stay_in_float32_beside_weights_in_bfloat16():
    bias = "model.layers.3.mlp.gate.e_score_correction_bias"
    assert stored_dtype(bias, "bfloat16") == "float32"
    assert stored_dtype("model.norm.weight", "bfloat16") == "bfloat16"


def test_a_rounded_export_is_compared_with_the_weights_that_are_in_it():
    folder = ROOT / "deepseek_v3"
    architecture = DeepSeekV3.from_hugging_face(open_folder(folder).config)
    with jax.set_mesh(under(ONE_DEVICE)):
        params = load(architecture, open_folder(folder), params="float32")
        found, given = host(rounded(architecture, params, dtype="bfloat16")), host(params)
    for name, x in found.items():
        is_bias = "router_bias" in name
        wanted = given[name] if is_bias else given[name].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(x, wanted.astype(np.float32), name)


def test_one_layer_is_fetched_from_the_devices_that_hold_it():
    params = loaded(LLAMA, {"stage": 2, "data": 2, "tensor": 2})
    x = params["blocks"]["attention"]["wq_NDHA"]
    np.testing.assert_array_equal(on_host(x, (1,)), np.asarray(x)[1])


def test_a_stray_output_matrix_of_a_tied_model_and_computed_buffers_are_passed_over(tmp_path):
    extra = {
        "lm_head.weight": tensors_of(TIED)["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
    }
    check_equal(
        loaded(copied(TIED, tmp_path / "stray", lambda tensors: tensors | extra)), loaded(TIED)
    )


def test_an_output_matrix_that_is_not_the_embedding_is_never_left_out(tmp_path):
    own = {"lm_head.weight": np.ones((101, 32), np.float32)}
    folder = copied(TIED, tmp_path / "own", lambda tensors: tensors | own)
    with pytest.raises(ValueError, match="lm_head.weight differs from the embedding; set it to"):
        loaded(folder)
    # `import` unties it, as transformers 5 does
    assert without_false_tie({}, open_folder(folder)) == {"tie_word_embeddings": False}
    assert without_false_tie({"a": 1}, open_folder(TIED)) == {"a": 1}


def test_of_several_files_the_one_is_read_that_transformers_reads(tmp_path):
    folder = copied(TIED, tmp_path / "two")
    save_file({"model.norm.weight": np.ones(32, np.float32)}, folder / "z.safetensors")
    assert [file.path.name for file in open_folder(folder).files] == ["model.safetensors"]
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    with pytest.raises(
        ValueError, match="a.safetensors and z.safetensors of .* both hold model.norm"
    ):
        open_folder(folder)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, ml_dtypes.float8_e4m3fn])
def test_integers_and_8_bit_floats_without_scales_are_refused(dtype, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    folder = copied(
        TIED, tmp_path / "q", lambda tensors: tensors | {name: tensors[name].astype(dtype)}
    )
    with pytest.raises(ValueError, match=f"{name} is stored as .*it is quantized: take the one in"):
        loaded(folder)


def test_a_config_of_far_more_layers_than_there_are_tensors_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="describes some .* tensors, and .* has"):
        loaded(copied(TIED, tmp_path / "deep", num_hidden_layers=10_000))


def test_names_without_the_prefix_of_the_whole_model_are_understood(tmp_path):
    bare = copied(
        GPT,
        tmp_path / "bare",
        lambda tensors: {name.removeprefix("transformer."): x for name, x in tensors.items()},
    )
    check_equal(loaded(bare), loaded(GPT))


def without(name: str) -> Any:
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


def changed(name: str, shape: tuple[int, ...]) -> Any:
    return lambda tensors: tensors | {name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("model.layers.1.mlp.up_proj.weight"),
            "no tensor model.layers.1.mlp.up_proj.weight; download it again",
        ),
        (
            changed("model.layers.0.self_attn.q_proj.bias", (32,)),
            "unknown tensors model.layers.0.self_attn.q_proj.bias",
        ),
        (
            changed("lm_head.weight", (104, 32)),
            r"lm_head.weight has shape \[104, 32\], not \[101, 32\] for our unembed_DV",
        ),
        (changed("model.layers.0.mlp.up_proj.weight_scale_inv", (1,)), "it is quantized"),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_anything_is_placed(change, message, tmp_path):
    folder = copied(LLAMA, tmp_path / "wrong", change)
    with pytest.raises(ValueError, match=message):
        loaded(folder)


def test_a_missing_layer_is_said_with_some_names_not_all(tmp_path):
    folder = copied(
        LLAMA,
        tmp_path / "short",
        lambda tensors: {name: x for name, x in tensors.items() if ".1." not in name},
    )
    with pytest.raises(
        ValueError, match="no tensor model.layers.1.input_layernorm.weight, .* and 6 more"
    ):
        loaded(folder)


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def garbled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def unlisted(folder: Path) -> None:
    emptied(folder)
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )


def unconfigured(folder: Path) -> None:
    (folder / "config.json").unlink()


def nested(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def outside(folder: Path) -> None:
    emptied(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


def misconfigured(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


def with_header(header: bytes, n_bytes: int | None = None) -> Any:
    """A damage: the file has this header, which is said to have `n_bytes`, and 16 bytes of data."""

    def damage(folder: Path) -> None:
        size = len(header) if n_bytes is None else n_bytes
        data = size.to_bytes(8, "little") + header + bytes(16)
        (folder / "model.safetensors").write_bytes(data)

    return damage


def tensor(name: str, *, shape: Any = (4,), dtype: Any = "F32", at: Any = (0, 16)) -> bytes:
    return json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": at}})[1:-1].encode()


def piped(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def configured_by_a_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


HEADERS = {
    "of 2^63 bytes": with_header(b"{}", 1 << 63),
    "longer than the file": with_header(b"{}", 1 << 20),
    "of nothing": with_header(b"", 0),
    "of no object": with_header(b"[1, 2]"),
    "of no JSON": with_header(b"{" + b" " * 30),
    "nested": with_header(b'{"a":' * 100_000),
    "with a name twice": with_header(b"{%b, %b}" % (tensor("a"), tensor("a"))),
    "with tensors over one another": with_header(
        b"{%b, %b}" % (tensor("a"), tensor("b", at=(8, 16), shape=(2,)))
    ),
    "with a hole": with_header(b"{%b}" % tensor("a", at=(8, 16), shape=(2,))),
    "with a tensor outside": with_header(b"{%b}" % tensor("a", at=(0, 32), shape=(8,))),
    "with a tensor backwards": with_header(b"{%b}" % tensor("a", at=(16, 0))),
    "with a negative offset": with_header(b"{%b}" % tensor("a", at=(-16, 0))),
    "with another size": with_header(b"{%b}" % tensor("a", shape=(5,))),
    "with a size of 2^63": with_header(b"{%b}" % tensor("a", shape=(1 << 63, 2))),
    "with a size in words": with_header(b"{%b}" % tensor("a", shape="4")),
    "with an unknown dtype": with_header(b"{%b}" % tensor("a", dtype="F33")),
    "with no dtype": with_header(b"{%b}" % tensor("a", dtype=None)),
}


@pytest.mark.parametrize("damage", HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused_in_a_sentence(damage, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(LLAMA, folder)
    (folder / "model.safetensors").chmod(0o644)
    damage(folder)
    with pytest.raises(ValueError, match="model.safetensors is cut short or damaged .*again$"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (piped, "model.safetensors is cut short or damaged .it is no file"),
        (configured_by_a_pipe, "config.json is not JSON .it is no file"),
        (cut, "model.safetensors is cut short or damaged"),
        (garbled, "model.safetensors is cut short or damaged"),
        (pickled, "only pickles .pytorch_model.bin.*never opened"),
        (emptied, "has no safetensors"),
        (unlisted, "lists model-00001-of-00002.safetensors, not in the folder"),
        (unconfigured, "has no config.json"),
        (misconfigured, "holds no JSON object"),
        (nested, "config.json is not JSON"),
        (outside, "lists '../x.safetensors'; a file beside it is expected"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(damage, message, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(LLAMA, folder)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        open_folder(folder)
