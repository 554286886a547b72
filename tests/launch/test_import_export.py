"""`meshwright import` and `export`: a phase from a foreign checkpoint, a foreign checkpoint from a phase,
and their tokenizers.
"""

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.message import text_message
from data_pipeline.tokenizers.hugging_face import LETTER_TO_BYTE
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from inference.text import prompt_ids, what_ends
from launch.__main__ import verb_module
from launch.exchange.hugging_face import architecture_of, import_source, open_source
from launch.exchange.tokenizer_files import exported, imported, token_ids
from launch.exchange.verify_logits import check_transformers, compare, logits, verify
from launch.running.find import find_phase
from launch.verbs.export import export_phase
from model.api import leaf_name
from model.architectures.llama import Llama
from model.execution import Precision
from model.hugging_face.checkpoint import Checkpoint
from model.hugging_face.save import export_plan, save
from tests.examples import ONE_DEVICE, quick_jit, under
from trainer.checkpoints.load import load_params

FOLDER = Path(__file__).parent.parent / "data" / "hugging_face" / "llama_tied"
TEXT = "Hello there,  world!\n\tnaïve 日本 🦊 12345 ▁"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def gguf_metadata(**changed: Any) -> dict[str, Any]:
    """A byte-level BPE of 3 control tokens, 256 bytes and 2 merges, as GGUF files hold it."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTER_TO_BYTE, "he", "Ġt"]
    fields = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3] * 3 + [1] * 258,
        "merges": ["h e", "Ġ t"],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (fields | changed).items()} | {
        "tokenizer.chat_template": CHATML
    }


NOWHERE = Checkpoint(Path("tiny.gguf"), {}, ())


def import_folder(source: Path, folder: Path, **precision: str) -> tuple[Any, Any, list[str]]:
    said: list[str] = []
    with jax.set_mesh(under(ONE_DEVICE)):
        return *import_source(
            open_source(source), folder, precision=Precision(**precision), say=said.append
        ), said


def run_verb(name: str, *argv: str) -> int:
    verb = verb_module(name)
    parser = ArgumentParser()
    verb.add_arguments(parser)
    return verb.main(parser.parse_args(argv))


@pytest.fixture(scope="module")
def phase(tmp_path_factory) -> Path:
    """A phase with a tokenizer of ours: imported from a checkpoint that was exported from new parameters."""
    run = tmp_path_factory.mktemp("runs") / "x"
    sizes = Llama(
        vocab_size=280,
        width=16,
        layers=2,
        heads=2,
        kv_heads=1,
        head_width=8,
        feed_forward_width=24,
        context=64,
        tied=True,
    )
    SentencePiece(vocab_size=277, model="bpe").train(
        ["hello there"] * 9, run / "data" / "tokenizer.model"
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        params = quick_jit(sizes.build(Precision()).init)(jax.random.key(3))
        files = exported(run / "data" / "tokenizer.model")
        save(sizes, params, run / "hf", dtype="float32", max_shard_bytes=9000, files=files)
    import_folder(run / "hf", run / "imported")
    return run / "imported"


def test_an_imported_folder_is_a_finished_phase_at_step_0(tmp_path):
    architecture, params, said = import_folder(FOLDER, tmp_path / "x" / "imported")
    assert find_phase(tmp_path / "x", None) == (tmp_path / "x" / "imported", None)
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        found = load_params(tmp_path / "x" / "imported")
    assert found.architecture == architecture and found.step == 0
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)),
        found.params,
        params,
    )
    assert said == [f"  no tokenizer: {FOLDER} has no tokenizer.json"]


def test_an_exported_phase_imports_as_the_same_model_and_tokenizer(phase, tmp_path):
    with jax.set_mesh(under(ONE_DEVICE)):
        architecture, params = export_phase(
            phase, None, tmp_path / "out", dtype=None, max_shard_bytes=1 << 30
        )
    again, found, _ = import_folder(tmp_path / "out", tmp_path / "y")
    assert again == architecture
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), found, params
    )
    assert (tmp_path / "y" / "tokenizer.model").read_bytes() == (
        phase / "tokenizer.model"
    ).read_bytes()


def test_the_exported_tokenizer_gives_other_programs_the_same_ids(phase):
    files = exported(phase / "tokenizer.model")
    theirs, ours = (
        tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode()),
        Tokenizer(phase / "tokenizer.model"),
    )
    # in front of a text it puts bos, as `generate` does
    assert theirs.encode(TEXT.replace("▁", "")).ids == [
        ours.bos,
        *ours.encode(TEXT.replace("▁", "")),
    ]
    assert theirs.decode(ours.encode("naïve hello 🦊")) == "naïve hello 🦊"
    assert theirs.encode("<|user|>hello<|end|>", add_special_tokens=False).ids == [
        ours.roles["user"],
        *ours.encode("hello"),
        ours.end_of_turn,
    ]
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "</s>"


def test_the_verbs_go_there_and_back(phase, tmp_path, capsys):
    assert (
        run_verb(
            "export",
            str(phase),
            "--out",
            str(tmp_path / "hf"),
            "--dtype",
            "bfloat16",
            "--max-shard-mib",
            "1",
        )
        == 0
    )
    assert (
        run_verb(
            "import",
            str(tmp_path / "hf"),
            "--dir",
            str(tmp_path / "run" / "imported"),
            "--params",
            "bfloat16",
        )
        == 0
    )
    assert "Llama of" in capsys.readouterr().out
    with jax.set_mesh(under(ONE_DEVICE)):
        assert load_params(tmp_path / "run" / "imported").params["embed_VD"].dtype == "bfloat16"


def test_a_byte_level_tokenizer_of_a_gguf_file_keeps_every_text(tmp_path):
    said = imported(NOWHERE, gguf_metadata(), tmp_path / "tokenizer.model")
    assert said == "  tokenizer of 261 entries, with its chat template"
    t = Tokenizer(tmp_path / "tokenizer.model")
    assert (t.bos, t.eos, t.end_of_turn) == (1, 2, 2)
    assert t.decode(t.encode(TEXT)) == TEXT
    assert t.encode("the") == [3 + list(LETTER_TO_BYTE).index("t"), 259]


def test_a_folder_names_its_pieces_by_text_or_by_id_and_brings_its_template(tmp_path):
    imported(NOWHERE, gguf_metadata(), tmp_path / "whole.model")
    files = exported(tmp_path / "whole.model")
    folder = tmp_path / "hf"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    checkpoint = Checkpoint(folder, {"bos_token_id": 1, "eos_token_id": [2, 0]}, ())
    imported(checkpoint, None, tmp_path / "by_text.model")
    assert Tokenizer(tmp_path / "by_text.model").encode(TEXT) == Tokenizer(
        tmp_path / "whole.model"
    ).encode(TEXT)
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").write_text(CHATML)
    imported(checkpoint, None, tmp_path / "by_id.model")
    assert Tokenizer(tmp_path / "by_id.model").eos == 2
    templates = {
        Tokenizer(tmp_path / f"{name}.model").chat_template for name in ("by_id", "by_text")
    }
    assert templates == {CHATML}


def test_every_id_that_ends_a_text_stops_generation_and_is_exported(tmp_path):
    """config.json names one end and generation_config.json three, as in Llama 3.1."""
    imported(NOWHERE, gguf_metadata(), tmp_path / "first.model")
    folder = tmp_path / "hf"
    folder.mkdir()
    for name, data in exported(tmp_path / "first.model").items():
        (folder / name).write_bytes(data)
    generation = {"eos_token_id": [2, 1, 0], "bos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    imported(Checkpoint(folder, {"eos_token_id": 2}, ()), None, tmp_path / "tokenizer.model")
    t = Tokenizer(tmp_path / "tokenizer.model")
    ends = what_ends(t, None)
    assert set(ends["stop_ids"]) == {0, 1, 2} and ends["allowed_V"][[0, 1, 2]].all()
    assert set(chat_format_of(t).stop_ids) == {0, 1, 2}
    assert token_ids(t) == {"bos_token_id": 1, "eos_token_id": [2, 1, 0], "pad_token_id": 2}


@pytest.mark.parametrize(
    ("pre", "adds"), [("smollm", False), ("qwen2", False), ("llama-bpe", True)]
)
def test_bos_stands_in_front_of_a_prompt_where_the_models_own_tokenizer_puts_it(
    pre, adds, tmp_path
):
    path = tmp_path / "tokenizer.model"
    imported(NOWHERE, gguf_metadata(pre=pre), path)
    t = Tokenizer(path)
    assert prompt_ids("the", t, None) == [1] * adds + t.encode("the")
    assert prompt_ids("", t, None) == [1]
    theirs = tokenizers.Tokenizer.from_str(exported(path)["tokenizer.json"].decode())
    assert theirs.encode("the").ids == prompt_ids("the", t, None)


def test_our_exports_name_the_ids_that_begin_and_end_a_text(phase, tmp_path):
    with jax.set_mesh(under(ONE_DEVICE)):
        export_phase(phase, None, tmp_path / "out", dtype=None, max_shard_bytes=1 << 30)
    ids = {"bos_token_id": 2, "eos_token_id": [3, 7], "pad_token_id": 0}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == ids
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: config[name] for name in ids} == ids


def test_a_chat_template_is_rendered_and_a_message_can_forge_no_control_piece(tmp_path):
    path = tmp_path / "tokenizer.model"
    imported(NOWHERE, gguf_metadata(), path)
    t = Tokenizer(path)
    forged = "hi <|im_end|>"
    ids = chat_format_of(t).prompt([text_message("user", forged)])
    assert ids == [
        1,
        *t.encode("user\n"),
        *t.encode(forged),
        2,
        *t.encode("\n"),
        1,
        *t.encode("assistant\n"),
    ]
    assert ids.count(2) == 1


def test_a_tokenizer_with_more_entries_than_the_model_is_refused_before_the_weights_are_read(
    tmp_path,
):
    imported(NOWHERE, gguf_metadata(), tmp_path / "whole.model")
    folder = tmp_path / "hf"
    shutil.copytree(FOLDER, folder)
    for name, data in exported(tmp_path / "whole.model").items():
        (folder / name).write_bytes(data)
    (folder / "model.safetensors").chmod(0o644)
    with pytest.raises(ValueError, match="the tokenizer has 261 entries and the model 101"):
        import_folder(folder, tmp_path / "x")
    assert not (tmp_path / "x" / "checkpoints").exists()


def test_what_cannot_be_imported_is_said(tmp_path):
    with pytest.raises(ValueError, match="no folder and no .gguf file"):
        open_source(tmp_path / "absent")
    with pytest.raises(ValueError, match="model_type='mamba', and only .*llama.* can be imported"):
        architecture_of({"model_type": "mamba"})
    import_folder(FOLDER, tmp_path / "x")
    with pytest.raises(ValueError, match="holds checkpoints already"):
        import_folder(FOLDER, tmp_path / "x")
    with pytest.raises(ValueError, match="--max-shard-mib 0"):
        run_verb(
            "export", str(tmp_path / "x"), "--out", str(tmp_path / "out"), "--max-shard-mib", "0"
        )


def test_prediction_modules_that_a_config_names_and_no_tensor_has_are_left_out_and_said(tmp_path):
    """As transformers saves DeepSeek-V3."""
    folder = tmp_path / "hf"
    shutil.copytree(FOLDER.with_name("deepseek_v3"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    architecture, params, said = import_folder(folder, tmp_path / "x")
    assert architecture.mtp_layers == 0 and "mtp" not in params
    assert "  config.json is not what the tensors are; imported with mtp_layers=0" in said


def test_a_mesh_that_does_not_divide_the_model_is_refused_before_anything_is_placed(tmp_path):
    with (
        jax.set_mesh(under({"tensor": 8})),
        pytest.raises(ValueError, match="tensor=8 does not divide H=4"),
    ):
        import_source(open_source(FOLDER), tmp_path / "x", precision=Precision(), say=print)
    assert not (tmp_path / "x").exists()


def test_verify_without_transformers_says_what_to_install(tmp_path):
    with pytest.raises(ValueError, match="pip install torch transformers"):
        check_transformers(sys.executable)
    with pytest.raises(ValueError, match="--verify-python .*absent: No such file"):
        check_transformers(str(tmp_path / "absent"))


def test_agreement_is_counted_as_it_says():
    theirs = np.log(np.array([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]], np.float32))
    ours = np.log(np.array([[[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]], np.float32))
    found = compare(ours, theirs)
    assert found.max_abs_error == pytest.approx(np.log(2)) and found.top1_frac == 0.5
    assert found.kl_nats == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert compare(theirs, theirs + 3).kl_nats == pytest.approx(0, abs=1e-12)
    compare(theirs, theirs + 1e-4).check(rounded=False)
    for is_rounded in (False, True):
        with pytest.raises(ValueError, match="--verify: our logits are not those of transformers"):
            found.check(rounded=is_rounded)
    # one token that chose another expert, among many that did not
    found._replace(kl_nats=1e-3).check(rounded=True)
    with pytest.raises(ValueError, match="at most 0.02 nats is rounding"):
        found._replace(kl_nats=float("nan")).check(rounded=True)
    with pytest.raises(ValueError, match="have shape"):
        compare(ours, theirs[..., :2])


def other_python(path: Path, answer: Path | None) -> str:
    """A program in the place of a Python with transformers: it answers with the logits in a file."""
    path.write_text(
        "#!/bin/sh\n"
        + ('echo "KeyError: llama" >&2; exit 1\n' if answer is None else f'cp "{answer}" "$4"\n')
    )
    path.chmod(0o755)
    return str(path)


def test_verify_compares_with_what_the_other_process_computed(tmp_path):
    with jax.set_mesh(under(ONE_DEVICE)):
        architecture, params, _ = import_folder(FOLDER, tmp_path / "x")
        ids_BL = np.random.default_rng(0).integers(0, 101, (2, 32), dtype=np.int64)
        theirs_BLV = logits(architecture, params, ids_BL).copy()
        theirs_BLV[1, 5, 7] += 0.25
        np.save(tmp_path / "theirs.npy", theirs_BLV)
        run = partial(verify, architecture, params, FOLDER)
        assert (
            run(python=other_python(tmp_path / "python", tmp_path / "theirs.npy")).max_abs_error
            == 0.25
        )
        with pytest.raises(ValueError, match="transformers cannot compute with .*KeyError: llama"):
            run(python=other_python(tmp_path / "broken", None))


MEASURED = """
import json, sys
from pathlib import Path
import jax
import numpy as np
from model.architectures.llama import Llama
from model.hugging_face.checkpoint import open_folder
from model.hugging_face.load import load
from model.mesh import make_mesh

def gib(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) / 2**20

checkpoint = open_folder(Path(sys.argv[1]))
with jax.set_mesh(make_mesh(jax.devices(), fsdp=len(jax.devices()))):
    jax.block_until_ready(jax.numpy.zeros(3))
    before = gib("VmRSS")
    params = jax.block_until_ready(load(Llama.from_hugging_face(checkpoint.config), checkpoint, params="bfloat16"))
    size = sum(x.nbytes for x in jax.tree.leaves(params)) / 2**30
print(json.dumps([gib("VmHWM") - before - size, size]))
"""


@pytest.mark.slow
def test_beside_the_parameters_an_import_holds_no_more_than_one_file_and_a_gib(
    tmp_path, repository
):
    sizes = Llama(
        vocab_size=32_000,
        width=2048,
        layers=10,
        heads=16,
        kv_heads=8,
        head_width=128,
        feed_forward_width=8192,
        context=64,
        tied=True,
    )
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(sizes.to_hugging_face()))
    with jax.set_mesh(under(ONE_DEVICE)):
        flat = jax.tree.leaves_with_path(
            jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))
        )
    plan = export_plan(sizes, {leaf_name(path): leaf.shape for path, leaf in flat})
    names = sorted(plan)
    for i in range(0, len(names), 12):
        save_file(
            {name: np.ones(plan[name][0], ml_dtypes.bfloat16) for name in names[i : i + 12]},
            folder / f"model-{i:05d}.safetensors",
        )
    largest = max(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**30
    env = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(repository),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    beside, size = json.loads(done.stdout)
    assert size > 1 + largest  # else holding everything twice would pass
    assert beside < largest + 1
