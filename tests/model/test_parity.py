"""Parity with transformers: its logits from its checkpoints, and its checkpoints from our parameters (see
tests/data/hugging_face).
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.component import components_in
from model.api import ModelInputs, finish_logits
from model.execution import Precision
from model.hugging_face.checkpoint import open_folder
from model.hugging_face.config import LAYER_KINDS
from model.hugging_face.load import load
from model.hugging_face.save import KEPT_FLOAT32, save
from tests.examples import ONE_DEVICE, quick_jit, under

ROOT = Path(__file__).parent.parent / "data" / "hugging_face"
BY_TYPE = {
    kind: found
    for found in components_in("model.architectures").values()
    for kind in found.hugging_face_types
}
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/config.json"))
EVERY_FOLDER = pytest.mark.parametrize("folder", FOLDERS)
LLAMAS = pytest.mark.parametrize(
    "folder", [folder for folder in FOLDERS if folder.startswith("llama")]
)


def architecture_of(folder: str) -> Any:
    config = json.loads((ROOT / folder / "config.json").read_text())
    return BY_TYPE[config["model_type"]].from_hugging_face(config)


@cache
def imported(folder: str) -> Any:
    """Parameters in float32, and the function of their logits."""
    architecture = architecture_of(folder)
    model = architecture.build(Precision(compute="float32"))

    def logits(params: Any, inputs: ModelInputs) -> jax.Array:
        logits_BLV = model.apply(params, inputs).hidden_BLD @ model.unembed(params)
        return finish_logits(logits_BLV, vocab_size=model.vocab_size, soft_cap=model.soft_cap)[
            ..., : model.vocab_size
        ]

    with jax.set_mesh(under(ONE_DEVICE)):
        return load(architecture, open_folder(ROOT / folder), params="float32"), quick_jit(logits)


def logits_of(folder: str, *rows: np.ndarray) -> np.ndarray:
    """Of tokens, positions, segments."""
    params, logits = imported(folder)
    with jax.set_mesh(under(ONE_DEVICE)):
        return np.array(logits(params, ModelInputs(*(jnp.array(x, jnp.int32) for x in rows))))


def reference_of(folder: str) -> Any:
    return np.load(ROOT / folder / "ref.npz")


@EVERY_FOLDER
def test_logits_are_those_of_transformers(folder):
    reference = reference_of(folder)
    ids_BL = reference["ids"]
    positions_BL = np.broadcast_to(np.arange(ids_BL.shape[1]), ids_BL.shape)
    found_BLV = logits_of(folder, ids_BL, positions_BL, np.ones_like(ids_BL))
    assert np.abs(found_BLV - reference["logits"]).max() < 1e-4


@LLAMAS
def test_a_packed_row_has_the_logits_of_transformers_under_a_mask_of_blocks(folder):
    reference = reference_of(folder)
    ids_BL, positions_L, segments_L = (
        reference["ids"][:1],
        reference["packed_positions"],
        reference["packed_segments"],
    )
    found_BLV = logits_of(folder, ids_BL, positions_L[None], segments_L[None] + 1)
    assert np.abs(found_BLV[0] - reference["packed_logits"]).max() < 1e-4


@LLAMAS
def test_a_row_behind_padding_has_the_logits_of_transformers_with_its_mask(folder):
    reference = reference_of(folder)
    mask_BL = reference["left_mask"]
    positions_BL = np.maximum(np.cumsum(mask_BL, -1) - 1, 0)
    found_BLV = logits_of(folder, reference["left_ids"], positions_BL, mask_BL)
    assert np.abs(found_BLV - reference["left_logits"])[mask_BL == 1].max() < 1e-4


def tensors_in(path: Path) -> dict[str, tuple[Any, bytes]]:
    """Name → (dtype and shape, bytes) of a safetensors file."""
    data = path.read_bytes()
    n = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:n])
    header.pop("__metadata__", None)
    ends = {name: (entry.pop("data_offsets"), entry) for name, entry in header.items()}
    return {
        name: (entry, data[n + begin : n + end]) for name, ((begin, end), entry) in ends.items()
    }


@EVERY_FOLDER
def test_our_parameters_become_the_tensors_that_they_came_from_bit_by_bit(folder, tmp_path):
    dtype = json.loads((ROOT / folder / "config.json").read_text())["dtype"]
    with jax.set_mesh(under(ONE_DEVICE)):
        save(
            architecture_of(folder),
            imported(folder)[0],
            tmp_path / "out",
            dtype=dtype,
            max_shard_bytes=1 << 30,
            files={},
        )
    found = tensors_in(tmp_path / "out" / "model.safetensors")
    wanted = tensors_in(ROOT / folder / "model.safetensors")
    assert found == {name: widened(name, *tensor) for name, tensor in wanted.items()}


def widened(name: str, entry: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
    """A router bias in float32, as transformers reads it whatever its file has; other tensors as they are."""
    if not name.endswith(KEPT_FLOAT32) or entry["dtype"] != "BF16":
        return entry, data
    # the two bytes of a bfloat16 are the upper ones of the same number in float32
    halves = [data[i : i + 2] for i in range(0, len(data), 2)]
    return {**entry, "dtype": "F32"}, b"".join(b"\0\0" + half for half in halves)


def agree(ours: Any, theirs: Any) -> bool:
    """Ours may say more than theirs; transformers 5 refuses a float where it wants an int."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(name in ours and agree(ours[name], value) for name, value in theirs.items())
    return theirs is None or (ours == theirs and type(ours) is type(theirs))


@EVERY_FOLDER
def test_our_config_says_of_theirs_all_that_we_read(folder):
    architecture = architecture_of(folder)
    written, theirs = (
        architecture.to_hugging_face(),
        json.loads((ROOT / folder / "config.json").read_text()),
    )
    assert type(architecture).from_hugging_face(written) == architecture
    unused = (
        {"intermediate_size"} if "moe" in folder else set()
    )  # of dense layers, of which there are none
    assert {
        name for name in written.keys() & theirs.keys() if not agree(written[name], theirs[name])
    } <= unused


@EVERY_FOLDER
def test_a_config_in_the_fields_of_transformers_4_alone_says_the_same(folder):
    architecture = architecture_of(folder)
    old = {
        name: value
        for name, value in architecture.to_hugging_face().items()
        if name not in ("rope_parameters", "layer_types")
    }
    assert type(architecture).from_hugging_face(old) == architecture


@pytest.mark.parametrize(
    ("folder", "change"),
    [
        ("llama_tied", {"hidden_act": "gelu"}),
        ("llama_tied", {"attention_bias": True}),
        ("llama_tied", {"mlp_bias": True}),
        ("llama_tied", {"hidden_size": "32"}),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("qwen2", {"use_sliding_window": True}),
        ("qwen3", {"attention_bias": True}),
        ("qwen3", {"use_sliding_window": True}),
        ("gemma2", {"hidden_activation": "silu"}),
        ("gemma2", {"use_bidirectional_attention": True}),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("gemma3", {"final_logit_softcapping": 30.0}),
        (
            "gemma3",
            {
                "layer_types": [
                    *["sliding_attention", "full_attention"] * 3,
                    "full_attention",
                    "sliding_attention",
                ]
            },
        ),
        (
            "gemma3",
            {
                "rope_parameters": {
                    kind: {"rope_type": "linear", "factor": 2.0} for kind in LAYER_KINDS
                }
            },
        ),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
    ids=str,
)
def test_what_we_would_compute_differently_is_refused_by_its_name(folder, change):
    config = json.loads((ROOT / folder / "config.json").read_text())
    with pytest.raises(
        ValueError, match=rf"config.json .*({next(iter(change))}|rope of its sliding layers)"
    ):
        BY_TYPE[config["model_type"]].from_hugging_face({**config, **change})
